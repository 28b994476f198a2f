//! Versions that say how they run: published with each setting, run, and shown to be what was recorded.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use wasmwiz_events::{
    commit::Commit,
    digest::Digest,
    event::Event,
    execution::{Finished, Outcome, Output},
    ledger::Head,
    log::{Append, EventLog as _, ReadLimit, sqlite::SqliteLog},
    payload::Payload,
    revision::Position,
};
use wasmwiz_tests::{
    cli::{self, User},
    client::{Answer, Client},
    folder::copy_all,
    guests::{self, Guest},
    harness::{Launch, NodeProcess},
    tenants::{Tenant, register},
    wait,
};

/// A path with its query, if it has one.
fn asked(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

async fn publish(client: &Client, guest: Guest, query: &str) -> anyhow::Result<Answer> {
    let request = client.request(Method::PUT, &asked(format!("/v1/modules/{}", guest.name), query));
    client.send(request.header("content-type", "application/wasm").body(guest.wasm()?)).await
}

async fn ran(client: &Client, guest: Guest, query: &str) -> anyhow::Result<Value> {
    let path = asked(format!("/v1/modules/{}/executions", guest.name), query);
    client.post_bytes(&path, "who am I?").await?.is(200)
}

async fn is_reproduced(client: &Client, execution: &Value) -> anyhow::Result<Value> {
    let id = execution["id"].as_str().context("no id")?;
    let body = client.post_bytes(&format!("/v1/executions/{id}/verify"), "").await?.is(200)?;
    ensure!(body["reproduced"] == true && body["differences"] == json!([]), "{body}");
    ensure!(body["reproducibility"] == execution["reproducibility"], "{body}");
    Ok(body)
}

/// The one event of a type about this execution.
async fn recorded(client: &Client, execution: &Value, kind: &str) -> anyhow::Result<Value> {
    let id = execution["id"].as_str().context("no id")?;
    let listed = client.get_json(&format!("/v1/audit?type=dev.wasmwiz.execution.{kind}.v1&limit=200")).await?;
    let found = listed["items"].as_array().into_iter().flatten().find(|event| event["data"]["execution_id"] == id);
    Ok(found.context("not recorded")?["data"].clone())
}

async fn tenant(node: &NodeProcess) -> anyhow::Result<Tenant> {
    register(&node.operator()?, "Versions", "enterprise").await
}

#[tokio::test]
async fn a_version_runs_as_it_was_published_and_each_of_its_records_can_be_run_again() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = tenant(&node).await?;
    let client = &tenant.client;
    let default = json!({"sleep": "wait", "clock": "virtual", "metered": false, "fuel": null});

    // Without a word, as ever.
    let plain = publish(client, guests::CURIOUS, "").await?.is(201)?;
    ensure!(plain["settings"] == default && plain["version"] == 1, "{plain}");
    ensure!(publish(client, guests::CURIOUS, "sleep=wait&metered=false").await?.is(200)?["version"] == 1, "the same");

    // Nobody waits for its sleeps: one that sleeps for ever is out of fuel, or of time.
    let skips = publish(client, guests::CURIOUS, "sleep=skip").await?.is(201)?;
    ensure!(skips["settings"]["sleep"] == "skip" && skips["version"] == 2, "{skips}");
    ensure!(skips["digest"] == plain["digest"], "the same bytes: {skips}");
    let skipped = ran(client, guests::CURIOUS, "arg=one").await?;
    ensure!(skipped["reproducibility"] == "virtual-time" && skipped["module"]["version"] == 2, "{skipped}");
    ensure!(recorded(client, &skipped, "accepted").await?["sleep"] == "skip", "the record does not say so");
    is_reproduced(client, &skipped).await?;
    publish(client, guests::ENDLESS_SLEEP, "sleep=skip&metered=true&fuel=20000").await?.is(201)?;
    let ended = ran(client, guests::ENDLESS_SLEEP, "").await?;
    ensure!(ended["outcome"] == "out_of_fuel" && ended["usage"]["fuel"] == 20_000, "{ended}");
    is_reproduced(client, &ended).await?;
    publish(client, guests::ENDLESS_SLEEP, "sleep=skip").await?.is(201)?;
    let late = ran(client, guests::ENDLESS_SLEEP, "timeout_ms=100").await?;
    ensure!(late["outcome"] == "deadline_exceeded" && late["reproducibility"] == "unverifiable", "{late}");

    // Metered, with an amount of its own or with the usual one; a request may have less.
    publish(client, guests::ENDLESS_LOOP, "metered=true&fuel=100000").await?.is(201)?;
    let looped = ran(client, guests::ENDLESS_LOOP, "").await?;
    ensure!(looped["outcome"] == "out_of_fuel" && looped["fuel"] == 100_000, "{looped}");
    ensure!(is_reproduced(client, &looped).await?["checked"]["fuel"] == true, "fuel was not compared");
    ensure!(ran(client, guests::ENDLESS_LOOP, "fuel=70").await?["usage"]["fuel"] == 70, "not what was asked for");
    ensure!(ran(client, guests::ENDLESS_LOOP, "fuel=100001").await?["fuel"] == 100_000, "more than its version has");
    let usual = publish(client, guests::ECHO, "metered=true").await?.is(201)?;
    ensure!(usual["settings"]["metered"] == true && usual["settings"]["fuel"] == 1_000_000_000, "{usual}");
    let later = client.request(Method::POST, "/v1/modules/echo/executions").header("prefer", "respond-async");
    let begun = client.send(later.body("later")).await?.is(202)?;
    let at = format!("/v1/executions/{}", begun["id"].as_str().context("no id")?);
    let ended = wait::until("the end of an asynchronous execution", wait::SOON, async || {
        let shown = client.get_json(&at).await?;
        Ok(shown["finished_at"].is_string().then_some(shown))
    })
    .await?;
    ensure!(ended["fuel"] == 1_000_000_000 && ended["usage"]["fuel"].is_u64(), "{ended}");

    // The host's clocks, and what they said.
    let host = publish(client, guests::CURIOUS, "clock=host").await?.is(201)?;
    ensure!(host["settings"]["clock"] == "host" && host["version"] == 3, "{host}");
    let told = ran(client, guests::CURIOUS, "arg=one").await?;
    ensure!(told["reproducibility"] == "transcript" && told["deterministic"] == true, "{told}");
    let finished = recorded(client, &told, "finished").await?;
    // Four readings, and one by its sleep.
    ensure!(finished["trace_readings"] == 5 && finished["trace_digest"].is_string(), "{finished}");
    is_reproduced(client, &told).await?;
    // A rerun names the version, and runs as that one does: by the host's clocks, which have gone on.
    let id = told["id"].as_str().context("no id")?;
    let again =
        client.post_json(&format!("/v1/executions/{id}/rerun"), &json!({"as_recorded": true})).await?.is(200)?;
    ensure!(again["reproducibility"] == "transcript" && again["stdout"] != told["stdout"], "{again}");
    let first = client.post_json(&format!("/v1/executions/{id}/rerun"), &json!({"version": 1})).await?.is(200)?;
    ensure!(first["reproducibility"] == "virtual-time", "{first}");

    // Each version is shown with its own.
    let versions = client.get_json("/v1/modules/curious/versions").await?;
    let clocks: Vec<_> =
        versions["items"].as_array().into_iter().flatten().map(|it| &it["settings"]["clock"]).collect();
    ensure!(clocks == ["host", "virtual", "virtual"], "{versions}");
    ensure!(client.get_json("/v1/modules/curious").await?["settings"]["clock"] == "host", "the latest");
    Ok(())
}

