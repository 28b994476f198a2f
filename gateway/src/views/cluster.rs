//! The platform's nodes and shards as one node sees them, on the wire.

use poem_openapi::Object;
use serde::Serialize;
use wasmwiz_actors::topology::{self, Topology};
use wasmwiz_events::{id::NodeId, time::Timestamp};

use super::written;

/// The nodes and shards as one node sees them.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Cluster {
    /// The cluster's name; null at a node that is alone, which is the whole platform.
    pub(crate) name: Option<String>,
    /// The node that says so.
    pub(crate) node: String,
    /// When it says so, by its clock.
    pub(crate) at: String,
    /// The node that plans; null when none is known, and at a node that is alone.
    pub(crate) leader: Option<String>,
    /// Milliseconds for which this node may go on deciding without renewing its lease; 0 when it decides nothing, null at a node
    /// that is alone and needs no lease.
    pub(crate) lease_ms: Option<u64>,
    /// What keeps this node from its cluster, and what to do; null when nothing does.
    pub(crate) trouble: Option<String>,
    /// The table of owners that the shards are read from; null at a node that is alone, and when there is none.
    pub(crate) table: Option<ClusterTable>,
    /// The nodes that have a lease, and those of the last 24 hours that had one.
    pub(crate) nodes: Vec<ClusterNode>,
    /// All 256 shards, by number; empty when there is no table.
    pub(crate) shards: Vec<ClusterShard>,
    /// The last shards that have moved since this node has started, the oldest first.
    pub(crate) movements: Vec<ClusterMovement>,
}

/// A table of owners.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ClusterTable {
    /// How many versions of it there have been.
    pub(crate) version: u64,
    /// When it was founded: at the cluster's first start, or after the one before was lost.
    pub(crate) founded_at: String,
    /// May its shards be given away? Not within a lease of its founding.
    pub(crate) open: bool,
    /// Milliseconds since this version was last known to be the newest. It grows while the node is cut off from NATS.
    pub(crate) read_ms_ago: u64,
}

/// A node.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ClusterNode {
    /// Its name.
    pub(crate) name: String,
    /// Which life of its process.
    pub(crate) boot: String,
    /// joining, live or leaving with a lease; without one silent until its shards are given away, then left, or lost if it had not
    /// said that it leaves.
    pub(crate) state: String,
    /// Since when this life is a member, or is over; null when nobody has noted it.
    pub(crate) since: Option<String>,
    /// How often the node was lost lately, until that is forgiven.
    pub(crate) losses: u32,
    /// How many shards it owns.
    pub(crate) shards: u64,
    /// Its lease; null without one.
    pub(crate) lease: Option<ClusterLease>,
    /// Its version; null without a lease.
    pub(crate) version: Option<String>,
    /// Where its API listens, as it says itself; null without a lease.
    pub(crate) address: Option<String>,
    /// Its part of the shards in comparison with the others'; null without a lease.
    pub(crate) weight: Option<u32>,
}

/// A lease, as it was heard by the node that answers.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ClusterLease {
    /// Which one of the node's life: 1 for the first.
    pub(crate) number: u32,
    /// Milliseconds that it lasts from a renewal on.
    pub(crate) ttl_ms: u64,
    /// Milliseconds since a renewal was last heard.
    pub(crate) renewed_ms_ago: u64,
    /// Milliseconds until the node counts as lost unless it is heard; 0 when that has passed.
    pub(crate) ends_in_ms: u64,
}

/// A shard: the tenants that are owned by a node, and move between nodes, as one.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ClusterShard {
    /// Its number.
    pub(crate) shard: u8,
    /// owned; draining while its owner gives it up; free when it has none.
    pub(crate) state: String,
    /// Its owner; null when it is free.
    pub(crate) node: Option<String>,
    /// The epoch in which its owner writes; of a free one the last.
    pub(crate) epoch: u64,
    /// Since when it has its owner; null when that is not known.
    pub(crate) since: Option<String>,
    /// The node that is to have it next, when that is decided.
    pub(crate) next: Option<String>,
}

/// A shard that has moved.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ClusterMovement {
    /// Its number.
    pub(crate) shard: u8,
    /// The node that had it last; null when that is not known.
    pub(crate) from: Option<String>,
    /// The node that has it; null while none has.
    pub(crate) to: Option<String>,
    /// Its epoch then.
    pub(crate) epoch: u64,
    /// When the node that answers saw it, by its clock.
    pub(crate) at: String,
}

fn name(node: &NodeId) -> String {
    node.to_string()
}

impl Cluster {
    /// What a node sees, at this time.
    pub(crate) fn of(topology: Topology, at: Timestamp) -> Self {
        Self {
            name: topology.cluster,
            node: name(&topology.node),
            at: written(at),
            leader: topology.leader.as_ref().map(name),
            lease_ms: topology.lease_ms,
            trouble: topology.trouble,
            table: topology.table.map(ClusterTable::from),
            nodes: topology.nodes.into_iter().map(ClusterNode::from).collect(),
            shards: topology.shards.into_iter().map(ClusterShard::from).collect(),
            movements: topology.movements.into_iter().map(ClusterMovement::from).collect(),
        }
    }
}

