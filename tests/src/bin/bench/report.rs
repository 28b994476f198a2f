//! What was measured, as tables, and whether the targets are met.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use wasmwiz_tests::wire;

use crate::{
    Args, bare,
    load::{self, Loaded},
    node::{Bare, Node},
    probe,
    repeatable::Cost,
};

/// The payload of one execution, in bytes.
const BODY_BYTES: usize = 1_024;

/// Connections at which node and bare server are compared.
const COMPARED_AT: usize = 64;

/// How long the views may take to catch up after the load before the measurement gives up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

/// One row: a number of connections, on the bare server and on the node.
struct Row {
    connections: usize,
    bare: Loaded,
    bare_cpu_us: f64,
    node: Loaded,
    node_cpu_us: f64,
    commits_per_second: f64,
    events_per_commit: f64,
    lag_s: f64,
}

/// Everything that one run measured.
pub(crate) struct Measured {
    machine: String,
    fdatasync: Duration,
    raw_us: f64,
    idle_mib: f64,
    loaded_mib: f64,
    rows: Vec<Row>,
    cpu_by_thread: BTreeMap<String, f64>,
    executions: u64,
}

impl Measured {
    /// Runs everything, one after the other.
    pub(crate) fn collect(args: &Args) -> anyhow::Result<Self> {
        let _ = fs::remove_dir_all(&args.data);
        fs::create_dir_all(&args.data)?;
        let machine = probe::machine(&args.data);
        eprintln!("measuring fdatasync and the raw loop");
        let fdatasync = probe::fdatasync(&args.data)?;
        let raw_us = bare::raw_loop_us()?;
        let (server, node) = (Bare::start()?, Node::start(&args.data.join("node"))?);
        std::thread::sleep(Duration::from_secs(2));
        let idle_mib = probe::rss_mib(node.pid())?;
        let threads_before = probe::cpu_by_thread(node.pid())?;
        let mut rows = vec![];
        for &connections in &args.connections {
            eprintln!("{connections} connections, {} s on each server", args.seconds);
            rows.push(row(&server, &node, connections, args.seconds)?);
        }
        let mut cpu_by_thread = probe::cpu_by_thread(node.pid())?;
        for (name, seconds) in &mut cpu_by_thread {
            *seconds -= threads_before.get(name).copied().unwrap_or_default();
        }
        let loaded_mib = probe::rss_mib(node.pid())?;
        let executions = node.metrics()?.get("wasmwiz_executions_total").copied().unwrap_or_default() as u64;
        let measured = Self { machine, fdatasync, raw_us, idle_mib, loaded_mib, rows, cpu_by_thread, executions };
        let answered: u64 = measured.rows.iter().map(|row| row.node.answered).sum();
        ensure!(measured.executions >= answered, "{answered} answers, {} recorded", measured.executions);
        Ok(measured)
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        println!("\n{}; load generator and servers share the cores\n", self.machine);
        println!("fdatasync of 4 KiB, median            {:>9.3} ms", self.fdatasync.as_secs_f64() * 1e3);
        println!("raw wasmtime loop, one thread         {:>9.1} us a run, {:>8.0}/s", self.raw_us, 1e6 / self.raw_us);
        println!("node's RSS idle / after the load      {:>9.1} / {:.1} MiB\n", self.idle_mib, self.loaded_mib);
        println!("1 KiB echo over HTTP, closed loop     bare: no record      node: both events durable");
        println!(
            "{:>5} {:>9} {:>8} {:>8} {:>7} | {:>9} {:>8} {:>8} {:>7} {:>6} | {:>9} {:>7} {:>6}",
            "conns",
            "bare/s",
            "p50 ms",
            "p99 ms",
            "cpu us",
            "node/s",
            "p50 ms",
            "p99 ms",
            "cpu us",
            "ratio",
            "commits/s",
            "ev/comm",
            "lag s"
        );
        for row in &self.rows {
            println!(
                "{:>5} {:>9.0} {:>8.2} {:>8.2} {:>7.1} | {:>9.0} {:>8.2} {:>8.2} {:>7.1} {:>6.2} | {:>9.0} {:>7.1} {:>6.2}",
                row.connections,
                row.bare.per_second(),
                row.bare.ms(50.0),
                row.bare.ms(99.0),
                row.bare_cpu_us,
                row.node.per_second(),
                row.node.ms(50.0),
                row.node.ms(99.0),
                row.node_cpu_us,
                row.node.per_second() / row.bare.per_second(),
                row.commits_per_second,
                row.events_per_commit,
                row.lag_s,
            );
        }
        self.print_threads();
        println!("\ntargets");
        for (target, met, found) in self.targets() {
            println!("  {} {target}: {found}", if met { "met   " } else { "MISSED" });
        }
    }

