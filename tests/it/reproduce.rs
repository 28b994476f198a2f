//! Executions that are run again from their records: by a node, and by an auditor without one.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{StreamExt as _, stream};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use wasmwiz_events::{
    commit::Commit,
    digest::Digest,
    event::Event,
    execution::{Accepted, Seed},
    ledger::Head,
    log::{Append, EventLog as _, ReadLimit, sqlite::SqliteLog},
    revision::Position,
};
use wasmwiz_tests::{
    chance::{Chance, setting},
    cli::{self, Ended, User},
    client::{Answer, Client},
    folder::copy_all,
    guests::{self, Guest},
    harness::{Launch, NodeProcess},
    tenants::{only, register},
    wait,
};

/// How many executions are run and run again, if the variable does not say otherwise.
const EXECUTIONS: (&str, u64) = ("WASMWIZ_TESTS_REPRODUCED", 500);

/// How many records are falsified, if the variable does not say otherwise: one of each kind.
const FALSE_RECORDS: (&str, u64) = ("WASMWIZ_TESTS_FALSIFIED", FALSIFIED.len() as u64);

/// How many guests of somebody else run at any time while the node verifies, if the variable does not say otherwise.
const BESIDE: (&str, u64) = ("WASMWIZ_TESTS_BESIDE", 2);

/// How long a command may take to run so many again. Generous: it is only spent when the test fails.
fn within(count: u64) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(200 * count)
}

/// Guests whose end follows from their record.
const REPRODUCIBLE: [Guest; 11] = [
    guests::ECHO,
    guests::GREETER,
    guests::CLOCK,
    guests::CURIOUS,
    guests::DEEP_RECURSION,
    guests::EXIT7,
    guests::OUT_OF_BOUNDS,
    guests::RANDOM,
    guests::STDERR,
    guests::STDOUT_MEGABYTES,
    guests::TRAP,
];

/// What falsifies a record, one after the other.
const FALSIFIED: [&str; 6] = ["output", "input", "seed", "module", "exit code", "fuel"];

async fn verified(client: &Client, id: &str) -> anyhow::Result<Answer> {
    client.post_bytes(&format!("/v1/executions/{id}/verify"), "").await
}

#[tokio::test]
async fn a_record_is_run_again_and_what_came_of_it_is_recorded() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Proof", "enterprise").await?;
    let client = &tenant.client;
    for guest in [guests::CURIOUS, guests::ENDLESS_LOOP, guests::ENDLESS_SLEEP] {
        client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
    }
    let ran = client.post_bytes("/v1/modules/curious/executions?arg=one&arg=two", "who am I?").await?.is(200)?;
    ensure!(ran["reproducibility"] == "virtual-time" && ran["deterministic"] == true, "{ran}");
    let id = ran["id"].as_str().context("no id")?;

    let body = verified(client, id).await?.is(200)?;
    ensure!(body["reproduced"] == true && body["differences"] == Value::Array(vec![]), "{body}");
    for what in ["outcome", "exit_code", "stdout", "stderr", "peak_memory", "reproducibility"] {
        ensure!(body["checked"][what] == true, "{what}: {body}");
    }
    let listed = client.get_json("/v1/audit?limit=200").await?;
    let events = listed["items"].as_array().context("no events")?;
    let recorded = events.iter().filter(|event| event["type"] == "dev.wasmwiz.execution.verified.v1");
    let [event] = &recorded.collect::<Vec<_>>()[..] else { anyhow::bail!("not recorded once: {listed}") };
    ensure!(event["data"]["execution_id"] == id && event["data"]["reproduced"] == true, "{event}");

    // Its module's name is gone, and its bytes are kept: the record stands for itself.
    client.delete("/v1/modules/curious").await?.is(204)?;
    ensure!(verified(client, id).await?.is(200)?["reproduced"] == true, "without its name");

    // By somebody who may read, and by nobody else.
    verified(&only(client, "executions:read").await?, id).await?.is(200)?;
    verified(&only(client, "usage:read").await?, id).await?.refuses(403, "missing-scope")?;
    let other = register(&node.operator()?, "Other", "enterprise").await?;
    verified(&other.client, id).await?.refuses(404, "execution-not-found")?;
    verified(client, "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f").await?.refuses(404, "execution-not-found")?;

    // What its record does not decide is refused, and why is said.
    let late = client.post_bytes("/v1/modules/endless-loop/executions?timeout_ms=50", "").await?.is(200)?;
    ensure!(late["reproducibility"] == "unverifiable" && late["deterministic"] == false, "{late}");
    let refused = verified(client, late["id"].as_str().context("no id")?).await?.refuses(409, "not-verifiable")?;
    ensure!(refused["reason"] == "unverifiable", "{refused}");
    let begun = client.request(Method::POST, "/v1/modules/endless-sleep/executions");
    let begun = client.send(begun.header("prefer", "respond-async")).await?.is(202)?;
    verified(client, begun["id"].as_str().context("no id")?).await?.refuses(409, "execution-running")?;
    Ok(())
}

