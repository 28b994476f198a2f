//! The unit of append: events of one tenant, decided together, durable together, sealed into the tenant's chain.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{
    envelope::{self, BadBody, Envelope},
    id::{CommitId, TenantId},
    ledger::{self, ChainHash, Head},
    revision::{Epoch, Position, Revision},
    time::Timestamp,
};

/// The most events that one commit may hold. Bounds the work that one append can cause downstream.
pub const MAX_EVENTS: usize = 1_024;

/// The largest body of a commit, in bytes. Twice the payload bound of one message, as JSON envelopes are verbose.
pub const MAX_BODY_BYTES: usize = 1_024 * 1_024;

/// Everything about a commit that is hashed, except its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose stream.
    pub tenant: TenantId,
    /// Revision of the first event; the append expects the stream to end just before it.
    pub first_revision: Revision,
    /// How many events; at least one.
    pub count: u32,
    /// Idempotency: appending the same commit twice is one commit.
    pub commit_id: CommitId,
    /// Epoch of the shard's owner.
    pub owner_epoch: Epoch,
    /// When, from the clock of the owner.
    pub recorded_at: Timestamp,
    /// Hash of the stream's commit before this one.
    pub prev_hash: ChainHash,
}

/// A sealed commit. Its body is exactly the bytes that are hashed.
#[derive(Debug, Clone)]
pub struct Commit {
    header: Header,
    hash: ChainHash,
    body: Bytes,
    /// Decoded once, shared by all who fold it.
    events: OnceLock<Arc<[Envelope]>>,
}

/// The events cannot be sealed into one commit.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There is nothing to remember.
    #[error("a commit holds at least one event")]
    Empty,
    /// More than [`MAX_EVENTS`] events.
    #[error("a commit holds at most {MAX_EVENTS} events")]
    TooManyEvents,
    /// More than [`MAX_BODY_BYTES`].
    #[error("the body of a commit has at most {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The envelopes cannot be written.
    #[error("the events cannot be written")]
    Encode(#[from] serde_json::Error),
}

impl Commit {
    /// Seals `events` onto a stream that ends at `head`. Their revisions must continue it: the caller numbers them.
    ///
    /// # Errors
    /// [`SealError`] when the events are none, too many or too large.
    pub fn seal(
        head: &Head,
        tenant: TenantId,
        commit_id: CommitId,
        owner_epoch: Epoch,
        recorded_at: Timestamp,
        events: Vec<Envelope>,
    ) -> Result<Self, SealError> {
        if events.is_empty() {
            return Err(SealError::Empty);
        }
        let count = u32::try_from(events.len()).ok().filter(|_| events.len() <= MAX_EVENTS);
        let count = count.ok_or(SealError::TooManyEvents)?;
        debug_assert!(
            events.iter().zip(head.revision.next().get()..).all(|(event, revision)| event.revision.get() == revision)
        );
        let body = Bytes::from(envelope::encode(&events)?);
        if body.len() > MAX_BODY_BYTES {
            return Err(SealError::TooLarge);
        }
        let first_revision = head.revision.next();
        let header =
            Header { tenant, first_revision, count, commit_id, owner_epoch, recorded_at, prev_hash: head.hash };
        let hash = ledger::chain_hash(&header, &body);
        Ok(Self { header, hash, body, events: OnceLock::from(Arc::from(events)) })
    }

    /// A commit as it was found in storage. Nothing is checked: see [`ledger::Verifier`].
    pub const fn from_stored(header: Header, hash: ChainHash, body: Bytes) -> Self {
        Self { header, hash, body, events: OnceLock::new() }
    }

    /// Everything about it that is hashed, except its body.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Whose stream.
    pub const fn tenant(&self) -> &TenantId {
        &self.header.tenant
    }

    /// The hash it was sealed with.
    pub const fn hash(&self) -> ChainHash {
        self.hash
    }

    /// The exact bytes that are hashed: a JSON array of envelopes.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Revision of its last event.
    pub fn last_revision(&self) -> Revision {
        self.header.first_revision.previous().plus(u64::from(self.header.count))
    }

    /// The end of the stream once this commit is its last.
    pub fn head(&self) -> Head {
        Head { revision: self.last_revision(), hash: self.hash, epoch: self.header.owner_epoch }
    }

    /// The events, decoded from the body at the first call.
    ///
    /// # Errors
    /// [`BadBody`] when the body is not what this platform writes.
    pub fn events(&self) -> Result<&Arc<[Envelope]>, BadBody> {
        if let Some(events) = self.events.get() {
            return Ok(events);
        }
        let events = Arc::from(envelope::decode(&self.body)?);
        Ok(self.events.get_or_init(|| events))
    }
}

/// A commit that the log has.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its place in the log.
    pub position: Position,
    /// The commit.
    pub commit: Commit,
}