    fn print_threads(&self) {
        let total: f64 = self.cpu_by_thread.values().sum();
        let mut threads: Vec<_> = self.cpu_by_thread.iter().filter(|(_, seconds)| **seconds > 0.0).collect();
        threads.sort_by(|a, b| b.1.total_cmp(a.1));
        println!("\nCPU of the node by thread, all loads together ({} executions)", self.executions);
        for (name, seconds) in &threads {
            let each = **seconds * 1e6 / self.executions.max(1) as f64;
            println!(
                "  {name:<18} {:>5.1} %  {each:>7.1} us an execution",
                100.0 * **seconds / total.max(f64::EPSILON)
            );
        }
        if let Some((name, _)) = threads.first() {
            println!("  the dominant step: {name}");
        }
    }

    /// Each target, whether it is met, and what was found.
    fn targets(&self) -> Vec<(&'static str, bool, String)> {
        let mut targets = vec![];
        if let Some(row) = self.rows.iter().find(|row| row.connections == COMPARED_AT) {
            let ratio = row.node.per_second() / row.bare.per_second();
            targets.push(("recorded >= 0.3x of bare at 64 connections", ratio >= 0.3, format!("{ratio:.2}x")));
            targets.push(("views lag under 1 s when the load stops", row.lag_s < 1.0, format!("{:.2} s", row.lag_s)));
        }
        if let Some(row) = self.rows.iter().find(|row| row.connections == 1) {
            let bound = 2.0 * self.fdatasync.as_secs_f64() * 1e3 + 1.0;
            let p50 = row.node.ms(50.0);
            targets.push((
                "p50 at 1 connection <= 2 fdatasync + 1 ms",
                p50 <= bound,
                format!("{p50:.2} ms, bound {bound:.2} ms"),
            ));
        }
        targets.push(("RSS under 150 MiB idle", self.idle_mib < 150.0, format!("{:.1} MiB", self.idle_mib)));
        targets
    }

    /// Are all targets met?
    pub(crate) fn targets_met(&self) -> bool {
        self.targets().iter().all(|(_, met, _)| *met)
    }
}

/// Prints what each guest takes, and how many times as long with what makes its end one that can be run again.
pub(crate) fn print_costs(costs: &[Cost]) {
    println!("\nthe quickest of several runs          any NaN ms   plain ms  (ratio)   metered ms  (to plain)");
    for Cost { guest, any_nan_ms, plain_ms, metered_ms } in costs {
        let (plain, metered) = (plain_ms / any_nan_ms, metered_ms / plain_ms);
        println!("{guest:<36} {any_nan_ms:>11.2} {plain_ms:>10.2}  {plain:>6.2}x {metered_ms:>12.2}  {metered:>9.2}x");
    }
}

fn row(server: &Bare, node: &Node, connections: usize, seconds: u64) -> anyhow::Result<Row> {
    let body: Vec<u8> = (0..BODY_BYTES).map(|n| b'a' + (n % 26) as u8).collect();
    let cpu = probe::cpu_seconds(server.pid())?;
    let bare = load::run(server.address, &wire::echo_request("/", None, &body), connections, seconds)?;
    let bare_cpu_us = (probe::cpu_seconds(server.pid())? - cpu) * 1e6 / bare.with_warm_up();

    let request = wire::echo_request("/v1/modules/echo/executions", Some(&node.key), &body);
    let (cpu, before) = (probe::cpu_seconds(node.pid())?, node.metrics()?);
    let loaded = load::run(node.api, &request, connections, seconds)?;
    let lag_s = catch_up(node)?.as_secs_f64();
    let (cpu, after) = (probe::cpu_seconds(node.pid())? - cpu, node.metrics()?);
    let grown = |name: &str| {
        let value = |metrics: &BTreeMap<String, f64>| metrics.get(name).copied().unwrap_or_default();
        value(&after) - value(&before)
    };
    let (commits, events) = (grown("wasmwiz_log_commits_total"), grown("wasmwiz_log_events_total"));
    Ok(Row {
        connections,
        bare,
        bare_cpu_us,
        node_cpu_us: cpu * 1e6 / (events / 2.0).max(1.0),
        commits_per_second: commits / (seconds as f64 * 1.1),
        events_per_commit: events / commits.max(1.0),
        node: loaded,
        lag_s,
    })
}

/// Waits until every view shows what the log holds, and says how long that took.
fn catch_up(node: &Node) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let (_, head) = node.get("/v1/audit/head", "")?;
    let head: serde_json::Value = serde_json::from_str(&head)?;
    let position = head["position"].as_str().context("a position")?;
    let wanted = format!("Wasmwiz-Min-Position: {position}\r\n");
    while node.get("/v1/executions?limit=1", &wanted)?.0 != 200 {
        ensure!(begin.elapsed() < CATCH_UP_WITHIN, "the views did not catch up within {CATCH_UP_WITHIN:?}");
    }
    Ok(begin.elapsed())
}
