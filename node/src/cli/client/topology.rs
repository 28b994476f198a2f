//! What a node says of the platform's nodes and shards: `GET /v1/cluster`, read.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use wasmwiz_events::time::Timestamp;

/// The nodes and shards as one node sees them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Topology {
    /// The cluster's name; none of a node that is alone.
    pub(super) name: Option<String>,
    /// Who says so.
    pub(super) node: String,
    /// When, by its clock.
    pub(super) at: Timestamp,
    /// Who plans.
    pub(super) leader: Option<String>,
    /// Milliseconds that it may go on deciding.
    pub(super) lease_ms: Option<u64>,
    /// What is in the way.
    pub(super) trouble: Option<String>,
    /// Which table it has.
    pub(super) table: Option<Table>,
    /// Who is there, or was.
    pub(super) nodes: Vec<Node>,
    /// Where each shard is.
    pub(super) shards: Vec<Shard>,
    /// What has moved.
    pub(super) movements: Vec<Movement>,
}

/// A table of owners.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Table {
    pub(super) version: u64,
    pub(super) founded_at: Timestamp,
    pub(super) open: bool,
    pub(super) read_ms_ago: u64,
}

/// A node. Its state is a word: a later version may have more of them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) since: Option<Timestamp>,
    pub(super) losses: u32,
    pub(super) shards: u64,
    pub(super) lease: Option<Lease>,
    pub(super) version: Option<String>,
    pub(super) address: Option<String>,
}

/// A lease.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lease {
    pub(super) ttl_ms: u64,
    pub(super) renewed_ms_ago: u64,
    pub(super) ends_in_ms: u64,
}

/// A shard.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Shard {
    pub(super) shard: u8,
    pub(super) state: String,
    pub(super) node: Option<String>,
    pub(super) epoch: u64,
    pub(super) since: Option<Timestamp>,
    pub(super) next: Option<String>,
}

/// A shard that has moved.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Movement {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) epoch: u64,
    pub(super) at: Timestamp,
}

/// Shards that have moved together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) at: Timestamp,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) shards: usize,
    /// The smallest and the largest of their epochs.
    pub(super) epochs: (u64, u64),
}

impl Topology {
    /// Reads an answer.
    ///
    /// # Errors
    /// When it is none of this version of the API.
    pub(super) fn read(answer: &Value) -> anyhow::Result<Self> {
        Self::deserialize(answer).context("the answer is none that this version knows; ask with the node's own program")
    }

    /// Those that have a lease.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Node, &Lease)> {
        self.nodes.iter().filter_map(|node| node.lease.as_ref().map(|lease| (node, lease)))
    }

    /// The smallest and the largest epoch of the shards that a node has.
    pub(super) fn epochs_of(&self, node: &str) -> Option<(u64, u64)> {
        let theirs = self.shards.iter().filter(|shard| shard.node.as_deref() == Some(node));
        theirs.map(|shard| (shard.epoch, shard.epoch)).reduce(wider)
    }

    /// What has moved, as it moved together; the oldest first.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = BTreeMap::new();
        for Movement { from, to, epoch, at } in &self.movements {
            let moved = moves.entry((*at, from.clone(), to.clone())).or_insert((0, (*epoch, *epoch)));
            *moved = (moved.0 + 1, wider(moved.1, (*epoch, *epoch)));
        }
        let moves = moves.into_iter();
        moves.map(|((at, from, to), (shards, epochs))| Move { at, from, to, shards, epochs }).collect()
    }
}

fn wider(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0.min(other.0), one.1.max(other.1))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A cluster of these nodes, which own its shards in turn.
    pub(in crate::cli::client) fn of(names: &[&str]) -> Value {
        let node = |name: &&str| {
            let shards = (0..256_usize).filter(|shard| names[shard % names.len()] == *name).count();
            json!({
                "name": name, "boot": "019dbb4a-5f0e-7c31-9a42-6d1f0b8e7c55", "state": "live", "since": "2027-01-15T07:00:00.000Z",
                "losses": 0, "shards": shards, "version": "0.1.0", "address": "http://127.0.0.1:1", "weight": 1,
                "lease": {"number": 1, "ttl_ms": 3_000, "renewed_ms_ago": 400, "ends_in_ms": 2_600}
            })
        };
        let shard = |shard: usize| {
            let node = names[shard % names.len()];
            json!({"shard": shard, "state": "owned", "node": node, "epoch": 10 + shard, "since": null, "next": null})
        };
        json!({
            "name": "fleet", "node": names[0], "at": "2027-01-15T08:00:00.000Z", "leader": names[0], "lease_ms": 2_100,
            "trouble": null, "nodes": names.iter().map(node).collect::<Vec<_>>(), "movements": [],
            "table": {"version": 9, "founded_at": "2027-01-15T07:00:00.000Z", "open": true, "read_ms_ago": 100},
            "shards": (0..256).map(shard).collect::<Vec<_>>()
        })
    }

    #[test]
    fn shards_that_moved_together_are_one_line_with_the_epochs_they_came_to() {
        let mut cluster = of(&["a", "b"]);
        let moved = |shard: u8, from: Value, epoch: u64, second: u8| {
            let at = format!("2027-01-15T08:00:0{second}.000Z");
            json!({"shard": shard, "from": from, "to": "a", "epoch": epoch, "at": at})
        };
        cluster["movements"] = json!([
            moved(1, json!("b"), 5, 1),
            moved(2, json!(null), 9, 1),
            moved(3, json!("b"), 7, 1),
            moved(1, json!("b"), 8, 2),
        ]);
        let moves = Topology::read(&cluster).unwrap().moves();
        let seen: Vec<_> = moves.iter().map(|moved| (moved.from.as_deref(), moved.shards, moved.epochs)).collect();
        assert_eq!(seen, [(None, 1, (9, 9)), (Some("b"), 2, (5, 7)), (Some("b"), 1, (8, 8))]);
    }

    #[test]
    fn a_node_has_the_epochs_of_its_shards_and_another_answer_is_no_topology() {
        let cluster = Topology::read(&of(&["a", "b"])).unwrap();
        assert_eq!([cluster.epochs_of("a"), cluster.epochs_of("c")], [Some((10, 264)), None]);
        assert!(Topology::read(&json!({"items": []})).is_err());
    }
}
