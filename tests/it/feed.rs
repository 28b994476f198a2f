//! The feed of events to a real nats-server: nothing is lost, nothing overtakes, and nobody waits for it.

mod beside;
mod chain;
mod contract;
mod cut_off;
mod damage;
mod permissions;
mod subscribers;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, ensure};
use async_nats::jetstream;
use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::sleep;
use wasmwiz_tests::{
    chance::{Chance, setting},
    cpu, guests,
    harness::{Launch, NodeProcess},
    history::History,
    load::Load,
    memory,
    nats::{NatsServer, Received, STREAM, delivered},
    wait,
};

/// How often the node or the bus is killed, if the variable does not say otherwise.
const CYCLES: (&str, u64) = ("WASMWIZ_TESTS_FEED_CYCLES", 8);

/// Clients at work meanwhile.
const CLIENTS: u64 = 6;

/// The most of one CPU that an idle node takes while its bus is away: one attempt a pause, and no more.
const IDLE_CPU_MAX: f64 = 0.1;

/// How much more memory a node may take than one without a feed, while its bus is away and while it catches up, in bytes:
/// several windows, and what the allocator keeps of them.
const GROWTH_MAX_BYTES: u64 = 64 << 20;

/// How to start a node that feeds this server. Its stream is small: the server reserves it on the disk of the tests.
fn fed(server: &NatsServer) -> anyhow::Result<Launch> {
    Ok(Launch::dev()?
        .variable("WASMWIZ_FEED__NATS__URL", server.url())
        .variable("WASMWIZ_FEED__MAX_BYTES", "67108864")
        .variable("WASMWIZ_FEED__PAUSE_MAX_MS", "200"))
}

async fn check(node: &NodeProcess) -> anyhow::Result<Value> {
    let health: Value = node.client()?.get("/health").await?.json()?;
    Ok(health["checks"]["feed"].clone())
}

/// Waits until the health check of the feed says this.
async fn until_feed(node: &NodeProcess, status: &str, text: &str) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let seen = wait::until("the feed's health", wait::SOON, async || {
        last = check(node).await?;
        let message = last["message"].as_str().unwrap_or_default();
        Ok((last["status"] == status && message.contains(text)).then(|| last.clone()))
    })
    .await;
    seen.with_context(|| format!("the last was {last}, not {status} with {text:?}"))
}

/// The ids of all events of the log, by tenant, in their order.
fn recorded(data: &Path) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    Ok(History::read(data)?.ids)
}

/// Waits until the stream has every event of the log, each tenant's in order, and nothing else.
async fn until_equal(node: &NodeProcess, server: &NatsServer) -> anyhow::Result<Vec<Received>> {
    let mut difference = String::new();
    let messages = wait::until("every event in the stream", wait::SOON, async || {
        let recorded = recorded(&node.data())?;
        let count = recorded.values().map(Vec::len).sum::<usize>();
        let Ok(stream) = server.stream().await else {
            difference = "there is no stream".to_owned();
            return Ok(None);
        };
        let stored = stream.cached_info().state.messages;
        if stored < count as u64 {
            difference = format!("{count} events are recorded, {stored} are in the stream");
            return Ok(None);
        }
        let messages = server.messages().await?;
        let delivered = delivered(&messages);
        let wrong = recorded.iter().find(|(tenant, events)| delivered.get(*tenant) != Some(events));
        difference =
            wrong.map(|(tenant, _)| format!("the events of {tenant} are in another order")).unwrap_or_default();
        Ok((recorded == delivered).then_some(messages))
    })
    .await;
    messages.with_context(|| difference)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_every_event_arrives_and_a_tenants_in_order() -> anyhow::Result<()> {
    let mut chance = Chance::printed()?;
    let cycles = setting(CYCLES.0, CYCLES.1)?;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let mut server = NatsServer::started().await?;
    let mut node = fed(&server)?.start().await?;
    let mut answered = 0;
    for cycle in 1..=cycles {
        let load = Load::begin(&node.client()?, &echo, CLIENTS, &mut chance);
        sleep(Duration::from_millis(chance.within(50..300))).await;
        if cycle % 2 == 0 {
            node.kill9().await?;
            answered += load.end().await?.answered.len();
            node.restart().await?;
        } else {
            server.kill9();
            sleep(Duration::from_millis(chance.within(20..200))).await;
            server.start().await?;
            answered += load.end().await?.answered.len();
        }
    }
    let messages = until_equal(&node, &server).await?;
    ensure!(answered as u64 > cycles, "too few answers to show anything");
    eprintln!("{cycles} kills, {answered} answers, {} messages", messages.len());
    Ok(())
}

#[tokio::test]
async fn a_message_is_the_stored_cloud_event_on_the_subject_of_what_happened() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let node = fed(&server)?.start().await?;
    let execution = node.client()?.execute("echo", "hello").await?;
    let messages = until_equal(&node, &server).await?;
    let subject = format!("wasmwiz.v1.dev.executions.{}.finished", execution.id);
    let finished = messages.iter().find(|message| message.subject == subject).context("no message of the execution")?;
    assert_eq!(finished.content_type, "application/cloudevents+json");
    assert_eq!(finished.event["id"], finished.id.as_str());
    assert_eq!(finished.event["type"], "dev.wasmwiz.execution.finished.v1");
    assert_eq!(finished.event["specversion"], "1.0");
    // How far it is, it tells when it keeps its checkpoint.
    let told = wait::until("metrics of a feed without a lag", wait::SOON, async || {
        let metrics = node.admin()?.get("/metrics").await?.text();
        let is_told = |line: &str| metrics.lines().any(|found| found == line);
        Ok((is_told("wasmwiz_feed_connected 1") && is_told("wasmwiz_feed_lag_commits 0")).then_some(()))
    });
    told.await
}

