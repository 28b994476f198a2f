//! `--log-only`: what a platform does with each log, and what its feed costs.
//!
//! Commits on JetStream against bare publishes are measured by [`commits`](crate::commits). Then nodes serve: one whose log is SQLite,
//! and one whose log is on the three servers; and one with a feed beside one without, in turns. The feed's bus has a processor of its own, as it
//! has where it is on another machine: what is measured is what the feed costs the node, and what it costs the bus is told beside it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use wasmwiz_tests::{
    guests,
    harness::{Launch, NodeProcess},
    nats::{NatsCluster, NatsServer},
    tenants::{Tenant, register},
    turns::median,
    wire,
};

use crate::{
    Args,
    commits::Commits,
    load::{self, Loaded},
    probe,
    processors::Processors,
};

/// The payload of one execution, in bytes.
const BODY_BYTES: usize = 1_024;

/// How often a node with a feed and one without are measured, in turns; the median counts.
const FEED_ROUNDS: usize = 7;

/// Tenants of the two, and connections of each tenant.
const FEED_TENANTS: [usize; 2] = [16, 4];

/// At most this part of the executions a second may the feed cost.
const FEED_COSTS_AT_MOST: f64 = 0.1;

/// How long a feed may take for what a load has left it.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(300);

/// The most bytes of the feed's stream, which the server reserves; older messages make room.
const STREAM_BYTES: &str = "1073741824";

/// Executions with each log at so many connections of one tenant.
struct Executions {
    connections: usize,
    sqlite: Loaded,
    jetstream: Loaded,
}

/// What a feed costs the node that has it.
struct FeedCost {
    /// Executions a second without a feed, and with it, in each round.
    rounds: Vec<[f64; 2]>,
    /// Microseconds of the node's processor time for one execution, without and with; the feed's are counted until it has caught up.
    cpu_us: [f64; 2],
    /// Those of the bus's, for one execution of the node with it.
    bus_cpu_us: f64,
    /// Has the bus a processor of its own?
    is_apart: bool,
    /// The most commits that it was behind when a load stopped, and the longest that it then took.
    behind: (f64, Duration),
}

/// Everything that was measured.
pub(crate) struct Logs {
    machine: String,
    fdatasync: Duration,
    commits: Commits,
    executions: Vec<Executions>,
    feed: FeedCost,
}

