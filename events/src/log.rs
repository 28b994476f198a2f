//! The event log: what every log promises, whatever keeps it.
//!
//! ```text
//!             append(commit)                     read_all(after p) / subscribe(after p)
//!                  │                                        │
//!   tenant a   ─ 1..3 ─ 4 ─ 5..8 ─►                ┌────────┴────────┐
//!   tenant b   ─ 1 ─ 2..4 ─►             positions │ 1  2  3  4  5 … │ only grow
//!                                                  └─────────────────┘
//! ```
//! - **Acknowledged means durable.** `append` returns after the commit would survive the loss of power.
//! - **One writer a stream.** A commit names the revision that it follows. If the stream has moved on: `Conflict`.
//!   If a younger owner has written: `Fenced`. Nothing is stored in either case.
//! - **The same commit twice is one commit**: a repeated append gives the first one's position.
//! - **A reader sees durable commits only**, in the order of their positions, each once.
//! - **After an I/O error the log is poisoned**: it refuses everything, and the process must stop. Whether the last
//!   append became durable is known only after a restart.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    commit::{Commit, Recorded},
    digest::Digest,
    id::TenantId,
    ledger::Head,
    payload::Payload,
    revision::{Epoch, Position, Revision},
};

mod admission;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
pub mod jetstream;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod recent;
pub mod sqlite;

/// A commit to be appended, and the payloads that ride with it.
#[derive(Debug, Clone)]
pub struct Append {
    /// The sealed commit.
    pub commit: Commit,
    /// At most [`crate::payload::MAX_COMMIT_BYTES`] in all, [`crate::payload::MAX_INLINE_BYTES`] each.
    pub payloads: Vec<Payload>,
}

/// The commit is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub position: Position,
    /// Was it there already? Then this append changed nothing.
    pub repeated: bool,
}

/// The commit was not appended, or it is not known whether it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The stream does not end where the commit begins. The owner's memory is stale: forget it and read again.
    #[error("the stream is at revision {actual}, the commit follows {expected}")]
    Conflict {
        /// The revision that the commit follows.
        expected: Revision,
        /// The revision that the stream is at.
        actual: Revision,
        /// The epoch in which it came there. An older one than the commit's: an owner of before had something under way.
        epoch: Epoch,
    },
    /// A younger owner has written to the stream.
    #[error("the stream is owned in epoch {current}, the commit was sealed in epoch {offered}")]
    Fenced {
        /// The epoch of the commit.
        offered: Epoch,
        /// The epoch of the stream.
        current: Epoch,
    },
    /// The commit does not chain from the stream's last one, though its revision fits: somebody's memory is wrong.
    #[error("the commit does not chain from revision {0} of its stream")]
    Unchained(Revision),
    /// Over the bounds of [`crate::payload`] or [`crate::commit`].
    #[error("the commit has more payload or body bytes than a log takes")]
    TooLarge,
    /// The log has as much waiting as it takes. Nothing was stored; try again later.
    #[error("the log has too many appends waiting")]
    Busy,
    /// The log cannot be reached, or did not answer in time. The commit may or may not be stored: append the same
    /// commit again to find out.
    #[error("it is not known whether the commit was stored: {0}")]
    Unknown(Arc<str>),
    /// The log had an I/O error and has stopped for good.
    #[error("the log has stopped after an I/O error: {0}")]
    Poisoned(Arc<str>),
}

/// The log could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The log had an I/O error, or is closed.
    #[error("the log cannot be read: {0}")]
    Unavailable(Arc<str>),
    /// What is stored is not what a log stores. A read of several commits gives those before the place first: it fails
    /// when the first one that it would give is damaged.
    #[error("the log is damaged at position {position}: {what}")]
    Damaged {
        /// Where. If one stream is read and nothing says where its commit is, the place behind which it is.
        position: Position,
        /// What was found.
        what: Arc<str>,
    },
}

/// How much one read may return. At least one commit is returned if there is one, whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// The most commits.
    pub commits: usize,
    /// The most body bytes.
    pub bytes: usize,
}

