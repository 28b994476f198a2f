//! Stopped at any moment, as a suspended machine is: it goes on as if nothing had been, and loses nothing.

use std::{fs, time::Duration};

use anyhow::ensure;
use rustix::process::Signal;
use tokio::time::sleep;
use wasmwiz_tests::{chance::Chance, harness::NodeProcess, wait};

use crate::{
    Size,
    evidence::{Evidence, LATER, clients_of},
    judge::judge,
    scenario::Done,
};

/// How often it is stopped.
const CYCLES: (u64, u64) = (5, 60);

/// How long it stands still, in milliseconds: not as long as the deadline of an execution, which goes on meanwhile.
const STILL_MS: std::ops::Range<u64> = 200..3_000;

pub(crate) async fn run(size: Size, mut chance: Chance) -> anyhow::Result<Done> {
    let cycles = size.of(CYCLES.0, CYCLES.1);
    let (mut node, mut evidence) = (NodeProcess::dev().await?, Evidence::default());
    for _ in 0..cycles {
        let load = clients_of(&node, &mut chance)?;
        sleep(Duration::from_millis(chance.within(50..300))).await;
        node.signal(Signal::STOP)?;
        wait::until("a node that stands still", wait::SOON, async || stands_still(node.ready().pid)).await?;
        sleep(Duration::from_millis(chance.within(STILL_MS))).await;
        node.signal(Signal::CONT)?;
        sleep(Duration::from_millis(chance.within(50..300))).await;
        evidence.take(load.end().await?, &LATER)?;
    }
    evidence.at_least(5 * cycles)?;
    ensure!(evidence.unanswered == 0, "{} requests had no answer, and nothing was killed", evidence.unanswered);
    let (judged, _) = judge(node, evidence, format!("{cycles} stops of 0.2 to 3 s")).await?;
    ensure!(judged.lost == 0, "{} executions were lost, and nothing was killed", judged.lost);
    Ok(Done::Judged(judged))
}

fn stands_still(pid: u32) -> anyhow::Result<Option<()>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('T')).then_some(()))
}