impl Logs {
    /// Runs everything, one after the other. Servers and nodes keep their files below `args.data`.
    pub(crate) fn measure(args: &Args) -> anyhow::Result<Self> {
        let data = below(&args.data)?;
        let (machine, fdatasync) = (probe::machine(&data), probe::fdatasync(&data)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let nats = runtime.block_on(NatsCluster::started(3))?;
        let commits = runtime.block_on(Commits::measure(&nats, args.seconds))?;
        let executions = executions(&runtime, &nats, args)?;
        drop(nats);
        let feed = FeedCost::measure(&runtime, args.seconds)?;
        Ok(Self { machine, fdatasync, commits, executions, feed })
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        println!("\n{}; load generator, servers and nodes share the cores", self.machine);
        println!("fdatasync of 4 KiB, median            {:>9.3} ms", self.fdatasync.as_secs_f64() * 1e3);
        self.commits.print();
        println!("\n1 KiB echo over HTTP, one tenant      SQLite                        JetStream, 3 copies");
        println!("  conns |  executions/s   p50 ms   p99 ms |  executions/s   p50 ms   p99 ms |  ratio");
        for Executions { connections, sqlite, jetstream } in &self.executions {
            println!(
                "{connections:>7} | {:>13.0} {:>8.2} {:>8.2} | {:>13.0} {:>8.2} {:>8.2} | {:>6.2}",
                sqlite.per_second(),
                sqlite.ms(50.0),
                sqlite.ms(99.0),
                jetstream.per_second(),
                jetstream.ms(50.0),
                jetstream.ms(99.0),
                jetstream.per_second() / sqlite.per_second(),
            );
        }
        self.feed.print();
        println!("\ntargets");
        for (target, met, found) in self.targets() {
            println!("  {} {target}: {found}", if met { "met   " } else { "MISSED" });
        }
    }

    fn targets(&self) -> Vec<(String, bool, String)> {
        let cost = self.feed.cost();
        let mut targets = self.commits.targets();
        targets.push((
            format!("the feed costs the node at most {:.0} % of its executions a second", FEED_COSTS_AT_MOST * 100.0),
            cost <= FEED_COSTS_AT_MOST,
            format!("{:.1} %", cost * 100.0),
        ));
        targets
    }

    /// Are all targets met?
    pub(crate) fn targets_met(&self) -> bool {
        self.targets().iter().all(|(_, met, _)| *met)
    }
}

/// Has everything that is started keep its files below this folder: its disk is part of what is measured.
pub(crate) fn below(data: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(data)?;
    let data = data.canonicalize()?;
    let set = tempfile::env::override_temp_dir(&data);
    set.map_err(|other| anyhow::anyhow!("files are kept in {} already", other.display()))?;
    Ok(data)
}

/// Where a URL of a node leads.
pub(crate) fn address(url: &str) -> anyhow::Result<SocketAddr> {
    Ok(url.trim_start_matches("http://").parse()?)
}

/// An echo of a tenant.
pub(crate) fn echo_of(key: &str) -> Vec<u8> {
    wire::echo_request("/v1/modules/echo/executions", Some(key), &[b'a'; BODY_BYTES])
}

/// The same load on a node with each log.
fn executions(runtime: &Runtime, nats: &NatsCluster, args: &Args) -> anyhow::Result<Vec<Executions>> {
    let on_jetstream = Launch::dev()?
        .variable("WASMWIZ_LOG__KIND", "jetstream")
        .variable("WASMWIZ_LOG__JETSTREAM__REPLICAS", "3")
        .variable("WASMWIZ_LOG__JETSTREAM__ACKNOWLEDGED", "unverified")
        .variable("WASMWIZ_LOG__JETSTREAM__NATS__URL", nats.url());
    let (sqlite, jetstream) = (runtime.block_on(NodeProcess::dev())?, runtime.block_on(on_jetstream.start())?);
    let loaded = |node: &NodeProcess, connections| {
        let key = node.ready().api_key.as_deref().context("dev has a key")?;
        load::run(address(&node.ready().url)?, &echo_of(key), connections, args.seconds)
    };
    let mut rows = Vec::with_capacity(args.connections.len());
    for &connections in &args.connections {
        eprintln!("{connections} connections, {} s with each log", args.seconds);
        let (sqlite, jetstream) = (loaded(&sqlite, connections)?, loaded(&jetstream, connections)?);
        rows.push(Executions { connections, sqlite, jetstream });
    }
    Ok(rows)
}

/// A node, and what its tenants ask it all the time.
struct Fed {
    node: NodeProcess,
    connections: Vec<(SocketAddr, Vec<u8>)>,
}

/// What came of a load.
struct FedLoad {
    per_second: f64,
    executions: f64,
    /// Microseconds of the node's processor time for one execution.
    cpu_us: f64,
}

impl Fed {
    async fn started(launch: Launch) -> anyhow::Result<Self> {
        let node = launch.start().await?;
        let (operator, api) = (node.operator()?, address(&node.ready().url)?);
        let [tenants, each] = FEED_TENANTS;
        let mut connections = Vec::with_capacity(tenants * each);
        for number in 0..tenants {
            let Tenant { client, key, .. } = register(&operator, &format!("Tenant {number}"), "enterprise").await?;
            client.put_module("echo", guests::ECHO.wasm()?).await?.expect(http::StatusCode::CREATED)?;
            connections.extend(vec![(api, echo_of(&key.secret)); each]);
        }
        Ok(Self { node, connections })
    }

