//! What tenants take that are in memory and do nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use wasmwiz_tests::{
    harness::{Launch, NodeProcess},
    nats::NatsServer,
};

use super::many;
use crate::probe;

/// How long the node is watched while it does nothing.
const WATCHED: Duration = Duration::from_secs(20);

/// What was measured.
pub(super) struct Idle {
    tenants: usize,
    /// Resident memory of the node in MiB: without tenants, once its views know all of them, once all of them are awake, and later.
    mib: [f64; 4],
    /// Until all of them were awake.
    woken: Duration,
    /// How much of one processor it takes while all of them are idle.
    cpu: f64,
}

impl Idle {
    /// Wakes so many on one node, whose log is on one server.
    pub(super) fn measure(runtime: &Runtime, tenants: usize) -> anyhow::Result<Self> {
        runtime.block_on(async {
            let mut server = NatsServer::prepared("max_payload: 2MB")?;
            server.start().await?;
            let launch = Launch::dev()?
                .variable("WASMWIZ_LOG__KIND", "jetstream")
                .variable("WASMWIZ_LOG__JETSTREAM__ACKNOWLEDGED", "unverified")
                .variable("WASMWIZ_LOG__JETSTREAM__NATS__URL", server.url())
                // Room for all of them and for the platform's own, and none leaves memory meanwhile.
                .variable("WASMWIZ_REGION__ENTITIES_MAX", (tenants + 100).to_string())
                .variable("WASMWIZ_REGION__PASSIVATE_AFTER_MS", "86400000");
            let node = launch.start().await?;
            let (pid, operators) = (node.ready().pid, [node.operator()?]);
            let empty = probe::rss_mib(pid)?;
            eprintln!("writing {tenants} tenants");
            let all = many::register(server.url(), 1, tenants, &operators).await?;
            let known = probe::rss_mib(pid)?;
            eprintln!("waking them");
            let begun = Instant::now();
            many::wake(&operators, &all, begun).await?;
            let (woken, awake) = (begun.elapsed(), probe::rss_mib(pid)?);
            let entities = entities(&node).await?;
            ensure!(entities >= tenants as f64, "{entities} of {tenants} tenants are in memory");
            let (since, cpu) = (Instant::now(), probe::cpu_seconds(pid)?);
            tokio::time::sleep(WATCHED).await;
            let cpu = (probe::cpu_seconds(pid)? - cpu) / since.elapsed().as_secs_f64();
            Ok(Self { tenants, mib: [empty, known, awake, probe::rss_mib(pid)?], woken, cpu })
        })
    }

    pub(super) fn print(&self) {
        let Self { tenants, mib: [empty, known, awake, later], woken, cpu } = self;
        let each = |mib: f64| mib * 1_024.0 / (*tenants).max(1) as f64;
        println!("\n{tenants} tenants on one node, each registered and nothing else");
        println!("  RSS without them                      {empty:>9.1} MiB");
        println!("  RSS once views know all of them       {known:>9.1} MiB, {:.2} KiB each", each(known - empty));
        println!("  RSS once all are awake                {awake:>9.1} MiB, {:.2} KiB more each", each(awake - known));
        println!("  the same {WATCHED:?} later                 {later:>9.1} MiB");
        println!("  until all were awake                  {:>9.1} s", woken.as_secs_f64());
        println!("  CPU while all are idle                {:>9.1} % of one processor", cpu * 100.0);
    }
}

/// How many tenants are in memory.
async fn entities(node: &NodeProcess) -> anyhow::Result<f64> {
    let metrics = node.admin()?.get("/metrics").await?.text();
    let entities = metrics.lines().find_map(|line| line.strip_prefix("wasmwiz_entities "));
    Ok(entities.context("the node does not say how many tenants are in memory")?.trim().parse()?)
}