#[tokio::test]
async fn settings_that_are_none_are_refused_each_with_what_to_do() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = tenant(&node).await?;
    for (query, at, said) in [
        ("sleep=never", "query:sleep", "wait or skip"),
        ("sleep=Skip", "query:sleep", "wait or skip"),
        ("clock=", "query:clock", "virtual or host"),
        ("metered=yes", "query:metered", "true"),
        ("fuel=10", "query:fuel", "needs metered=true"),
        ("metered=false&fuel=10", "query:fuel", "needs metered=true"),
        ("metered=true&fuel=0", "query:fuel", "from 1 to 1000000000000"),
        ("metered=true&fuel=1000000000001", "query:fuel", "from 1 to 1000000000000"),
        ("metered=true&fuel=-1", "query:fuel", "whole number"),
        ("sleep=skip&clock=host", "query:sleep", "needs clock=virtual"),
        ("sleep=skip&sleep=wait", "query:sleep", "once"),
        ("sleeps=skip", "query:sleeps", "sleep, clock, metered, fuel"),
    ] {
        let problem = publish(&tenant.client, guests::ECHO, query).await?.refuses(400, "invalid-query")?;
        let faults = problem["errors"].as_array().context("no errors")?;
        let fits = |fault: &Value| fault["at"] == at && fault["detail"].as_str().is_some_and(|it| it.contains(said));
        ensure!(faults.iter().any(fits), "{query}: {problem}");
    }
    tenant.client.get("/v1/modules/echo").await?.refuses(404, "module-not-found")?;

    // The command line says the same, and more of it before it asks.
    let (url, team) = (node.ready().url.clone(), User::new()?.variable("WASMWIZ_API_KEY", &tenant.key.secret));
    team.file("echo.wasm", guests::ECHO.wasm()?)?;
    let push = ["module", "push", "echo.wasm", "--url", &url];
    let with = |more: &[&'static str]| push.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    for (more, code, said) in [
        (&["--sleep", "never"][..], 2, "wait or skip"),
        (&["--fuel", "10"], 2, "--metered"),
        (&["--sleep", "skip", "--clock", "host"], 5, "needs clock=virtual"),
    ] {
        let ended = team.run(&with(more)).await?;
        ensure!(ended.code == Some(code) && ended.stderr.contains(said), "{more:?}: {ended:?}");
    }
    let pushed = team.run(&with(&["--sleep", "skip", "--metered", "--fuel", "5000", "--output", "json"])).await?;
    let module: Value = serde_json::from_str(&pushed.stdout).with_context(|| format!("{pushed:?}"))?;
    ensure!(
        module["settings"] == json!({"sleep": "skip", "clock": "virtual", "metered": true, "fuel": 5_000}),
        "{module}"
    );
    let listed = team.run(&["module", "list", "--url", &url]).await?;
    ensure!(listed.stdout.contains("sleep=skip fuel=5000"), "{listed:?}");
    Ok(())
}

