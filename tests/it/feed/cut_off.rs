//! One run in which everything happens to the feed: its node is killed, its bus is killed, and the bus is cut off for a while, under
//! load, with a subscriber of each example attached to it all the time.

use std::{slice, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use rustix::process::Signal;
use tokio::time::Instant;
use wasmwiz_tests::{
    chance::{Chance, setting},
    fleet::{Callers, Said, said_what_is_recorded},
    guests,
    history::History,
    nats::NatsServer,
    subscriber::{Language, Subscriber},
    tenants::register,
    wait,
};

use super::{fed, until_equal};

/// How often the node is killed, and as often the bus, if the variable does not say otherwise.
const KILLS: (&str, u64) = ("WASMWIZ_TESTS_FEED_KILLS", 3);

/// For how many seconds nothing comes from the bus, if the variable does not say otherwise.
const CUT_SECONDS: (&str, u64) = ("WASMWIZ_TESTS_FEED_CUT_SECONDS", 3);

/// Callers of each of two tenants. Each rests between two requests: a subscriber, which syncs each event by itself, keeps up with them.
const CALLERS: usize = 1;

/// The most bytes of the stream: nothing is discarded of what twenty kills and a minute give.
const STREAM_BYTES: &str = "268435456";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_node_and_bus_killed_and_cut_off_both_subscribers_have_what_the_log_has() -> anyhow::Result<()> {
    let (kills, cut) = (setting(KILLS.0, KILLS.1)?, Duration::from_secs(setting(CUT_SECONDS.0, CUT_SECONDS.1)?));
    let (mut chance, folder) = (Chance::printed()?, tempfile::tempdir()?);
    let mut server = NatsServer::started().await?;
    let mut node = fed(&server)?.variable("WASMWIZ_FEED__MAX_BYTES", STREAM_BYTES).start().await?;
    let (operator, echo) = (node.operator()?, Bytes::from(guests::ECHO.wasm()?));
    let tenants = [register(&operator, "One", "enterprise").await?, register(&operator, "Other", "enterprise").await?];
    for tenant in &tenants {
        tenant.client.put_module("echo", echo.clone()).await?.is(201)?;
    }
    let subscribers = [
        Subscriber::start(Language::Python, &server.url(), folder.path())?,
        Subscriber::start(Language::Rust, &server.url(), folder.path())?,
    ];
    let callers = Callers::begin(slice::from_ref(&node), &tenants, CALLERS);

    for _ in 0..kills {
        callers.each_answered(chance.within(1..6)).await?;
        node.kill9().await?;
        node.restart().await?;
        callers.nodes_are(slice::from_ref(&node));
        callers.each_answered(chance.within(1..6)).await?;
        server.kill9();
        callers.each_answered(chance.within(1..6)).await.context("without a bus")?;
        server.start().await?;
    }
    // It stands still with its connections open: nobody is told, and nothing arrives.
    server.signal(Signal::STOP)?;
    let (since, mut meanwhile) = (Instant::now(), 0_u64);
    while since.elapsed() < cut {
        callers.each_answered(1).await.context("while the bus is cut off")?;
        meanwhile += 1;
    }
    server.signal(Signal::CONT)?;
    callers.each_answered(2).await?;

    let calls = callers.end().await?;
    let history = wait::until("every execution to have ended", wait::SOON, async || {
        let history = History::read(&node.data())?;
        Ok((history.open() == 0).then_some(history))
    });
    let history = history.await?;
    history.each_ended_once()?;
    said_what_is_recorded(&calls, &history)?;
    let unanswered = calls.iter().find(|call| matches!(call.said, Said::Nothing(_)));
    ensure!(unanswered.is_none(), "a request was not answered: {unanswered:?}");
    for subscriber in &subscribers {
        subscriber.until_equal(&history.ids).await?;
    }
    let messages = until_equal(&node, &server).await?;
    let (answers, events) = (calls.len(), messages.len());
    eprintln!(
        "{kills} kills of the node and {kills} of the bus, {cut:?} without it ({meanwhile} rounds of answers): {answers} \
         answers, {events} events at both subscribers"
    );
    Ok(())
}
