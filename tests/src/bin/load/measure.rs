//! What is measured: every rate in several rounds, on the bare server and on the node, one right after the other.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    Args, Size,
    handicap::Handicap,
    open_loop::{self, Rate, Served},
    servers::{self, Bare},
    syncs::Probe,
};

/// What a server is sent before each measurement, which is thrown away.
const WARM_UP: Duration = Duration::from_millis(500);

/// Commits that an answer waits for: acceptance, and end.
const SYNCS_OF_AN_ANSWER: f64 = 2.0;

/// Requests a second: the same for each size, so that there is one baseline.
const RATES: [u32; 3] = [100, 400, 1_000];

/// How much there is of each size.
struct Plan {
    rounds: usize,
    lasts: Duration,
}

const CI: Plan = Plan { rounds: 3, lasts: Duration::from_secs(5) };
const NIGHTLY: Plan = Plan { rounds: 7, lasts: Duration::from_secs(8) };

/// Latencies of one round, in milliseconds, and their ratios.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    /// Of the bare server.
    pub(crate) bare_ms: f64,
    /// Of one sync.
    pub(crate) sync_ms: f64,
    /// Of the node.
    pub(crate) node_ms: f64,
    /// The node's to that of the bare server and two syncs.
    pub(crate) ratio: f64,
}

impl Latency {
    fn new(bare_ms: f64, sync_ms: f64, node_ms: f64) -> Self {
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
    let _ = fs::remove_dir_all(&args.data);
    fs::create_dir_all(&args.data).context("no folder for the node's data")?;
    let folder = args.data.canonicalize()?;
    let (bare, node) = (Bare::start()?, servers::node(&folder.join("node")).await?);
    let targets = (bare.target(), servers::target(&node)?);
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

type Target = (SocketAddr, Vec<u8>);

async fn one_round(folder: &Path, bare: &Target, node: &Target, rate: Rate) -> anyhow::Result<Step> {
    let probe = Probe::begin(folder);
    let bare = loaded(bare, rate).await.context("the bare server");
    let (syncs, bare) = (probe.end()?, bare?);
    let node = loaded(node, rate).await.context("the node")?;
    Ok(Step {
        per_second: rate.per_second,
        p50: Latency::new(bare.ms(50.0), syncs.ms(50), node.ms(50.0)),
        p99: Latency::new(bare.ms(99.0), syncs.ms(99), node.ms(99.0)),
        bare_served: bare.share,
        node_served: node.share,
    })
}

async fn loaded((address, request): &Target, rate: Rate) -> anyhow::Result<Served> {
    open_loop::run(*address, request.clone(), Rate { lasts: WARM_UP, ..rate }).await?;
    open_loop::run(*address, request.clone(), rate).await
}

fn median_of(per_second: u32, rounds: &[Step]) -> Step {
    let median = |figure: &dyn Fn(&Step) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    };
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