    /// Loads it; the processor time that it spends counts from before the load on until `after` is over.
    fn load(&self, seconds: u64, after: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<FedLoad> {
        let pid = self.node.ready().pid;
        let cpu = probe::cpu_seconds(pid)?;
        let loaded = load::run_each(self.connections.clone(), seconds)?;
        after()?;
        let (per_second, executions) = (loaded.per_second(), loaded.with_warm_up());
        Ok(FedLoad { per_second, executions, cpu_us: (probe::cpu_seconds(pid)? - cpu) * 1e6 / executions })
    }

    /// How many commits its feed is behind.
    async fn behind(&self) -> anyhow::Result<f64> {
        let metrics = self.node.admin()?.get("/metrics").await?.text();
        let lag = metrics.lines().find_map(|line| line.strip_prefix("wasmwiz_feed_lag_commits "));
        Ok(lag.context("the node does not say how far its feed is behind")?.trim().parse()?)
    }
}

impl FeedCost {
    fn measure(runtime: &Runtime, seconds: u64) -> anyhow::Result<Self> {
        let processors = Processors::of_this_thread()?;
        processors.keep_to_the_last()?;
        let server = runtime.block_on(NatsServer::started())?;
        processors.keep_to_the_others()?;
        let with = Launch::dev()?
            .variable("WASMWIZ_FEED__NATS__URL", server.url())
            .variable("WASMWIZ_FEED__MAX_BYTES", STREAM_BYTES);
        let (without, with) = (runtime.block_on(Fed::started(Launch::dev()?))?, runtime.block_on(Fed::started(with))?);
        let (mut rounds, mut cpu_us) = (Vec::with_capacity(FEED_ROUNDS), [Vec::new(), Vec::new()]);
        let mut bus_cpu_us = Vec::with_capacity(FEED_ROUNDS);
        let mut most = (0.0_f64, Duration::ZERO);
        for round in 0..FEED_ROUNDS {
            eprintln!("the feed: round {} of {FEED_ROUNDS}, {seconds} s without and with it", round + 1);
            let mut seen = [0.0; 2];
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                let bus_before = probe::cpu_seconds(server.pid()?)?;
                let loaded = if which == 0 {
                    without.load(seconds, || Ok(()))?
                } else {
                    with.load(seconds, || {
                        let (commits, took) = runtime.block_on(caught_up(&with))?;
                        most = (most.0.max(commits), most.1.max(took));
                        Ok(())
                    })?
                };
                if which == 1 {
                    let spent = probe::cpu_seconds(server.pid()?)? - bus_before;
                    bus_cpu_us.push(spent * 1e6 / loaded.executions);
                }
                seen[which] = loaded.per_second;
                cpu_us[which].push(loaded.cpu_us);
            }
            rounds.push(seen);
        }
        let (bus_cpu_us, is_apart) = (median(bus_cpu_us), processors.are_apart());
        Ok(Self { rounds, cpu_us: cpu_us.map(median), bus_cpu_us, is_apart, behind: most })
    }

    /// Which part of the executions a second it takes: the median of the rounds.
    fn cost(&self) -> f64 {
        median(self.rounds.iter().map(|[without, with]| 1.0 - with / without).collect())
    }

    fn print(&self) {
        let side = |which: usize| median(self.rounds.iter().map(|round| round[which]).collect());
        let ([without, with], [tenants, each]) = (self.cpu_us, FEED_TENANTS);
        let (commits, took) = self.behind;
        let where_is = if self.is_apart { "a processor of its own" } else { "the node's processor" };
        println!(
            "\n1 KiB echo, SQLite, {tenants} tenants with {each} connections each, {FEED_ROUNDS} rounds, the bus on {where_is}"
        );
        println!(
            "  without a feed                      {:>9.0} executions/s {without:>8.1} us of the node's CPU each",
            side(0)
        );
        println!(
            "  with a feed to a server here        {:>9.0} executions/s {with:>8.1} us of the node's CPU each",
            side(1)
        );
        println!(
            "  the bus's part of it                                       {:>8.1} us of the bus's CPU each",
            self.bus_cpu_us
        );
        println!(
            "  the feed's lag when a load stops    {commits:>9.0} commits at most, {:.2} s until it is none",
            took.as_secs_f64()
        );
    }
}

/// How many commits a feed is behind, and how long it takes until it is not any more.
async fn caught_up(fed: &Fed) -> anyhow::Result<(f64, Duration)> {
    let (begin, mut most) = (Instant::now(), 0.0_f64);
    loop {
        let commits = fed.behind().await?;
        most = most.max(commits);
        if commits < 1.0 {
            return Ok((most, begin.elapsed()));
        }
        ensure!(begin.elapsed() < CATCH_UP_WITHIN, "the feed did not catch up within {CATCH_UP_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