impl Default for ReadLimit {
    /// 512 commits and 4 MiB: large enough to be sequential, small enough to hold.
    fn default() -> Self {
        Self { commits: 512, bytes: 4 << 20 }
    }
}

/// An append-only, ordered, durable record of all tenants' streams. See the module's documentation for its promises.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Appends a commit and waits until it is durable.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// Are commits stored in the order in which their appends were first polled? Then a commit may be offered on top of
    /// one that is not acknowledged yet: if that one is refused, so is this one.
    fn keeps_order(&self) -> bool {
        false
    }

    /// Commits of one stream that hold `from` or later revisions, in order. Empty at the end of the stream.
    async fn read_stream(
        &self,
        tenant: &TenantId,
        from: Revision,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError>;

    /// The same of the commits that lie behind `after`: what comes before it is not read, whatever it is. For who knows where the
    /// commit is that `from` follows, and past a commit that cannot be read.
    async fn read_stream_behind(
        &self,
        tenant: &TenantId,
        from: Revision,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError>;

    /// Commits of all streams after `after`, in the order of their positions. Empty at the end of the log.
    async fn read_all(&self, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError>;

    /// The commit at `position`, if there is one.
    async fn read_at(&self, position: Position) -> Result<Option<Arc<Recorded>>, ReadError>;

    /// Whose the commit at `position` is, as something says that is kept beside the commit, so that damage to the one leaves the
    /// other; `None` when nothing does: then it may be anybody's. Costs up to a look at each commit of the log.
    async fn tenant_at(&self, position: Position) -> Result<Option<TenantId>, ReadError>;

    /// The payloads that rode with the commit at `position`; none when they were not kept.
    async fn payloads(&self, position: Position) -> Result<Vec<Payload>, ReadError>;

    /// One payload of the commit at `position`.
    async fn payload(&self, position: Position, digest: Digest) -> Result<Option<Bytes>, ReadError> {
        let payloads = self.payloads(position).await?;
        Ok(payloads.into_iter().find(|payload| payload.digest() == digest).map(|payload| payload.bytes().clone()))
    }

    /// Where the commits of a stream are with which payloads ride: those that begin at `through` or before it and lie behind `after`,
    /// in order, at most `limit`. A log that cannot forget payloads says that there are none.
    async fn with_payloads(
        &self,
        _tenant: &TenantId,
        _through: Revision,
        _after: Position,
        _limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        Ok(Vec::new())
    }

    /// Forgets payloads, durably: of those that ride with a commit, the ones that are named here stay. What is hashed stays as it is.
    /// Says how many bytes it has forgotten. Doing it twice is doing it once.
    async fn keep_payloads(&self, _kept: Vec<(Position, Vec<Digest>)>) -> Result<u64, AppendError> {
        Ok(0)
    }

    /// Everything after `after`: first what is there, then what comes, without gap or repetition.
    async fn subscribe(&self, after: Position) -> Result<Box<dyn Subscription>, ReadError>;

    /// The end of a tenant's stream; [`Head::genesis`] when it is empty.
    async fn head(&self, tenant: &TenantId) -> Result<Head, ReadError>;

    /// Position of the last durable commit; [`Position::START`] when the log is empty.
    async fn tail(&self) -> Result<Position, ReadError>;

    /// Does what is acknowledged outlive a loss of power? Nothing to say where the log itself syncs it. From memory.
    ///
    /// # Errors
    /// Why it may not, or why nobody knows, with a remedy: whoever runs the log has not accepted that.
    fn durability(&self) -> Result<Option<Arc<str>>, Arc<str>> {
        Ok(None)
    }

    /// Waits until the log is poisoned, and says why. The process must then stop. Never returns for a healthy log.
    async fn poisoned(&self) -> Arc<str>;
}

/// An ordered reader that follows the log.
#[async_trait]
pub trait Subscription: Send {
    /// The next commits: at least one, at most `limit`. Waits at the end of the log. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`ReadError`]. The subscription may be asked again, from the same place.
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError>;
}
