//! Every sync takes long, and the node is killed while it waits for one: an answer must not have come before its sync.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use tokio::time::{Instant, sleep};
use wasmwiz_tests::{chance::Chance, harness::Launch};

use crate::{
    Size,
    evidence::{Evidence, LATER, clients_of},
    judge::judge,
    scenario::Done,
};

/// How often it is killed.
const CYCLES: (u64, u64) = (4, 40);

/// What a sync takes longer than it should, in milliseconds: a disk that is worn or shared.
const SYNC_MS: std::ops::Range<u64> = 20..120;

/// How long clients are at work before each kill, in milliseconds.
const WORK_MS: std::ops::Range<u64> = 1_000..3_000;

pub(crate) async fn run(size: Size, mut chance: Chance) -> anyhow::Result<Done> {
    if !Command::new("strace").arg("-V").output().is_ok_and(|said| said.status.success()) {
        return Ok(Done::Skipped("there is no strace on this machine"));
    }
    let (cycles, by) = (size.of(CYCLES.0, CYCLES.1), Duration::from_millis(chance.within(SYNC_MS)));
    let (mut node, mut evidence) = (Launch::dev()?.with_slow_syncs(by).start().await?, Evidence::default());
    let begun = Instant::now();
    node.client()?.execute("echo", "its acceptance and its end").await?;
    let took = begun.elapsed();
    ensure!(took >= 2 * by, "two commits took {took:?} on a disk that takes {by:?} for each: it is not slow");
    for _ in 0..cycles {
        let load = clients_of(&node, &mut chance)?;
        sleep(Duration::from_millis(chance.within(WORK_MS))).await;
        node.kill9().await?;
        evidence.take(load.end().await?, &LATER)?;
        node.restart().await?;
    }
    evidence.at_least(5 * cycles)?;
    let (judged, _) = judge(node, evidence, format!("{cycles} kills, {} ms a sync", by.as_millis())).await?;
    ensure!(judged.lost > 0 || !judged.broken.is_empty(), "no kill found an execution under way");
    Ok(Done::Judged(judged))
}
