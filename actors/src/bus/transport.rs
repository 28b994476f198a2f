//! What carries frames from node to node.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use wasmwiz_events::{id::NodeId, revision::Epoch, shard::Shard};

/// A frame for the owner of a shard in an epoch, and nobody else.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The shard.
    pub shard: Shard,
    /// The epoch of the ownership: who has lost the shard since is not asked.
    pub epoch: Epoch,
    /// Who owns it.
    pub node: NodeId,
    /// W3C trace context of the request that it is sent for.
    pub traceparent: Option<Arc<str>>,
    /// At most [`crate::codec::FRAME_MAX_BYTES`].
    pub frame: Bytes,
    /// How long an answer is waited for.
    pub within: Duration,
}

/// A letter was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Nobody takes letters for that shard and epoch. It was certainly not taken in.
    #[error("nobody takes commands for the shard in this epoch")]
    NoResponders,
    /// It was certainly not sent.
    #[error("the command was not sent: {0}")]
    NotSent(Arc<str>),
    /// Sent, and no answer came in time: it may have been taken in.
    #[error("no answer came in time")]
    TimedOut,
    /// The connection was lost after it may have been sent: it may have been taken in.
    #[error("the connection was lost: {0}")]
    Lost(Arc<str>),
}

/// A way to other nodes. What it says of a letter must be true: what it calls not sent is sent again.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends a letter and waits for its answer.
    async fn request(&self, letter: Letter) -> Result<Bytes, Unanswered>;

    /// Tells a node something, without an answer; it may get lost.
    async fn tell(&self, node: &NodeId, frame: Bytes) -> Result<(), Unanswered>;
}
