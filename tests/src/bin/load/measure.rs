//! What is measured: every rate in several rounds, on the bare server and on the node, one right after the other.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use wasmwiz_tests::{harness::Launch, turns};

use crate::{
    Args, Size,
    handicap::Handicap,
    open_loop::{Rate, Served},
    servers::{self, Bare, Target},
    syncs::{Probe, Syncs},
};

/// Commits that an answer waits for: acceptance, and end.
const SYNCS_OF_AN_ANSWER: f64 = 2.0;

/// Requests a second: the same for each size, so that there is one baseline.
pub(crate) const RATES: [u32; 3] = [100, 400, 1_000];

/// How much there is of each size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How often each rate is measured.
    pub(crate) rounds: usize,
    /// How long a rate is kept up for one server in one round.
    pub(crate) lasts: Duration,
}

const CI: Plan = Plan { rounds: 3, lasts: Duration::from_secs(5) };
const NIGHTLY: Plan = Plan { rounds: 7, lasts: Duration::from_secs(8) };

/// Latencies of one round, in milliseconds, and their ratios.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    /// Of the bare server.
    pub(crate) bare_ms: f64,
    /// Of one sync: the mean of what it takes beside the load of the bare server and beside that of the node.
    pub(crate) sync_ms: f64,
    /// Of the node.
    pub(crate) node_ms: f64,
    /// The node's to that of the bare server and two syncs.
    pub(crate) ratio: f64,
}

impl Latency {
    fn new(bare_ms: f64, syncs_ms: [f64; 2], node_ms: f64) -> Self {
        let sync_ms = syncs_ms.iter().sum::<f64>() / syncs_ms.len() as f64;
        let ratio = node_ms / (bare_ms + SYNCS_OF_AN_ANSWER * sync_ms).max(f64::MIN_POSITIVE);
        Self { bare_ms, sync_ms, node_ms, ratio }
    }
}

/// One rate: of each figure the median over its rounds, so that one round that was disturbed does not count.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    pub(crate) per_second: u32,
    pub(crate) p50: Latency,
    pub(crate) p99: Latency,
    /// The part of all requests that the bare server served.
    pub(crate) bare_served: f64,
    /// The part of all requests that the node served.
    pub(crate) node_served: f64,
}

impl Step {
    /// What the node serves of what the bare server does.
    pub(crate) fn served_ratio(&self) -> f64 {
        self.node_served / self.bare_served.max(f64::MIN_POSITIVE)
    }
}

/// Measures every rate of the size.
///
/// # Errors
/// When a server does not start, or takes no connections.
pub(crate) async fn steps(args: &Args) -> anyhow::Result<Vec<Step>> {
    let plan = match args.size {
        Size::Ci => CI,
        Size::Nightly => NIGHTLY,
    };
    let folder = servers::empty_folder(&args.data)?;
    let (bare, node) = (Bare::start()?, Launch::dev_on(&folder.join("node"))?.start().await?);
    let targets = (bare.target(), Target::of(&node)?);
    let _held_up = Handicap::of(args.handicap, node.ready().pid)?;
    let mut steps = Vec::new();
    for per_second in RATES {
        let rate = Rate { per_second, lasts: plan.lasts };
        let mut rounds = Vec::new();
        for round in 1..=plan.rounds {
            eprintln!("load: {per_second}/s, round {round} of {}", plan.rounds);
            rounds.push(one_round(&folder, &targets.0, &targets.1, rate).await?);
        }
        steps.push(median_of(per_second, &rounds));
    }
    Ok(steps)
}

async fn one_round(folder: &Path, bare: &Target, node: &Target, rate: Rate) -> anyhow::Result<Step> {
    let (bare, beside_bare) = probed(folder, bare, rate).await.context("the bare server")?;
    let (node, beside_node) = probed(folder, node, rate).await.context("the node")?;
    let syncs_ms = |percent| [beside_bare.ms(percent), beside_node.ms(percent)];
    Ok(Step {
        per_second: rate.per_second,
        p50: Latency::new(bare.ms(50.0), syncs_ms(50), node.ms(50.0)),
        p99: Latency::new(bare.ms(99.0), syncs_ms(99), node.ms(99.0)),
        bare_served: bare.share,
        node_served: node.share,
    })
}

/// Loads a server, with syncs beside it. They keep the disk and a core busy, so both servers must have them: a ratio of one
/// that has them to one that does not goes by the machine and not by the node.
async fn probed(folder: &Path, target: &Target, rate: Rate) -> anyhow::Result<(Served, Syncs)> {
    let probe = Probe::begin(folder);
    let served = target.loaded(rate).await;
    let syncs = probe.end()?;
    Ok((served?, syncs))
}

fn median_of(per_second: u32, rounds: &[Step]) -> Step {
    let median = |figure: &dyn Fn(&Step) -> f64| turns::median(rounds.iter().map(figure).collect());
    let latency = |of: &dyn Fn(&Step) -> Latency| Latency {
        bare_ms: median(&|step| of(step).bare_ms),
        sync_ms: median(&|step| of(step).sync_ms),
        node_ms: median(&|step| of(step).node_ms),
        ratio: median(&|step| of(step).ratio),
    };
    Step {
        per_second,
        p50: latency(&|step| step.p50),
        p99: latency(&|step| step.p99),
        bare_served: median(&|step| step.bare_served),
        node_served: median(&|step| step.node_served),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_compared_with_a_sync_beside_both_servers() {
        let latency = Latency::new(1.0, [0.5, 1.5], 6.0);
        assert_eq!((latency.sync_ms, latency.ratio), (1.0, 2.0));
    }

    #[test]
    fn a_round_that_was_disturbed_does_not_count() {
        let step = |node_ms| {
            let latency = Latency::new(1.0, [0.5, 0.5], node_ms);
            Step { per_second: 100, p50: latency, p99: latency, bare_served: 1.0, node_served: 1.0 }
        };
        let median = median_of(100, &[step(4.0), step(90.0), step(2.0)]);
        assert_eq!((median.p50.node_ms, median.p99.ratio), (4.0, 2.0));
    }
}