#[tokio::test]
async fn a_guest_that_is_metered_ends_at_the_same_instruction_in_every_run() -> anyhow::Result<()> {
    const FUEL: u64 = 100_000;
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Metered", "enterprise").await?;
    let client = &tenant.client;
    for guest in [guests::ENDLESS_LOOP, guests::ECHO] {
        client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
    }
    // What the clock would end says nothing. What fuel ends does.
    let path = format!("/v1/modules/endless-loop/executions?fuel={FUEL}");
    let ran = client.post_bytes(&path, "").await?.is(200)?;
    let is_out_of_fuel = |ran: &Value, fuel: u64| {
        ran["outcome"] == "out_of_fuel" && ran["usage"]["fuel"] == fuel && ran["deterministic"] == true
    };
    ensure!(is_out_of_fuel(&ran, FUEL), "{ran}");
    let id = ran["id"].as_str().context("no id")?;
    let body = verified(client, id).await?.is(200)?;
    ensure!(body["reproduced"] == true && body["checked"]["fuel"] == true, "{body}");

    // One that is made of its record is metered as well, with as much or with what is asked for.
    let again = format!("/v1/executions/{id}/rerun");
    let same = client.post_bytes(&again, "").await?.is(200)?;
    ensure!(is_out_of_fuel(&same, FUEL) && same["rerun_of"] == id, "{same}");
    let less = client.post_json(&again, &json!({"fuel": 7})).await?.is(200)?;
    ensure!(is_out_of_fuel(&less, 7), "{less}");
    for bad in [json!({"fuel": 0}), json!({"fuel": -1}), json!({"fuel": "7"}), json!({"fuel": 1_000_000_000_001_u64})] {
        client.post_json(&again, &bad).await?.refuses(400, "invalid-body")?;
    }

    // Enough of it changes nothing, and says how much it was. Also where nobody waits.
    let plain = client.post_bytes("/v1/modules/echo/executions", "some input").await?.is(200)?;
    ensure!(plain["usage"]["fuel"].is_null(), "{plain}");
    let metered = client.request(Method::POST, "/v1/modules/echo/executions?fuel=1000000").body("some input");
    let begun = client.send(metered.header("prefer", "respond-async")).await?.is(202)?;
    let at = format!("/v1/executions/{}", begun["id"].as_str().context("no id")?);
    let ended = wait::until("the end of an asynchronous execution", wait::SOON, async || {
        let shown = client.get_json(&at).await?;
        Ok(shown["finished_at"].is_string().then_some(shown))
    })
    .await?;
    ensure!(ended["stdout"] == plain["stdout"] && ended["fuel"] == 1_000_000 && plain["fuel"].is_null(), "{ended}");
    let awaited = client.post_bytes("/v1/modules/echo/executions?fuel=50000", "some input").await?.is(200)?;
    let used = ended["usage"]["fuel"].as_u64().context("it was not metered")?;
    ensure!(used > 0 && awaited["usage"]["fuel"] == used, "{awaited}");

    // The command line says so, too.
    let (url, team) = (node.ready().url.clone(), User::new()?.variable("WASMWIZ_API_KEY", &tenant.key.secret));
    let ended = team.run(&["run", "--module", "endless-loop", "--fuel", "100000", "--url", &url]).await?;
    ensure!(ended.code == Some(152) && ended.stderr.contains("fuel 100000"), "{ended:?}");
    Ok(())
}

