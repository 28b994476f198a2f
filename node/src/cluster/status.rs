//! The cluster as one node sees it, for people and for the API.

use std::collections::BTreeMap;

use serde::Serialize;
use wasmwiz_events::{
    id::{BootId, NodeId},
    revision::Epoch,
    shard::Shard,
    time::Timestamp,
};

use super::{
    clock::Mono,
    member::Standing,
    placement::table::{Place, Table},
    roster::Roster,
};

/// What a node knows of its cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// The cluster's name.
    pub cluster: String,
    /// The node that says so.
    pub node: NodeId,
    /// Who plans, if that is known.
    pub leader: Option<NodeId>,
    /// The version of its table; 0 without one.
    pub table_version: u64,
    /// Milliseconds that this node may go on deciding without a renewal; 0 when it is fenced.
    pub lease_ms: u64,
    /// What is in the way, and what to do.
    pub trouble: Option<String>,
    /// The members, by name.
    pub nodes: Vec<Node>,
    /// All shards, by number.
    pub shards: Vec<Where>,
    /// The last movements of shards that this node has seen, oldest first.
    pub movements: Vec<Movement>,
}

/// A member as it was last heard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// Its name.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// How far it is.
    pub standing: Standing,
    /// Its version.
    pub version: String,
    /// Where its API is.
    pub address: String,
    /// Its part in comparison with the others'.
    pub weight: u32,
    /// How many shards it owns.
    pub shards: u64,
    /// Milliseconds since its last renewal was heard.
    pub heard_ms_ago: u64,
}

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Where {
    /// Its number.
    pub shard: u8,
    /// `owned`, `draining` or `free`.
    pub state: &'static str,
    /// Its owner.
    pub node: Option<NodeId>,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A shard that has another owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Movement {
    /// Its number.
    pub shard: u8,
    /// Whose it was.
    pub from: Option<NodeId>,
    /// Whose it is.
    pub to: Option<NodeId>,
    /// Its epoch now.
    pub epoch: Epoch,
    /// When this node saw it.
    pub at: Timestamp,
}

impl Snapshot {
    /// Of a table and a roster, by this node.
    pub(super) fn of(node: NodeId, table: Option<&Table>, roster: &Roster, now: Mono) -> Self {
        let places: Vec<(Shard, &Place)> = table.into_iter().flat_map(Table::places).collect();
        let mut owned = BTreeMap::<&NodeId, u64>::new();
        for owner in places.iter().filter_map(|(_, place)| place.owner()) {
            *owned.entry(&owner.node).or_default() += 1;
        }
        let nodes = roster.records(now).map(|(record, heard)| Node {
            node: record.life.node.clone(),
            boot: record.life.boot,
            standing: record.standing,
            version: record.version.clone(),
            address: record.address.clone(),
            weight: record.weight,
            shards: owned.get(&record.life.node).copied().unwrap_or_default(),
            heard_ms_ago: u64::try_from(heard.as_millis()).unwrap_or(u64::MAX),
        });
        Self {
            cluster: String::new(),
            node,
            leader: None,
            table_version: table.map_or(0, Table::version),
            lease_ms: 0,
            trouble: None,
            nodes: nodes.collect(),
            shards: places.iter().map(|(shard, place)| whereabouts(*shard, place)).collect(),
            movements: Vec::new(),
        }
    }
}

fn whereabouts(shard: Shard, place: &Place) -> Where {
    let state = match place {
        Place::Free { .. } => "free",
        Place::Owned { .. } => "owned",
        Place::Draining { .. } => "draining",
    };
    Where { shard: shard.get(), state, node: place.owner().map(|owner| owner.node.clone()), epoch: place.epoch() }
}

/// What moved from one table to the next: one for each shard whose owner is another, also if there is none now.
pub(super) fn movements(before: &Table, after: &Table, at: Timestamp) -> Vec<Movement> {
    let moved = |shard: Shard| {
        let (old, new) = (before.place(shard), after.place(shard));
        let node = |place: &Place| place.owner().map(|owner| owner.node.clone());
        let movement = Movement { shard: shard.get(), from: node(old), to: node(new), epoch: new.epoch(), at };
        (old.owner() != new.owner()).then_some(movement)
    };
    Shard::all().filter_map(moved).collect()
}
