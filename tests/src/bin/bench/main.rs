//! The benchmark: one run on one machine, every figure as it was measured, and ratios against figures of the same run.
//!
//! `cargo xtask bench` runs it. The node is the release binary, started as its users start it, on a fresh data folder;
//! the load comes from this process over loopback, so both share the machine's cores. The bare server beside it runs
//! the same module with the same engine settings and records nothing.

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a benchmark reads the clock and prints, and what is missing ends it"
)]

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// The node's, so that the bare server beside it has no other one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod alternate;
mod bare;
mod cluster;
mod commits;
mod credentials;
mod load;
mod logs;
mod node;
mod probe;
mod processors;
mod repeatable;
mod report;

/// What is measured.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    after_help = "Examples:\n  cargo xtask bench -- --seconds 10\n  cargo xtask bench -- --guests-only\n  \
                  cargo xtask bench -- --credentials-only\n  \
                  cargo xtask bench -- --log-only --seconds 4\n  cargo xtask bench -- --cluster-only\n  \
                  cargo xtask bench -- --against ../earlier/target/release/wasmwiz"
)]
struct Args {
    /// Seconds of load for each number of connections.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Numbers of connections, closed loop.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    connections: Vec<usize>,
    /// The folder below which the node keeps its data: its disk is part of what is measured.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
    /// Measure only what it costs a guest that its end can be run again.
    #[arg(long)]
    guests_only: bool,
    /// Measure only what it costs to know who asks.
    #[arg(long, conflicts_with = "guests_only")]
    credentials_only: bool,
    /// Measure only the logs: commits on three nats-servers that sync each, against bare publishes; executions with that log and with
    /// SQLite; and what the feed costs.
    #[arg(long, conflicts_with_all = ["guests_only", "credentials_only"])]
    log_only: bool,
    /// Measure only clusters: executions of one node and of three, what a routed command costs, how soon a killed node's tenants are served
    /// elsewhere, and what idle tenants take.
    #[arg(long, conflicts_with_all = ["guests_only", "credentials_only", "log_only"])]
    cluster_only: bool,
    /// About how many tenants the node has that is killed, one of three.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    tenants_taken: usize,
    /// How many tenants are idle, on one node.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    tenants_idle: usize,
    /// Measure only this program against the one that is named, in turns: what a change costs.
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["guests_only", "credentials_only", "log_only", "cluster_only"])]
    against: Option<PathBuf>,
    /// Serve as the bare server, on a free port that is printed. The benchmark starts itself like this.
    #[arg(long, hide = true)]
    serve_bare: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.serve_bare {
        bare::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.credentials_only {
        credentials::Credentials::measure(&args.data.join("credentials"))?.print();
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(other) = &args.against {
        let alternation = alternate::Alternation::measure(&args.data.join("alternate"), other)?;
        alternation.print();
        return Ok(if alternation.target_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if args.log_only {
        let logs = logs::Logs::measure(&args)?;
        logs.print();
        return Ok(if logs.targets_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if args.cluster_only {
        cluster::Cluster::measure(&args)?.print();
        return Ok(ExitCode::SUCCESS);
    }
    let costs = repeatable::costs().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    report::print_costs(&costs);
    if args.guests_only {
        return Ok(ExitCode::SUCCESS);
    }
    let measured = report::Measured::collect(&args)?;
    measured.print();
    Ok(if measured.targets_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
