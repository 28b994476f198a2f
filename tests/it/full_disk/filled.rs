//! A disk that one tenant fills with what it has run, beside others: all are read as before, what was accepted ends, nothing is lost,
//! and with more room everything goes on.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use wasmwiz_events::{digest::Digest, execution::Outcome, id::ExecutionId};
use wasmwiz_tests::{
    chance::Chance,
    cli,
    client::Client,
    disk::SmallDisk,
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    load::Answered,
    promises,
    tenants::register,
    wait::{self, SOON},
};

use super::{MIB, until_answered};

/// What a data folder may take at first, and what the disk has beside that, in bytes: taken until somebody makes room.
const FOLDER: u64 = 256 * MIB;
const BESIDE: u64 = 96 * MIB;

/// The node's bounds and its reserve, in bytes. What is under way at a time is a fraction of the difference between the first two.
const LOW: u64 = 64 * MIB;
const LEAST: u64 = 32 * MIB;
const RESERVE: u64 = 16 * MIB;

/// What the tenant that fills the disk has echoed at a time: no two of them have the same bytes, and each is stored once.
const INPUT: usize = 2 << 20;
const AT_ONCE: usize = 4;

/// After so many turns the folder would have all its bytes.
const TURNS_MAX: u64 = FOLDER / (AT_ONCE * INPUT) as u64;

/// What other tenants have echoed, in bytes: more than rides with a commit.
const OTHERS_INPUT: usize = 100_000;

type AllAnswered = BTreeMap<ExecutionId, Answered>;

/// Has a node echo; `None` where it has no room for that.
async fn echo(client: &Client, input: Vec<u8>) -> anyhow::Result<Option<Answered>> {
    let digest = Digest::of(&input);
    let answer = client.post_bytes("/v1/modules/echo/executions", input).await?;
    if answer.status == StatusCode::INSUFFICIENT_STORAGE {
        answer.refuses(507, "node-storage-full")?;
        return Ok(None);
    }
    let shown = answer.is(200)?;
    ensure!(shown["outcome"] == "succeeded", "{}: {}", shown["outcome"], shown["message"]);
    let id = shown["id"].as_str().context("no id")?.parse()?;
    Ok(Some(Answered { id, input: digest, outcome: Outcome::Succeeded, answer: shown }))
}

/// Lets `heavy` fill the disk, beside `other`, which is refused nothing before, and gives what both were answered.
async fn fill(heavy: &Client, other: &Client, chance: &mut Chance) -> anyhow::Result<(AllAnswered, AllAnswered)> {
    let (mut of_heavy, mut of_other) = (AllAnswered::new(), AllAnswered::new());
    for _ in 0..TURNS_MAX {
        let inputs: Vec<_> = (0..AT_ONCE).map(|_| chance.bytes(INPUT)).collect();
        let light = chance.bytes(OTHERS_INPUT);
        let heavy = join_all(inputs.into_iter().map(|input| echo(heavy, input)));
        let (heavy, light) = tokio::join!(heavy, echo(other, light));
        let heavy = heavy.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let (is_full, light) = (heavy.iter().any(Option::is_none), light?);
        ensure!(is_full || light.is_some(), "another tenant was refused before the one that fills the disk");
        of_heavy.extend(heavy.into_iter().flatten().map(|answered| (answered.id, answered)));
        of_other.extend(light.map(|answered| (answered.id, answered)));
        reads(other, &of_other).await?;
        if is_full {
            return Ok((of_heavy, of_other));
        }
    }
    bail!("the disk is not full")
}

/// The first and the last of these executions have their outputs, the list has all, and what else is read is there.
async fn reads(client: &Client, answered: &AllAnswered) -> anyhow::Result<()> {
    for path in ["/v1/modules/echo", "/v1/usage", "/v1/audit", "/v1/keys"] {
        client.get(path).await?.is(200).with_context(|| path.to_owned())?;
    }
    let some = [answered.first_key_value(), answered.last_key_value()];
    for (id, Answered { input, .. }) in some.into_iter().flatten() {
        let output = client.get(&format!("/v1/executions/{id}/stdout")).await?.expect(StatusCode::OK)?;
        ensure!(Digest::of(&output.body) == *input, "{id} has another output");
    }
    let listed = promises::listed(client).await?;
    ensure!(answered.keys().all(|id| listed.contains_key(id)), "executions are missing in the list");
    Ok(())
}

/// Asks for an execution that nobody waits for, and gives its path.
async fn begin(client: &Client, module: &str, input: Vec<u8>) -> anyhow::Result<String> {
    let path = format!("/v1/modules/{module}/executions");
    let asked = client.request(Method::POST, &path).header("prefer", "respond-async");
    let asked = asked.header("content-type", "application/octet-stream").body(input);
    let accepted = client.send(asked).await?.is(202)?;
    Ok(format!("/v1/executions/{}", accepted["id"].as_str().context("no id")?))
}

async fn until_it_is(client: &Client, path: &str, member: &str, value: &str) -> anyhow::Result<()> {
    let what = format!("{path} to be {value}");
    let seen = wait::until(&what, SOON, async || {
        let shown = client.get(path).await?.is(200)?;
        Ok((shown[member] == value).then_some(()))
    });
    seen.await
}