/// Executions of all kinds, at random; how many.
async fn recorded(client: &Client, count: u64) -> anyhow::Result<()> {
    for guest in REPRODUCIBLE.into_iter().chain([guests::MEMORY_BOMB]) {
        client.put_module(guest.name, guest.wasm()?).await?;
    }
    let mut chance = Chance::printed()?;
    let requests: Vec<_> = (0..usize::try_from(count)?)
        .map(|number| {
            let mut below = |end: usize| usize::try_from(chance.within(0..end as u64)).unwrap_or_default();
            // One that takes all the memory it may have takes its time.
            let guest = match REPRODUCIBLE.get(number) {
                Some(guest) => *guest,
                None if below(50) == 0 => guests::MEMORY_BOMB,
                None => REPRODUCIBLE[below(REPRODUCIBLE.len())],
            };
            // Large ones are kept as blobs, and not with their commit.
            let length = if below(20) == 0 { 70_000 } else { 1 + below(300) };
            let is_asynchronous = below(10) == 0;
            let mut path = format!("/v1/modules/{}/executions?arg={}", guest.name, below(1_000));
            if below(5) == 0 {
                // Enough for most of them, and for some not.
                path.push_str(&format!("&fuel={}", 1 + below(200_000)));
            }
            (path, chance.bytes(length), is_asynchronous)
        })
        .collect();
    let mut running = stream::iter(requests)
        .map(|(path, input, is_asynchronous)| async move {
            if !is_asynchronous {
                return client.post_bytes(&path, input).await?.is(200);
            }
            let begun = client.request(Method::POST, &path).header("prefer", "respond-async").body(input);
            let begun = client.send(begun).await?.is(202)?;
            let at = format!("/v1/executions/{}", begun["id"].as_str().unwrap_or_default());
            wait::until("the end of an asynchronous execution", wait::SOON, async || {
                let shown = client.get_json(&at).await?;
                Ok(shown["finished_at"].is_string().then_some(shown))
            })
            .await
        })
        .buffer_unordered(16);
    while let Some(ran) = running.next().await {
        let ran = ran?;
        ensure!(ran["deterministic"] == true, "{ran}");
    }
    Ok(())
}

/// One whose module came with the request, and is of no name.
async fn uploaded(client: &Client) -> anyhow::Result<()> {
    let part = Part::bytes(guests::CURIOUS.wasm()?).file_name("curious.wasm");
    let form = Form::new().part("wasm", part).text("input", "as it is").text("arg", "one");
    let ran = client.send(client.request(Method::POST, "/v1/executions").multipart(form)).await?.is(200)?;
    ensure!(ran["reproducibility"] == "virtual-time", "{ran}");
    Ok(())
}

/// Somebody else's guests, so many at any time and without an end. They want all of the processor that they get.
async fn neighbours(client: &Client, count: u64) -> anyhow::Result<()> {
    client.put_module("endless-loop", guests::ENDLESS_LOOP.wasm()?).await?.is(201)?;
    let mut running = stream::repeat(())
        .map(|()| client.post_bytes("/v1/modules/endless-loop/executions?timeout_ms=1000", ""))
        .buffer_unordered(usize::try_from(count)?);
    while let Some(ran) = running.next().await {
        ran?.is(200)?;
    }
    Ok(())
}

