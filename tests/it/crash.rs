//! A node that is killed at any moment: what it answered is recorded, and what it accepted has one end.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use wasmwiz_events::{digest::Digest, execution::Outcome, id::ExecutionId};
use wasmwiz_tests::{
    chance::{Chance, setting},
    cli,
    client::Client,
    guests,
    harness::NodeProcess,
    history::History,
    load::{Answered, Load},
    promises,
    times::Times,
    wait,
};

mod asynchronous;
mod between;
mod large_log;

/// Clients at work when the node is killed.
const CLIENTS: u64 = 16;

/// How often it is killed, if the variable does not say otherwise.
const CYCLES: (&str, u64) = ("WASMWIZ_TESTS_CRASH_CYCLES", 100);

/// Every so many cycles the log is read in full while the node runs.
const READ_EVERY: u64 = 20;

/// How many answers are asked for a second time at the end, when many restarts lie between.
const ASKED_AGAIN: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_a_node_keeps_what_it_answered_and_ends_what_it_accepted() -> anyhow::Result<()> {
    let mut chance = Chance::printed()?;
    let cycles = setting(CYCLES.0, CYCLES.1)?;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let mut node = NodeProcess::dev().await?;
    let (mut answered, mut restarts, mut unanswered) = (BTreeMap::new(), Times::default(), 0);
    for cycle in 1..=cycles {
        let load = Load::begin(&node.client()?, &echo, CLIENTS, &mut chance);
        sleep(Duration::from_millis(chance.within(20..200))).await;
        node.kill9().await?;
        let got = load.end().await?;
        ensure!(got.refused.is_empty(), "cycle {cycle}: a request was refused: {:?}", got.refused.first());
        unanswered += got.unanswered;
        let begun = Instant::now();
        node.restart().await?;
        ensure!(node.client()?.get("/readyz").await?.status == 200, "cycle {cycle}: the node serves and is not ready");
        restarts.push(begun.elapsed());
        // Half of what was just answered is asked for at once, while the node is still looking for what it lost.
        let all_again = node.client()?;
        for answer in got.answered.iter().step_by(2) {
            is_answered_alike(&all_again, answer).await.with_context(|| format!("cycle {cycle}"))?;
        }
        for answer in got.answered {
            ensure!(answered.insert(answer.id, answer.clone()).is_none(), "{} was given twice", answer.id);
        }
        if cycle % READ_EVERY == 0 {
            are_recorded(&node, &answered).await.with_context(|| format!("cycle {cycle}"))?;
        }
    }
    let history = are_recorded(&node, &answered).await?;
    let client = node.client()?;
    for answer in answered.values().step_by((answered.len() / ASKED_AGAIN).max(1)) {
        is_answered_alike(&client, answer).await?;
    }
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let verified = cli::verify(&node.data()).await?;
    ensure!(verified.code == Some(0), "the history is not intact: {} {}", verified.stdout, verified.stderr);
    let (lost, accepted) = (history.ended(Outcome::Lost), history.executions.len());
    eprintln!("{cycles} kills: {accepted} accepted, {} answered, {lost} lost, {unanswered} unanswered", answered.len());
    eprintln!("{} events; restart to ready: {restarts}", history.events);
    // Without these the test would have shown nothing.
    ensure!(answered.len() as u64 > 10 * cycles, "too few answers");
    ensure!(lost > 0, "no kill found an execution under way");
    Ok(())
}

/// The node tells of an execution what it answered at first.
async fn is_answered_alike(client: &Client, first: &Answered) -> anyhow::Result<()> {
    let again: Value = client.get_json(&format!("/v1/executions/{}", first.id)).await?;
    ensure!(again == first.answer, "first {}, then {again}", first.answer);
    let stdout = client.get(&format!("/v1/executions/{}/stdout", first.id)).await?.expect(reqwest::StatusCode::OK)?;
    ensure!(Digest::of(&stdout.body) == first.input, "{} gives other bytes now", first.id);
    Ok(())
}

/// Waits until every accepted execution has an end, and compares the log with the answers.
async fn are_recorded(node: &NodeProcess, answered: &BTreeMap<ExecutionId, Answered>) -> anyhow::Result<History> {
    let data = node.data();
    let history = wait::until("an end of every execution", wait::SOON, async || {
        let history = History::read(&data)?;
        Ok((history.open() == 0).then_some(history))
    });
    let history = history.await?;
    let broken = promises::broken(&history, &data, answered);
    ensure!(broken.is_empty(), "{} promises are broken, at first: {}", broken.len(), broken[0]);
    Ok(history)
}