/// The memory that a node takes after it has served many, in bytes.
async fn loaded(node: &NodeProcess) -> anyhow::Result<u64> {
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let load = Load::begin(&node.client()?, &echo, CLIENTS, &mut Chance::new(1));
    sleep(Duration::from_secs(4)).await;
    let taken = memory::resident_bytes(node.ready().pid)?;
    let got = load.end().await?;
    ensure!(got.unanswered == 0 && !got.answered.is_empty(), "the node did not serve");
    Ok(taken)
}

#[tokio::test]
async fn without_a_bus_the_node_serves_in_bounded_memory_and_the_feed_catches_up_later() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("")?;
    let node = fed(&server)?.start().await?;
    let client = node.client()?;
    client.get("/readyz").await?.expect(StatusCode::OK)?;
    let failing = until_feed(&node, "failing", "cannot be reached").await?;
    ensure!(failing["message"].to_string().contains("feed.nats.url"), "no remedy: {failing}");
    let (idle, before) = (Duration::from_secs(3), cpu::spent(node.ready().pid)?);
    sleep(idle).await;
    let spent = cpu::spent(node.ready().pid)? - before;
    eprintln!("without a bus an idle node took {spent:?} of CPU in {idle:?}");
    ensure!(spent < idle.mul_f64(IDLE_CPU_MAX), "a node without a bus took {spent:?} of CPU in {idle:?}");
    let after = loaded(&node).await?;
    let without = loaded(&Launch::dev()?.start().await?).await?;
    eprintln!("memory after a load: {without} bytes without a feed, {after} without a bus");
    ensure!(after < without + GROWTH_MAX_BYTES, "{after} bytes of memory, and {without} without a feed");
    server.start().await?;
    let mut most = after;
    wait::until("the end of the feed", wait::SOON, async || {
        most = most.max(memory::resident_bytes(node.ready().pid)?);
        Ok((check(&node).await?["message"] == "connected, 0 commits behind").then_some(()))
    })
    .await?;
    eprintln!("memory while it caught up: at most {most} bytes");
    ensure!(most < after + GROWTH_MAX_BYTES, "memory grew from {after} to {most}");
    until_equal(&node, &server).await.map(drop)
}

#[tokio::test]
async fn a_node_that_ends_has_sent_what_it_recorded() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let mut node = fed(&server)?.start().await?;
    until_feed(&node, "ok", "connected").await?;
    for _ in 0..20 {
        node.client()?.execute("echo", "hello").await?;
    }
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let (recorded, delivered) = (recorded(&node.data())?, delivered(&server.messages().await?));
    assert_eq!(delivered, recorded);
    Ok(())
}

#[tokio::test]
async fn a_stream_with_other_settings_is_said_and_not_overwritten() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let client = async_nats::connect(server.url()).await?;
    let other =
        jetstream::stream::Config { name: STREAM.into(), subjects: vec!["wasmwiz.>".into()], ..Default::default() };
    jetstream::new(client).create_stream(other).await?;
    let node = fed(&server)?.start().await?;
    until_feed(&node, "failing", "has other settings (subjects is").await?;
    assert_eq!(server.stream().await?.cached_info().config.subjects, ["wasmwiz.>"]);
    Ok(())
}

#[tokio::test]
async fn a_server_without_room_for_the_stream_is_said() -> anyhow::Result<()> {
    let mut server = NatsServer::configured("jetstream { store_dir: \"store\", max_file_store: 1MB }")?;
    server.start().await?;
    let node = fed(&server)?.start().await?;
    until_feed(&node, "failing", "lower feed.max_bytes").await.map(drop)
}

#[tokio::test]
async fn a_full_stream_is_said_and_the_feed_goes_on_once_there_is_room() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let launch = fed(&server)?.variable("WASMWIZ_FEED__MAX_BYTES", "16384").variable("WASMWIZ_FEED__DISCARD", "new");
    let node = launch.start().await?;
    for _ in 0..10 {
        node.client()?.execute("echo", "hello").await?;
    }
    until_feed(&node, "failing", "the stream is full").await?;
    let stream = server.stream().await?;
    wait::until("the end of the feed", wait::SOON, async || {
        stream.purge().await?;
        let feed = check(&node).await?;
        Ok((feed["message"] == "connected, 0 commits behind").then_some(()))
    })
    .await
}

#[tokio::test]
async fn wrong_credentials_are_said_and_right_ones_are_taken_without_a_restart() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("authorization { user: feed, password: right }")?;
    server.start().await?;
    let folder = tempfile::tempdir()?;
    let password = folder.path().join("password");
    std::fs::write(&password, "wrong\n")?;
    let launch = fed(&server)?
        .variable("WASMWIZ_FEED__NATS__USER", "feed")
        .variable("WASMWIZ_FEED__NATS__PASSWORD_FILE", &password);
    let node = launch.start().await?;
    until_feed(&node, "failing", "refuses the credentials").await?;
    std::fs::write(&password, "right\n")?;
    until_feed(&node, "ok", "connected, 0 commits behind").await.map(drop)
}
