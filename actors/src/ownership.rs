//! Who owns which tenants, as this node knows.
//!
//! Ownership only says who should try: what keeps a stream whole is the append's expected revision, and the epoch in it
//! that the log compares. So an answer may be stale; whoever acts on it is refused by the log, never wrong.

use async_trait::async_trait;
use wasmwiz_events::{
    id::{BootId, NodeId},
    revision::Epoch,
    shard::Shard,
};

use crate::topology::Topology;

/// Who owns a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This node, and it may decide.
    Here(Epoch),
    /// Another node.
    There {
        /// Which.
        node: NodeId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Nobody now: it is on its way from one node to another, or this node does not know what holds.
    Nobody,
}

/// What a node knows of the others. Answers come from memory: nobody waits for the network here.
#[async_trait]
pub trait Ownership: Send + Sync + 'static {
    /// Who owns a shard.
    fn owner(&self, shard: Shard) -> Owner;

    /// Waits until another than `seen` owns the shard. May return without a change. Never returns when none can come.
    async fn changed(&self, shard: Shard, seen: &Owner);

    /// Has this life of a node ended, as far as the cluster has decided? What it had accepted and not ended is lost then.
    /// When in doubt, no.
    fn has_ended(&self, node: &NodeId, boot: BootId) -> bool;

    /// The log knows a shard's epoch `current`, which is not older than any that this node was given: it has to be given
    /// another, above that.
    fn is_outdated(&self, shard: Shard, current: Epoch);

    /// The nodes and shards as this node sees them, for people.
    fn topology(&self) -> Topology;
}

/// A node that is the whole platform: it owns everything for as long as it lives.
#[derive(Debug, Clone)]
pub struct Alone {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
}

#[async_trait]
impl Ownership for Alone {
    fn owner(&self, _: Shard) -> Owner {
        Owner::Here(Epoch::FIRST)
    }

    async fn changed(&self, _: Shard, _: &Owner) {
        std::future::pending().await
    }

    /// A log on a disk has one process: every other life under this name is over. One under another name is left to its
    /// deadlines, as somebody may have renamed the node and meant it.
    fn has_ended(&self, node: &NodeId, boot: BootId) -> bool {
        *node == self.node && boot != self.boot
    }

    /// Whoever wrote that shares the log with a node that takes itself to be alone: nothing is given anew here.
    fn is_outdated(&self, shard: Shard, current: Epoch) {
        tracing::error!(%shard, %current, "another node has written to the log of a node that has no cluster; stop one of them");
    }

    fn topology(&self) -> Topology {
        Topology::alone(&self.node, self.boot)
    }
}
