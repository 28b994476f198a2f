//! The platform's nodes and shards as one node sees them, for people and for the API. Nothing is decided by it: see
//! [`ownership`](crate::ownership) for that.

use wasmwiz_events::{
    id::{BootId, NodeId},
    revision::Epoch,
    shard::{SHARDS, Shard},
    time::Timestamp,
};

/// What one node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The cluster's name. None at a node that is alone.
    pub cluster: Option<String>,
    /// The node that says so.
    pub node: NodeId,
    /// Who plans, if that is known.
    pub leader: Option<NodeId>,
    /// Milliseconds that this node may go on deciding without a renewal; 0 when it is fenced. None at a node that is alone: it
    /// needs no lease.
    pub lease_ms: Option<u64>,
    /// What keeps this node from its cluster, and what to do.
    pub trouble: Option<String>,
    /// The table of owners that `shards` are of. None at a node that is alone, and at one that has not read any.
    pub table: Option<Table>,
    /// All nodes that have a lease, and those that had one and are remembered in the table; by name.
    pub nodes: Vec<Node>,
    /// All shards, by number. None without a table.
    pub shards: Vec<Place>,
    /// The last movements of shards that this node has seen since its start, oldest first.
    pub movements: Vec<Movement>,
}

/// Which table of owners it is, and how old this node's copy of it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// How many versions of it there have been.
    pub version: u64,
    /// When it was founded.
    pub founded_at: Timestamp,
    /// May its shards be given away? Not within a lease of its founding.
    pub open: bool,
    /// Milliseconds since this was last known to be the newest.
    pub read_ms_ago: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// How far it is.
    pub state: State,
    /// Since when this life is known to the table, or is over.
    pub since: Option<Timestamp>,
    /// How often it was lost lately, until that is forgiven.
    pub losses: u32,
    /// How many shards it owns.
    pub shards: usize,
    /// Its lease as it was heard here; none of one that has ended, and of a node that is alone.
    pub lease: Option<Lease>,
    /// Its version, if that was heard.
    pub version: Option<String>,
    /// Where it says that its API is.
    pub address: Option<String>,
    /// Its part of the shards in comparison with the others'.
    pub weight: Option<u32>,
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has a lease and no table yet.
    Joining,
    /// It owns what it is given.
    Live,
    /// It is about to stop: what it owns moves to others.
    Leaving,
    /// It has no lease any more, and nobody has drawn the conclusion yet.
    Silent,
    /// It left as it said.
    Left,
    /// Its lease ended without a word.
    Lost,
}

impl State {
    /// Its name, as the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Live => "live",
            Self::Leaving => "leaving",
            Self::Silent => "silent",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }
}

/// A lease, as it was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Which one of the node's life: 1 for the first.
    pub number: u32,
    /// Milliseconds that it lasts from a renewal on.
    pub ttl_ms: u64,
    /// Milliseconds since a renewal was last heard here.
    pub renewed_ms_ago: u64,
}

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which shard.
    pub shard: Shard,
    /// Has it an owner?
    pub state: Owned,
    /// Its owner, also while it drains.
    pub node: Option<NodeId>,
    /// Its epoch; of a free one the last that was given.
    pub epoch: Epoch,
    /// Since when it has its owner, if that is known.
    pub since: Option<Timestamp>,
    /// Who is to have it next.
    pub next: Option<NodeId>,
}

/// Has a shard an owner?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owned {
    /// It has.
    Owned,
    /// Its owner is about to give it up, and admits nothing.
    Draining,
    /// It has none.
    Free,
}

impl Owned {
    /// Its name, as the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Draining => "draining",
            Self::Free => "free",
        }
    }
}

/// A shard that has got another owner, or lost its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Which shard.
    pub shard: Shard,
    /// Who had it last, if that is known.
    pub from: Option<NodeId>,
    /// Who has it. None while nobody has.
    pub to: Option<NodeId>,
    /// Its epoch then.
    pub epoch: Epoch,
    /// When this node saw it, by its clock.
    pub at: Timestamp,
}

impl Topology {
    /// A node that is the whole platform: it owns every shard, in the first epoch, for as long as it lives.
    pub fn alone(node: &NodeId, boot: BootId) -> Self {
        let place = |shard| Place {
            shard,
            state: Owned::Owned,
            node: Some(node.clone()),
            epoch: Epoch::FIRST,
            since: None,
            next: None,
        };
        let all = Node {
            node: node.clone(),
            boot,
            state: State::Live,
            since: None,
            losses: 0,
            shards: SHARDS,
            lease: None,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            address: None,
            weight: None,
        };
        Self {
            cluster: None,
            node: node.clone(),
            leader: None,
            lease_ms: None,
            trouble: None,
            table: None,
            nodes: vec![all],
            shards: Shard::all().map(place).collect(),
            movements: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;

    #[test]
    fn a_node_that_is_alone_owns_every_shard_in_the_first_epoch_without_a_lease() {
        let node = NodeId::new("one").unwrap();
        let alone = Topology::alone(&node, Ids.boot());
        assert_eq!((alone.cluster, alone.leader, alone.lease_ms, alone.table), (None, None, None, None));
        let owned = |place: &Place| {
            place.state == Owned::Owned && place.node.as_ref() == Some(&node) && place.epoch == Epoch::FIRST
        };
        assert!(alone.shards.len() == SHARDS && alone.shards.iter().all(owned));
        assert_eq!(
            alone.nodes.iter().map(|node| (node.state, node.shards)).collect::<Vec<_>>(),
            [(State::Live, SHARDS)]
        );
    }
}
