//! The example subscribers, run as their guide says, on a bus and in processes that are killed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::time::sleep;
use wasmwiz_tests::{
    chance::{Chance, setting},
    guests,
    load::Load,
    nats::NatsServer,
    subscriber::{Language, Subscriber},
    tenants::register,
};

use super::{fed, recorded};

/// How often the bus is killed, and one of the subscribers, if the variable does not say otherwise.
const CYCLES: (&str, u64) = ("WASMWIZ_TESTS_SUBSCRIBER_CYCLES", 4);

/// Clients at work meanwhile, of each of two tenants.
const CLIENTS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_handle_every_event_once_and_in_order_whatever_is_killed() -> anyhow::Result<()> {
    let mut chance = Chance::printed()?;
    let cycles = setting(CYCLES.0, CYCLES.1)?;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let folder = tempfile::tempdir()?;
    let mut server = NatsServer::started().await?;
    let node = fed(&server)?.start().await?;
    let other = register(&node.operator()?, "Other", "enterprise").await?;
    other.client.put_module("echo", echo.clone()).await?.is(201)?;
    let mut subscribers = [
        Subscriber::start(Language::Python, &server.url(), folder.path())?,
        Subscriber::start(Language::Rust, &server.url(), folder.path())?,
    ];
    let mut answered = 0;
    for cycle in 0..cycles {
        let loads =
            [node.client()?, other.client.clone()].map(|client| Load::begin(&client, &echo, CLIENTS, &mut chance));
        sleep(Duration::from_millis(chance.within(100..500))).await;
        server.kill9();
        let killed = subscribers.get_mut(usize::from(cycle % 2 == 1)).context("no subscriber")?;
        killed.restart().await?;
        sleep(Duration::from_millis(chance.within(20..200))).await;
        server.start().await?;
        for load in loads {
            answered += load.end().await?.answered.len();
        }
    }
    let recorded = recorded(&node.data())?;
    for subscriber in &subscribers {
        subscriber.until_equal(&recorded).await?;
    }
    ensure!(answered as u64 > cycles, "too few answers to show anything");
    eprintln!("{cycles} kills, {answered} answers, {} events", recorded.values().map(Vec::len).sum::<usize>());
    Ok(())
}
