//! `wasmwiz cluster`: which nodes there are, how their leases stand, who owns which shard, and what has moved.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    asking::Asking,
    block_on, checks,
    failure::EXIT_CODES,
    finding::{Grade, worst},
    render,
    table::Table,
    topology::{Node, Shard, Topology},
};

/// Lines of movements that are shown: the last ones.
const MOVES_SHOWN: usize = 10;

/// The nodes of the platform and the shards that they own, as the node that is asked sees them. Needs an operator's key.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz cluster status --url http://127.0.0.1:8080\n  wasmwiz cluster status --shards"))]
pub struct Cluster {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the nodes, their leases, the shards that are on their way, and the last movements. Exit code 1 when a shard has no
    /// owner that may write, or the node does not hear its cluster; `wasmwiz doctor` says what to do.
    Status {
        /// Show every shard.
        #[arg(long)]
        shards: bool,
    },
}

impl Cluster {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Action::Status { shards } = self.action;
        let api = self.asking.connect.api()?;
        let answer = block_on(async { Ok(api.get(&["v1", "cluster"], &[]).await?) })?;
        let cluster = Topology::read(&answer)?;
        render::show_all(self.asking.output, &answer, |_: &Value| tables(&cluster, shards))?;
        let well = worst(&checks::cluster(&cluster)) != Grade::Bad;
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What is known, the nodes, the shards that are not simply owned (or all), and what has moved.
fn tables(cluster: &Topology, all_shards: bool) -> Vec<Table> {
    let shards = cluster.shards.iter().filter(|shard| all_shards || shard.state != "owned");
    vec![head(cluster), nodes(cluster), of_shards(shards), moves(cluster)]
}

fn head(cluster: &Topology) -> Table {
    let mut table = Table::new(&["CLUSTER", "SEEN BY", "AT", "PLANS", "TABLE", "READ MS AGO", "LEASE MS", "TROUBLE"]);
    let of_table = cluster.table.as_ref();
    table.row([
        cluster.name.clone().unwrap_or_else(|| "none: the node is alone".to_owned()),
        cluster.node.clone(),
        cluster.at.to_string(),
        shown(cluster.leader.as_ref()),
        shown(of_table.map(|table| table.version)),
        shown(of_table.map(|table| table.read_ms_ago)),
        shown(cluster.lease_ms),
        shown(cluster.trouble.as_ref()),
    ]);
    table
}

fn nodes(cluster: &Topology) -> Table {
    let header =
        ["NODE", "STATE", "SHARDS", "EPOCHS", "RENEWED MS AGO", "ENDS IN MS", "LOSSES", "SINCE", "VERSION", "ADDRESS"];
    let mut table = Table::new(&header);
    for node in &cluster.nodes {
        let Node { name, state, since, losses, shards, lease, version, address } = node;
        let lease = lease.as_ref();
        table.row([
            name.clone(),
            state.clone(),
            shards.to_string(),
            shown(cluster.epochs_of(name).map(span)),
            shown(lease.map(|lease| lease.renewed_ms_ago)),
            shown(lease.map(|lease| lease.ends_in_ms)),
            losses.to_string(),
            shown(*since),
            shown(version.as_ref()),
            shown(address.as_ref()),
        ]);
    }
    table
}

fn of_shards<'s>(shards: impl Iterator<Item = &'s Shard>) -> Table {
    let mut table = Table::new(&["SHARD", "STATE", "NODE", "EPOCH", "SINCE", "NEXT"]);
    for Shard { shard, state, node, epoch, since, next } in shards {
        let (node, next) = (shown(node.as_ref()), shown(next.as_ref()));
        table.row([shard.to_string(), state.clone(), node, epoch.to_string(), shown(*since), next]);
    }
    table
}

fn moves(cluster: &Topology) -> Table {
    let mut table = Table::new(&["MOVED AT", "SHARDS", "FROM", "TO", "EPOCHS"]);
    let moves = cluster.moves();
    for moved in moves.iter().skip(moves.len().saturating_sub(MOVES_SHOWN)) {
        let (from, to) = (shown(moved.from.as_ref()), shown(moved.to.as_ref()));
        table.row([moved.at.to_string(), moved.shards.to_string(), from, to, span(moved.epochs)]);
    }
    table
}

fn span((least, most): (u64, u64)) -> String {
    if least == most { least.to_string() } else { format!("{least}-{most}") }
}

/// A cell; `-` when there is nothing.
fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::client::{render::Paint, topology::tests::of};

    fn lines(answer: &Value, all_shards: bool) -> Vec<Vec<String>> {
        let cluster = Topology::read(answer).unwrap();
        tables(&cluster, all_shards).iter().map(|table| table.lines(Paint::OFF)).collect()
    }

    #[test]
    fn nodes_with_their_leases_and_what_is_on_its_way_is_shown() {
        let mut cluster = of(&["a", "b"]);
        (cluster["shards"][7]["state"], cluster["shards"][7]["next"]) = (json!("draining"), json!("a"));
        cluster["movements"] =
            json!([{"shard": 3, "from": null, "to": "b", "epoch": 13, "at": "2027-01-15T08:00:00.000Z"}]);
        let shown = lines(&cluster, false);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let head = ["fleet", "a", "2027-01-15T08:00:00.000Z", "a", "9", "100", "2100", "-"];
        assert_eq!(words(&shown[0][1]), head);
        let b = [
            "b",
            "live",
            "128",
            "11-265",
            "400",
            "2600",
            "0",
            "2027-01-15T07:00:00.000Z",
            "0.1.0",
            "http://127.0.0.1:1",
        ];
        assert_eq!(words(&shown[1][2]), b);
        assert_eq!(
            shown[2].iter().map(|line| words(line)).skip(1).collect::<Vec<_>>(),
            [["7", "draining", "b", "17", "-", "a"]]
        );
        assert_eq!(words(&shown[3][1]), ["2027-01-15T08:00:00.000Z", "1", "-", "b", "13"]);
        assert_eq!(lines(&cluster, true)[2].len(), 257);
    }
}
