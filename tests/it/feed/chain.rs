//! How the feed keeps the order while many events are under way: each is stored right behind the one before it, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::json;
use tokio::time::sleep;
use wasmwiz_tests::{
    chance::Chance,
    guests,
    harness::Launch,
    load::Load,
    nats::{NatsCluster, NatsServer, Received, STREAM, delivered},
    wait,
};

use super::{CLIENTS, fed, recorded, until_equal};

/// How many messages were sent in chains: each lies right behind the one that it names.
fn chained(messages: &[Received]) -> anyhow::Result<usize> {
    let chained: Vec<_> = messages.iter().filter_map(|message| Some((message.sequence, message.behind?))).collect();
    for (sequence, behind) in &chained {
        ensure!(behind + 1 == *sequence, "the message {sequence} was to be behind {behind}");
    }
    eprintln!("{} of {} messages were sent in chains", chained.len(), messages.len());
    Ok(chained.len())
}

/// Somebody who should not write to the stream, and may.
const FOREIGN: &str = "foreign";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_most_events_are_sent_each_right_behind_the_one_before() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let node = fed(&server)?.start().await?;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let load = Load::begin(&node.client()?, &echo, CLIENTS, &mut Chance::new(1));
    sleep(Duration::from_secs(2)).await;
    ensure!(!load.end().await?.answered.is_empty(), "the node did not serve");
    let messages = until_equal(&node, &server).await?;
    ensure!(chained(&messages)? > messages.len() / 2, "few of {} were sent in chains", messages.len());
    Ok(())
}

/// Writes to the stream, until it is told to stop. How many it has written.
async fn write(server: &NatsServer, stop: &AtomicBool) -> anyhow::Result<u64> {
    let client = async_nats::connect(server.url()).await?;
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{FOREIGN}-{written}"));
        headers.insert("Content-Type", "application/json");
        let body = json!({"source": format!("/tenants/{FOREIGN}")}).to_string();
        let subject = format!("wasmwiz.v1.{FOREIGN}.events.{written}.happened");
        client.publish_with_headers(subject, headers, body.into()).await?;
        written += 1;
        sleep(Duration::from_millis(1)).await;
    }
    client.flush().await?;
    Ok(written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_somebody_else_who_writes_to_the_stream_nothing_is_missing_and_events_are_sent_one_by_one()
-> anyhow::Result<()> {
    let server = Arc::new(NatsServer::started().await?);
    let node = fed(&server)?.start().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        async move { write(&server, &stop).await }
    });
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let load = Load::begin(&node.client()?, &echo, CLIENTS, &mut Chance::new(2));
    sleep(Duration::from_secs(2)).await;
    ensure!(!load.end().await?.answered.is_empty(), "the node did not serve");
    stop.store(true, Ordering::Relaxed);
    let written = writing.await??;
    let recorded = recorded(&node.data())?;
    let count = recorded.values().map(Vec::len).sum::<usize>() as u64;
    wait::until("all events in the stream", wait::SOON, async || {
        Ok((server.stream().await?.cached_info().state.messages >= count + written).then_some(()))
    })
    .await?;
    let (foreign, events): (Vec<Received>, Vec<_>) =
        server.messages().await?.into_iter().partition(|message| message.event["source"] == "/tenants/foreign");
    ensure!(written > 100 && foreign.len() as u64 == written, "{} of {written} foreign messages", foreign.len());
    let sorted =
        |ids: &BTreeMap<String, Vec<String>>| -> BTreeSet<String> { ids.values().flatten().cloned().collect() };
    let (had, sent) = (sorted(&recorded), sorted(&delivered(&events)));
    ensure!(had == sent, "missing are {:?}", had.difference(&sent).collect::<Vec<_>>());
    // Once it is known that there is somebody, each event of a tenant waits for the one before it.
    let alone = events.iter().rposition(|message| message.behind.is_some()).map_or(0, |last| last + 1);
    eprintln!("{} events beside {written} of somebody else, {alone} until that was known", events.len());
    ensure!(alone < events.len() / 2, "{alone} of {} events until it was known", events.len());
    for (tenant, ids) in delivered(&events[alone..]) {
        let all = recorded.get(&tenant).context("a tenant that is not recorded")?;
        ensure!(all.ends_with(&ids), "events of {tenant} that were sent one by one are in another order");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_copies_has_every_event_in_order_when_its_leader_is_killed() -> anyhow::Result<()> {
    let mut nats = NatsCluster::started(3).await?;
    let launch = Launch::dev()?
        .variable("WASMWIZ_FEED__NATS__URL", nats.url())
        .variable("WASMWIZ_FEED__REPLICAS", "3")
        .variable("WASMWIZ_FEED__MAX_BYTES", "67108864")
        .variable("WASMWIZ_FEED__ACK_TIMEOUT_MS", "1000")
        .variable("WASMWIZ_FEED__PAUSE_MAX_MS", "200");
    let node = launch.start().await?;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let load = Load::begin(&node.client()?, &echo, CLIENTS, &mut Chance::new(3));
    for _ in 0..2 {
        let leader =
            wait::until("a leader of the feed's stream", wait::SOON, async || nats.leader(STREAM).await).await?;
        sleep(Duration::from_secs(1)).await;
        nats.kill9(leader);
        sleep(Duration::from_millis(500)).await;
        nats.start(leader).await?;
    }
    ensure!(!load.end().await?.answered.is_empty(), "the node did not serve");
    let all = wait::until("every event in the stream, in order", wait::SOON, async || {
        let Ok(messages) = nats.messages().await else { return Ok(None) };
        Ok((delivered(&messages) == recorded(&node.data())?).then_some(messages))
    });
    ensure!(chained(&all.await?)? > 0, "none was sent in a chain");
    Ok(())
}