#[tokio::test]
async fn where_the_operator_forbids_it_nobody_reads_the_hosts_clocks() -> anyhow::Result<()> {
    let node = Launch::dev()?.variable("WASMWIZ_TIERS__BASIC__HOST_CLOCK", "false").start().await?;
    let (tenant, operator) = (tenant(&node).await?, node.operator()?);
    let client = &tenant.client;
    publish(client, guests::CLOCK, "clock=host").await?.is(201)?;
    let told = ran(client, guests::CLOCK, "").await?;
    let id = told["id"].as_str().context("no id")?;
    operator.patch_json(&format!("/v1/tenants/{}", tenant.id), &json!({"tier": "basic"})).await?.is(200)?;
    // Neither another version nor another execution, whoever asks how; what is recorded is verified, which reads no clock.
    publish(client, guests::CURIOUS, "clock=host").await?.refuses(403, "host-clock-forbidden")?;
    client.post_bytes("/v1/modules/clock/executions", "").await?.refuses(403, "host-clock-forbidden")?;
    let again = format!("/v1/executions/{id}/rerun");
    client.post_json(&again, &json!({})).await?.refuses(403, "host-clock-forbidden")?;
    is_reproduced(client, &told).await?;
    publish(client, guests::CLOCK, "").await?.is(201)?;
    ensure!(
        ran(client, guests::CLOCK, "").await?["reproducibility"] == "virtual-time",
        "its own time is not forbidden"
    );
    Ok(())
}

#[tokio::test]
async fn an_auditor_finds_a_transcript_that_is_not_the_recorded_one() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let tenant = tenant(&node).await?;
    publish(&tenant.client, guests::CLOCK, "clock=host").await?.is(201)?;
    let told = ran(&tenant.client, guests::CLOCK, "").await?;
    ensure!(told["reproducibility"] == "transcript", "{told}");
    ensure!(node.terminate().await?.success(), "the node did not end well");

    let sound = rerun(&node.data(), &tenant.id).await?;
    ensure!(sound["reproduced"] == 1 && sound["wrong"] == 0, "{sound}");
    let whole = cli::verify(&node.data()).await?;
    ensure!(whole.code == Some(0), "{whole:?}");

    // Its bytes are others, under the recorded digest.
    let changed = tempfile::tempdir()?;
    forge(&node.data(), changed.path(), |_, transcript, fits| {
        *fits = false;
        transcript.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    })
    .await?;
    let found = rerun(changed.path(), &tenant.id).await?;
    let why = found["named"][0]["changed"].as_str().unwrap_or_default();
    ensure!(found["wrong"] == 1 && why.contains("transcript"), "{found}");
    ensure!(cli::verify(changed.path()).await?.code == Some(1), "a payload is not what its digest names");

    // And by somebody who knows how the log is made: another time, hashed anew. The guest says what it was told.
    let forged = tempfile::tempdir()?;
    forge(&node.data(), forged.path(), |_, transcript, _| {
        // The wall clock of the first reading, some 17 minutes later.
        transcript.iter_mut().skip(5).take(1).for_each(|byte| *byte = byte.wrapping_add(1));
    })
    .await?;
    let found = rerun(forged.path(), &tenant.id).await?;
    ensure!(found["wrong"] == 1 && found["named"][0]["execution_id"] == told["id"], "{found}");
    ensure!(found["named"][0]["differences"][0]["what"] == "stdout", "{found}");
    ensure!(cli::verify(forged.path()).await?.code == Some(0), "the forged chain is whole");
    // With fewer readings than the guest asks for, it comes to no end.
    let cut = tempfile::tempdir()?;
    forge(&node.data(), cut.path(), |_, transcript, _| transcript.clear()).await?;
    let found = rerun(cut.path(), &tenant.id).await?;
    ensure!(found["wrong"] == 1 && found["named"][0]["differences"][0]["what"] == "outcome", "{found}");
    Ok(())
}

