//! What a member asks of the part of the node that serves shards.

use async_trait::async_trait;
use wasmwiz_events::{revision::Epoch, shard::Shard};

/// The shards of this node. A shard is taken up and released in turn; never two epochs of one at a time.
#[async_trait]
pub trait Shards: Send + Sync + 'static {
    /// This node owns the shard from now on, in this epoch: listen for its commands. Must not wait.
    fn take_up(&self, shard: Shard, epoch: Epoch);

    /// This node owns it no more. Admits nothing from now on, and returns once nothing of it is under way. It is given a
    /// bounded time; what is under way after that is refused by the log.
    async fn release(&self, shard: Shard, epoch: Epoch);

    /// Lives of nodes have ended: look for what they ran. Must not wait.
    fn lives_ended(&self);
}

/// Nobody serves anything: a member that only watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Idle;

#[async_trait]
impl Shards for Idle {
    fn take_up(&self, _: Shard, _: Epoch) {}

    async fn release(&self, _: Shard, _: Epoch) {}

    fn lives_ended(&self) {}
}
