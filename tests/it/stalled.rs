//! A log that stands still for a while under load: it is offered again what it did not take, by the same entities, and nothing that
//! was accepted stays open.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use reqwest::StatusCode;
use tokio::time::Instant;
use wasmwiz_tests::{
    chance::{Chance, setting},
    cli,
    client::Client,
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    load::Load,
    promises, wait,
};

use crate::durable::calls;

/// How long one sync takes, in milliseconds; one node each.
const STALLS_MS: [u64; 3] = [1_100, 5_000, 30_000];

/// The longest of them that is tried, if the variable does not say otherwise.
const LONGEST_MS: (&str, u64) = ("WASMWIZ_TESTS_STALL_MS_MAX", 1_100);

/// Which sync of each thread it is, the log's writer among them: the node is up by then, and under load.
const AT_SYNC: u64 = 100;

const CLIENTS: u64 = 8;

/// How long a caller may wait at most: `region.answer_within_ms`, and what a traced node on a busy machine takes beside it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// How long the 100th sync may take to come.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// How often entities were folded from their streams.
async fn rehydrations(node: &NodeProcess) -> anyhow::Result<String> {
    let metrics = node.admin()?.get("/metrics").await?.text();
    let line = metrics.lines().find(|line| line.starts_with("wasmwiz_rehydrations_total "));
    Ok(line.context("no such metric")?.to_owned())
}

/// Has a sync of the log been held up, and has it ended?
fn has_stood_still(trace: &Path) -> anyhow::Result<bool> {
    let trace = fs::read(trace)?;
    let calls = calls(&String::from_utf8_lossy(&trace));
    Ok(calls.iter().any(|call| call.text.contains("/log/events.db") && call.text.contains("(DELAYED)")))
}

/// Asks one after the other until the log has stood still and goes on. Gives how many were refused meanwhile.
async fn until_it_went_on(client: &Client, trace: &Path, stall: Duration) -> anyhow::Result<usize> {
    let (begun, mut refused) = (Instant::now(), 0);
    loop {
        let (stood, asked) = (has_stood_still(trace)?, Instant::now());
        let answer = client.post_bytes("/v1/modules/echo/executions", "still there?").await?;
        let took = asked.elapsed();
        ensure!(took < ANSWERED_WITHIN, "a caller waited for {took:?}");
        match answer.status {
            StatusCode::OK if stood => return Ok(refused),
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            other => anyhow::bail!("{other}: {}", answer.text()),
        }
        ensure!(begun.elapsed() < BEGUN_WITHIN + stall, "the log has not stood still for {stall:?}");
    }
}

async fn stalled_for(stall: Duration, chance: &mut Chance) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace");
    let mut node = Launch::dev()?.with_a_stalled_sync(AT_SYNC, stall, &trace).start().await?;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    let client = node.client()?;
    client.execute("echo", "awake").await?;
    let before = rehydrations(&node).await?;
    // When the log stands still under load.
    let load = Load::begin(&client, &echo, CLIENTS, chance);
    let refused = until_it_went_on(&client, &trace, stall).await?;
    let got = load.end_with_failures().await?;
    // Then who was refused was told so, and may come again.
    for answer in &got.refused {
        ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{} {}", answer.status, answer.text());
    }
    ensure!(got.unanswered == 0, "{} requests have no answer", got.unanswered);
    // No execution stays open, without the node having begun anew or folded anybody again.
    let data = node.data();
    let history = wait::until("an end of every execution", wait::SOON, async || {
        let history = History::read(&data)?;
        Ok((history.open() == 0).then_some(history))
    });
    let history = history.await?;
    let after = rehydrations(&node).await?;
    ensure!(after == before, "{before} before, {after} after: an entity was folded again");
    let answered: BTreeMap<_, _> = got.answered.into_iter().map(|answer| (answer.id, answer)).collect();
    let broken = promises::broken(&history, &data, &answered);
    ensure!(broken.is_empty(), "{} promises are broken, at first: {}", broken.len(), broken[0]);
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(0), "the history is not intact: {verified:?}");
    let (answered, failed, refused) = (answered.len(), got.failed.len(), refused + got.refused.len());
    eprintln!("{stall:?}: {answered} answered, {failed} failed and recorded, {refused} told to come again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_stands_still_costs_nobody_more_than_an_answer() -> anyhow::Result<()> {
    if Command::new("strace").arg("-V").output().is_err() {
        ensure!(
            setting(LONGEST_MS.0, 0)? == 0,
            "there is no strace here: install it, the campaign shows nothing without it"
        );
        eprintln!("there is no strace here: not shown");
        return Ok(());
    }
    let (mut chance, longest) = (Chance::printed()?, setting(LONGEST_MS.0, LONGEST_MS.1)?);
    for stall in STALLS_MS.into_iter().filter(|stall| *stall <= longest) {
        let stall = Duration::from_millis(stall);
        stalled_for(stall, &mut chance).await.with_context(|| format!("{stall:?}"))?;
    }
    Ok(())
}