/// `wasmwiz audit re-run` of so many, as an auditor has it: no node, and no settings.
async fn rerun(data: &Path, count: u64) -> anyhow::Result<(Ended, Value)> {
    let data = data.to_string_lossy().into_owned();
    let ended = cli::run_within(within(count), ["audit", "re-run", "--data", &data, "--output", "json"]).await?;
    let report = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    Ok((ended, report))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_said_to_be_reproducible_is_and_a_falsified_record_is_found() -> anyhow::Result<()> {
    let count = setting(EXECUTIONS.0, EXECUTIONS.1)?;
    // Room for all that take what memory they may have, at the same time: it is what they ask for that counts, and not what they touch.
    let launch = Launch::dev()?.variable("WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES", (64_u64 << 30).to_string());
    let mut node = launch.start().await?;
    let tenant = register(&node.operator()?, "Proof", "enterprise").await?;
    recorded(&tenant.client, count).await?;
    uploaded(&tenant.client).await?;
    let count = count + 1;

    // By the node, as a team has it done, once it lists the ends of all.
    tenant.client.get_json("/v1/executions?limit=1").await?;
    let (url, team) = (node.ready().url.clone(), User::new()?.variable("WASMWIZ_API_KEY", &tenant.key.secret));
    let other = register(&node.operator()?, "Beside", "enterprise").await?;
    let beside = neighbours(&other.client, setting(BESIDE.0, BESIDE.1)?);
    let verify = ["exec", "verify", "--all", "--output", "json", "--url", &url];
    let ended = tokio::select! {
        ended = team.run_within(within(count), &verify) => ended?,
        ended = beside => anyhow::bail!("what ran beside ended: {ended:?}"),
    };
    let summary: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(ended.code == Some(0) && summary["reproduced"] == count && summary["verified"] == count, "{summary}");

    // By an auditor, from what the node has left behind.
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let (ended, report) = rerun(&node.data(), count).await?;
    ensure!(ended.code == Some(0) && report["wrong"] == 0, "{ended:?}");
    ensure!(report["reproduced"].as_u64() >= Some(count), "{report}");
    eprintln!("{count} executions: by the node in {} s, by an auditor in {} s", summary["seconds"], report["seconds"]);

    // Somebody who knows how the log is made hashes it anew, with records that are not true.
    let forged = tempfile::tempdir()?;
    let falsified = forge(&node.data(), forged.path(), &tenant.id).await?;
    let (ended, report) = rerun(forged.path(), count).await?;
    let named: Vec<_> = report["named"].as_array().context("none named")?.iter().collect();
    for (what, id) in &falsified {
        ensure!(named.iter().any(|named| named["execution_id"] == **id), "{what} of {id} was not found: {report}");
    }
    ensure!(ended.code == Some(1) && named.len() == falsified.len(), "{ended:?}");
    let sound = cli::verify(forged.path()).await?;
    ensure!(sound.code == Some(0), "the forged chain is whole, and only running it again shows it: {sound:?}");

    // Somebody who does not know how: a byte of an input or an output, with its digest as it was.
    let changed = tempfile::tempdir()?;
    copy_all(&node.data(), changed.path())?;
    let rows = rusqlite::Connection::open(changed.path().join("log/events.db"))?;
    // A digest, a length, then that many bytes.
    let some = "SELECT position, payloads FROM commits WHERE substr(payloads, 33, 4) <> x'00000000' LIMIT 1";
    let (position, mut payloads): (i64, Vec<u8>) = rows.query_row(some, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    *payloads.get_mut(36).context("no bytes")? ^= 1;
    rows.execute("UPDATE commits SET payloads = ?1 WHERE position = ?2", (payloads, position))?;
    drop(rows);
    let (ended, report) = rerun(changed.path(), count).await?;
    ensure!(ended.code == Some(1) && report["wrong"] == 1, "{report}");
    let why = report["named"][0]["changed"].as_str().unwrap_or_default();
    ensure!(why.contains("are not the"), "{report}");
    Ok(())
}

/// Writes the log anew with falsified records of each kind in turn. Which, by what was falsified.
async fn forge(data: &Path, to: &Path, tenant: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
    fs::create_dir_all(to.join("log"))?;
    copy_all(&data.join("blobs"), &to.join("blobs"))?;
    let from = Arc::new(SqliteLog::open(&data.join("log"), Default::default())?);
    let forged = Arc::new(SqliteLog::open(&to.join("log"), Default::default())?);
    let wanted = usize::try_from(setting(FALSE_RECORDS.0, FALSE_RECORDS.1)?)?;
    let mut left: Vec<_> = FALSIFIED.into_iter().cycle().take(wanted).collect();
    let mut falsified = Vec::new();
    let mut heads = HashMap::<String, Head>::new();
    let (mut after, tail) = (Position::START, from.tail().await?);
    while after < tail {
        for recorded in from.read_all(after, ReadLimit::default()).await? {
            after = recorded.position;
            let (commit, header) = (&recorded.commit, recorded.commit.header());
            let mut events = commit.events()?.to_vec();
            if header.tenant.as_str() == tenant {
                for envelope in &mut events {
                    let Some(what) = left.last().copied() else { break };
                    let Some(id) = about(&envelope.event) else { continue };
                    // One execution is falsified in one way only.
                    if falsified.iter().all(|(_, known)| *known != id) && falsify(what, &mut envelope.event) {
                        falsified.push((what, id));
                        left.pop();
                    }
                }
            }
            let tenant = header.tenant.clone();
            let head = heads.entry(tenant.to_string()).or_insert_with(|| Head::genesis(&tenant));
            let (id, epoch, at) = (header.commit_id, header.owner_epoch, header.recorded_at);
            let commit = Commit::seal(head, tenant.clone(), id, epoch, at, events)?;
            *head = commit.head();
            let mut payloads = from.payloads(recorded.position).await?;
            let named: Vec<_> = commit.events()?.iter().flat_map(|envelope| digests(&envelope.event)).collect();
            payloads.retain(|payload| named.contains(&payload.digest()));
            forged.append(Append { commit, payloads }).await?;
        }
    }
    for log in [from, forged] {
        tokio::task::spawn_blocking(move || log.close()).await?;
    }
    ensure!(left.is_empty(), "nothing to falsify was found for {left:?}");
    Ok(falsified)
}

/// The execution that an event begins or ends.
fn about(event: &Event) -> Option<String> {
    match event {
        Event::ExecutionAccepted(accepted) => Some(accepted.execution_id.to_string()),
        Event::ExecutionFinished(finished) => Some(finished.execution_id.to_string()),
        _ => None,
    }
}

/// Makes an event untrue, if it is one of the kind that is wanted.
fn falsify(what: &str, event: &mut Event) -> bool {
    match (what, event) {
        ("output", Event::ExecutionFinished(finished)) if finished.stdout.size_bytes > 0 => {
            finished.stdout.truncated = !finished.stdout.truncated;
        }
        ("fuel", Event::ExecutionFinished(finished)) if finished.fuel.is_some() => {
            finished.fuel = finished.fuel.map(|fuel| fuel + 1);
        }
        ("exit code", Event::ExecutionFinished(finished)) if finished.exit_code == Some(7) => {
            finished.exit_code = Some(6);
        }
        ("input", Event::ExecutionAccepted(accepted)) if runs(accepted, "echo") && accepted.stdin.size_bytes > 0 => {
            (accepted.stdin.digest, accepted.stdin.size_bytes) = (Digest::of(b""), 0);
        }
        ("seed", Event::ExecutionAccepted(accepted)) if runs(accepted, "random") => {
            accepted.seed = Seed::new([0; 16]);
        }
        ("module", Event::ExecutionAccepted(accepted)) if runs(accepted, "stderr") => {
            let Ok(other) = guests::TRAP.wasm() else { return false };
            accepted.module.digest = Digest::of(&other);
        }
        _ => return false,
    }
    true
}

/// The payloads that an event names.
fn digests(event: &Event) -> Vec<Digest> {
    match event {
        Event::ExecutionAccepted(accepted) => vec![accepted.stdin.digest],
        Event::ExecutionFinished(finished) => vec![finished.stdout.digest, finished.stderr.digest],
        _ => vec![],
    }
}

fn runs(accepted: &Accepted, module: &str) -> bool {
    accepted.module.name.as_ref().is_some_and(|name| name.as_str() == module)
}
