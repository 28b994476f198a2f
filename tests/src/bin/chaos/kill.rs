//! Killed at any moment: what was answered stays, and what was accepted ends.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;
use wasmwiz_tests::{chance::Chance, harness::NodeProcess};

use crate::{
    Size,
    evidence::{Evidence, LATER, clients_of},
    judge::judge,
    scenario::Done,
};

/// How often it is killed.
const CYCLES: (u64, u64) = (12, 300);

pub(crate) async fn run(size: Size, mut chance: Chance) -> anyhow::Result<Done> {
    let cycles = size.of(CYCLES.0, CYCLES.1);
    let (mut node, mut evidence) = (NodeProcess::dev().await?, Evidence::default());
    for _ in 0..cycles {
        let load = clients_of(&node, &mut chance)?;
        sleep(Duration::from_millis(chance.within(20..250))).await;
        node.kill9().await?;
        evidence.take(load.end().await?, &LATER)?;
        node.restart().await?;
    }
    evidence.at_least(5 * cycles)?;
    let (judged, _) = judge(node, evidence, format!("{cycles} kills")).await?;
    ensure!(judged.lost > 0 || !judged.broken.is_empty(), "no kill found an execution under way");
    Ok(Done::Judged(judged))
}