impl From<topology::Table> for ClusterTable {
    fn from(table: topology::Table) -> Self {
        let topology::Table { version, founded_at, open, read_ms_ago } = table;
        Self { version, founded_at: written(founded_at), open, read_ms_ago }
    }
}

impl From<topology::Node> for ClusterNode {
    fn from(node: topology::Node) -> Self {
        Self {
            name: name(&node.node),
            boot: node.boot.to_string(),
            state: node.state.as_str().to_owned(),
            since: node.since.map(written),
            losses: node.losses,
            shards: node.shards as u64,
            lease: node.lease.map(ClusterLease::from),
            version: node.version,
            address: node.address,
            weight: node.weight,
        }
    }
}

impl From<topology::Lease> for ClusterLease {
    fn from(lease: topology::Lease) -> Self {
        let topology::Lease { number, ttl_ms, renewed_ms_ago } = lease;
        Self { number, ttl_ms, renewed_ms_ago, ends_in_ms: ttl_ms.saturating_sub(renewed_ms_ago) }
    }
}

impl From<topology::Place> for ClusterShard {
    fn from(place: topology::Place) -> Self {
        Self {
            shard: place.shard.get(),
            state: place.state.as_str().to_owned(),
            node: place.node.as_ref().map(name),
            epoch: place.epoch.get(),
            since: place.since.map(written),
            next: place.next.as_ref().map(name),
        }
    }
}

impl From<topology::Movement> for ClusterMovement {
    fn from(moved: topology::Movement) -> Self {
        Self {
            shard: moved.shard.get(),
            from: moved.from.as_ref().map(name),
            to: moved.to.as_ref().map(name),
            epoch: moved.epoch.get(),
            at: written(moved.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wasmwiz_actors::ids::Ids;
    use wasmwiz_events::{
        revision::Epoch,
        shard::{SHARDS, Shard},
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
    const WRITTEN: &str = "2027-01-15T08:00:00.000Z";

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn a_node_that_is_alone_says_so_and_that_it_owns_every_shard() {
        let cluster = serde_json::to_value(Cluster::of(Topology::alone(&node("one"), Ids.boot()), NOW)).unwrap();
        for null in ["name", "leader", "lease_ms", "trouble", "table"] {
            assert_eq!(cluster[null], json!(null), "{null}");
        }
        assert_eq!((&cluster["node"], &cluster["at"]), (&json!("one"), &json!(WRITTEN)));
        assert_eq!((&cluster["nodes"][0]["state"], &cluster["nodes"][0]["shards"]), (&json!("live"), &json!(SHARDS)));
        let shards = cluster["shards"].as_array().unwrap();
        assert_eq!(shards.len(), SHARDS);
        let last = json!({"shard": 255, "state": "owned", "node": "one", "epoch": 1, "since": null, "next": null});
        assert_eq!(shards[255], last);
    }

    #[test]
    fn what_a_member_sees_keeps_its_form() {
        let boot = Ids.boot();
        let mut topology = Topology::alone(&node("a"), boot);
        topology.cluster = Some("fleet".into());
        topology.lease_ms = Some(0);
        topology.table = Some(topology::Table { version: 7, founded_at: NOW, open: true, read_ms_ago: 12 });
        topology.nodes[0].lease = Some(topology::Lease { number: 2, ttl_ms: 3_000, renewed_ms_ago: 4_000 });
        topology.nodes[0].since = Some(NOW);
        topology.nodes[0].state = topology::State::Leaving;
        topology.shards.truncate(1);
        topology.shards[0].state = topology::Owned::Draining;
        topology.shards[0].next = Some(node("b"));
        topology.movements = vec![topology::Movement {
            shard: Shard::new(9),
            from: Some(node("b")),
            to: None,
            epoch: Epoch::new(4),
            at: NOW,
        }];
        let version = topology.nodes[0].version.clone();
        let expected = json!({
            "name": "fleet", "node": "a", "at": WRITTEN, "leader": null, "lease_ms": 0, "trouble": null,
            "table": {"version": 7, "founded_at": WRITTEN, "open": true, "read_ms_ago": 12},
            "nodes": [{
                "name": "a", "boot": boot.to_string(), "state": "leaving", "since": WRITTEN, "losses": 0, "shards": 256,
                "lease": {"number": 2, "ttl_ms": 3_000, "renewed_ms_ago": 4_000, "ends_in_ms": 0},
                "version": version, "address": null, "weight": null
            }],
            "shards": [{"shard": 0, "state": "draining", "node": "a", "epoch": 1, "since": null, "next": "b"}],
            "movements": [{"shard": 9, "from": "b", "to": null, "epoch": 4, "at": WRITTEN}]
        });
        assert_eq!(serde_json::to_value(Cluster::of(topology, NOW)).unwrap(), expected);
    }
}