/// A node whose basic tenants run one execution at a time, for as long as this test takes.
async fn start(disk: &SmallDisk) -> anyhow::Result<NodeProcess> {
    let launch = Launch::dev_on(&disk.path().join("data"))?
        .variable("WASMWIZ_DISK__LOW_BYTES", LOW.to_string())
        .variable("WASMWIZ_DISK__LEAST_BYTES", LEAST.to_string())
        .variable("WASMWIZ_DISK__RESERVE_BYTES", RESERVE.to_string())
        .variable("WASMWIZ_DISK__WATCH_MS", "20")
        .variable("WASMWIZ_TIERS__BASIC__EXECUTIONS_CONCURRENT", "1")
        .variable("WASMWIZ_TIERS__BASIC__WALL_MS", "300000");
    launch.start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_one_tenant_has_filled_is_read_loses_nothing_and_takes_more_when_there_is_room()
-> anyhow::Result<()> {
    let mebibytes = u32::try_from((FOLDER + BESIDE) / MIB)?;
    let Some(disk) = SmallDisk::mounted(mebibytes)? else {
        eprintln!("skipped: a file system in memory may not be mounted here");
        return Ok(());
    };
    // Given a node with 256 MiB, and three tenants: one of them has a guest under way, and behind it one that waits for its turn
    disk.fill_but(FOLDER)?;
    let (mut node, mut chance) = (start(&disk).await?, Chance::printed()?);
    let operator = node.operator()?;
    let mut clients = Vec::new();
    for (name, tier) in [("Heavy", "enterprise"), ("Other", "pro"), ("Waits", "basic")] {
        let client = register(&operator, name, tier).await?.client;
        client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
        clients.push(client);
    }
    let [heavy, other, waits] = &clients[..] else { bail!("there are three") };
    waits.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let sleeper = begin(waits, "endless-sleep", Vec::new()).await?;
    until_it_is(waits, &sleeper, "status", "running").await?;
    let late_input = chance.bytes(OTHERS_INPUT);
    let late = begin(waits, "echo", late_input.clone()).await?;

    // When one of them fills it, beside one that runs and reads, then all are refused more, and are read
    let (of_heavy, of_other) = fill(heavy, other, &mut chance).await?;
    ensure!(of_heavy.len() > 2 * AT_ONCE && of_other.len() > 2, "nothing has filled the disk");
    for (client, answered) in [(heavy, &of_heavy), (other, &of_other)] {
        ensure!(echo(client, b"more".to_vec()).await?.is_none(), "there is room");
        client.put_module("more", guests::EXIT7.wasm()?).await?.refuses(507, "node-storage-full")?;
        reads(client, answered).await?;
    }
    node.admin()?.get("/readyz").await?.is(200)?;

    // What was under way ends, and what waits for its turn goes on waiting
    waits.delete(&sleeper).await?.is(200)?;
    until_it_is(waits, &sleeper, "outcome", "cancelled").await?;
    let shown = waits.get(&late).await?.is(200)?;
    ensure!(shown["status"] == "queued", "it has begun: {shown}");

    // When there is more room, then the same process takes more of all, and what waited has its turn
    disk.make_room()?;
    let mut answered: AllAnswered = of_heavy.clone().into_iter().chain(of_other.clone()).collect();
    for client in [heavy, other] {
        let ran = wait::until("an execution", SOON, async || echo(client, b"with room".to_vec()).await).await?;
        answered.insert(ran.id, ran);
        client.put_module("more", guests::EXIT7.wasm()?).await?.is(201)?;
    }
    until_it_is(waits, &late, "outcome", "succeeded").await?;
    let output = waits.get(&format!("{late}/stdout")).await?.expect(StatusCode::OK)?;
    ensure!(output.body == late_input, "what waited has another output");
    ensure!(node.exit_status()?.is_none(), "the node has ended: {}", node.stderr());

    // When it is started on a disk without any room, then it is read, and takes more once there is some
    node.kill9().await?;
    disk.fill_but(0)?;
    node.restart().await?;
    let [heavy, other] = [heavy, other].map(|client| client.at(&node.ready().url));
    for (client, answered) in [(&heavy, &of_heavy), (&other, &of_other)] {
        ensure!(echo(client, b"without room".to_vec()).await?.is_none(), "there is room");
        reads(client, answered).await?;
    }
    node.admin()?.get("/readyz").await?.is(200)?;
    disk.make_room()?;
    until_answered("executions are run", 200, async || heavy.post_bytes("/v1/modules/echo/executions", "hello").await)
        .await?;

    // Then every execution has its one end, and every answer is in the log with its bytes
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    let history = History::read(&node.data())?;
    history.each_ended_once()?;
    let broken = promises::broken(&history, &node.data(), &answered);
    ensure!(broken.is_empty(), "{broken:?}");
    ensure!(cli::verify(&node.data()).await?.code == Some(0), "the log is not whole");
    Ok(())
}