/// Reads the clock twice, and says that it did.
const TWICE: Guest = Guest {
    name: "twice",
    text: r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 256)))
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 264)))
    (i32.store (i32.const 0) (i32.const 256))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
};

/// Asks for more memory than it may have, reads the clock twice, and traps.
const GREEDY: Guest = Guest {
    name: "greedy",
    text: r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (memory.grow (i32.const 65535)))
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 256)))
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 264)))
    unreachable))"#,
};

#[tokio::test]
async fn an_auditor_finds_a_record_that_was_made_to_fit_a_shorter_transcript() -> anyhow::Result<()> {
    for (guest, outcome) in [(TWICE, Outcome::Trapped), (GREEDY, Outcome::OutOfMemory)] {
        let mut node = NodeProcess::dev().await?;
        let tenant = tenant(&node).await?;
        publish(&tenant.client, guest, "clock=host").await?.is(201)?;
        let told = ran(&tenant.client, guest, "").await?;
        ensure!(told["reproducibility"] == "transcript", "{told}");
        ensure!(node.terminate().await?.success(), "the node did not end well");
        ensure!(rerun(&node.data(), &tenant.id).await?["reproduced"] == 1, "{}: the record is sound", guest.name);
        // Whoever forges it knows how a guest ends that is told no more: so the record says.
        let forged = tempfile::tempdir()?;
        forge(&node.data(), forged.path(), |finished, transcript, _| {
            transcript.truncate(16);
            (finished.outcome, finished.exit_code) = (outcome, None);
            if outcome == Outcome::Trapped {
                let said = "it read the clocks more often than its record has it";
                finished.message = Some(format!("the guest made a system call that cannot be answered: {said}"));
            }
            finished.stdout = Output { digest: Digest::of(b""), size_bytes: 0, truncated: false };
        })
        .await?;
        let found = rerun(forged.path(), &tenant.id).await?;
        ensure!(found["wrong"] == 1 && found["reproduced"] == 0, "{}: {found}", guest.name);
        let differences = found["named"][0]["differences"].as_array().context("none")?;
        let [only] = &differences[..] else { anyhow::bail!("{}: {found}", guest.name) };
        ensure!(only["what"] == "reproducibility", "{found}");
        ensure!(only["found"] == "asked for more than the 1 readings of its record", "{found}");
    }
    Ok(())
}

/// Counts to a number, with eight instructions for each.
macro_rules! counts_to {
    ($number:literal) => {
        Guest {
            name: "counts",
            text: concat!(
                r#"(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $n i32)
    (loop $more
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const "#,
                $number,
                "))))))"
            ),
        }
    };
}

const COUNTS: [Guest; 2] = [counts_to!(500), counts_to!(50_000)];

#[tokio::test]
async fn another_version_is_run_again_with_the_fuel_and_the_clock_that_are_its_own() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = tenant(&node).await?;
    let client = &tenant.client;
    let [little, much] = COUNTS;
    publish(client, little, "metered=true&fuel=100000").await?.is(201)?;
    let first = ran(client, little, "").await?;
    ensure!(first["outcome"] == "succeeded" && first["fuel"] == 100_000, "{first}");
    publish(client, much, "metered=true&fuel=1000000000").await?.is(201)?;
    publish(client, much, "").await?.is(201)?;
    let path = format!("/v1/executions/{}/rerun", first["id"].as_str().context("no id")?);
    for (wish, outcome, fuel) in [
        (json!({}), "succeeded", json!(100_000)),
        (json!({"version": 1}), "succeeded", json!(100_000)),
        (json!({"version": 2}), "succeeded", json!(1_000_000_000)),
        (json!({"version": 3}), "succeeded", Value::Null),
        (json!({"version": 2, "fuel": 100_000}), "out_of_fuel", json!(100_000)),
    ] {
        let again = client.post_json(&path, &wish).await?.is(200)?;
        ensure!(again["outcome"] == outcome && again["fuel"] == fuel, "{wish}: {again}");
    }

    // A version that reads the host's clocks is told another time: nothing is said of what it gives.
    publish(client, guests::CLOCK, "").await?.is(201)?;
    let recorded = ran(client, guests::CLOCK, "").await?;
    publish(client, guests::CLOCK, "clock=host").await?.is(201)?;
    client.get_json("/v1/executions?limit=1").await?;
    let (url, team) = (node.ready().url.clone(), User::new()?.variable("WASMWIZ_API_KEY", &tenant.key.secret));
    let back_test = ["module", "back-test", "clock", "--version", "2", "--output", "json", "--url", &url];
    let ended = team.run(&back_test).await?;
    let told: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(told["run"] == 0 && told["left"]["it read the host's clocks"] == 1, "{recorded}: {told}");
    ensure!(ended.code == Some(1), "none could be compared: {ended:?}");
    Ok(())
}

/// `wasmwiz audit re-run` of one tenant.
async fn rerun(data: &Path, tenant: &str) -> anyhow::Result<Value> {
    let data = data.to_string_lossy().into_owned();
    let ended = cli::run(["audit", "re-run", "--data", &data, "--tenant", tenant, "--output", "json"]).await?;
    serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))
}

/// Writes the log anew with another transcript. `falsify` changes what else its record says, and its bytes; whether the record is made to fit
/// them is the third.
async fn forge(data: &Path, to: &Path, falsify: impl Fn(&mut Finished, &mut Vec<u8>, &mut bool)) -> anyhow::Result<()> {
    fs::create_dir_all(to.join("log"))?;
    fs::create_dir_all(to.join("blobs"))?;
    copy_all(&data.join("blobs"), &to.join("blobs"))?;
    let from = Arc::new(SqliteLog::open(&data.join("log"), Default::default())?);
    let forged = Arc::new(SqliteLog::open(&to.join("log"), Default::default())?);
    let (mut heads, mut changed) = (std::collections::HashMap::<String, Head>::new(), 0);
    let (mut after, tail) = (Position::START, from.tail().await?);
    while after < tail {
        for recorded in from.read_all(after, ReadLimit::default()).await? {
            after = recorded.position;
            let header = recorded.commit.header();
            let (mut events, mut payloads) =
                (recorded.commit.events()?.to_vec(), from.payloads(recorded.position).await?);
            for envelope in &mut events {
                let Event::ExecutionFinished(finished) = &mut envelope.event else { continue };
                let Some(kept) = finished.transcript() else { continue };
                let payload = payloads.iter_mut().find(|payload| payload.digest() == kept.digest);
                let payload = payload.context("no transcript with its commit")?;
                let (mut bytes, mut fits) = (payload.bytes().to_vec(), true);
                let wrote = finished.stdout.digest;
                falsify(finished, &mut bytes, &mut fits);
                let digest = if fits { Digest::of(&bytes) } else { kept.digest };
                finished.trace_digest = Some(digest);
                finished.trace_readings = Some((bytes.len() / 16) as u64);
                *payload = Payload::with_digest(digest, bytes.into());
                if finished.stdout.digest != wrote {
                    payloads.retain(|payload| payload.digest() != wrote);
                }
                changed += 1;
            }
            let tenant = header.tenant.clone();
            let head = heads.entry(tenant.to_string()).or_insert_with(|| Head::genesis(&tenant));
            let (id, epoch, at) = (header.commit_id, header.owner_epoch, header.recorded_at);
            let commit = Commit::seal(head, tenant.clone(), id, epoch, at, events)?;
            *head = commit.head();
            forged.append(Append { commit, payloads }).await?;
        }
    }
    for log in [from, forged] {
        tokio::task::spawn_blocking(move || log.close()).await?;
    }
    ensure!(changed == 1, "{changed} transcripts were found");
    Ok(())
}
