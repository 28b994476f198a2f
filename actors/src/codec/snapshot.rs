//! The state of a tenant at one of its revisions, kept beside the log so that waking it need not read its whole past.
//!
//! ```text
//! "wwzs" │ version u8 │ SHA-256 of version, known types of events and body, 32 bytes │ body
//! ```
//! It is never needed: whatever is off with one, the stream is folded from its beginning instead. So there is no reading of
//! older versions; a change of any type in the body is a new `VERSION`, and a test holds the bytes of a known state.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmwiz_events::{
    event::TYPE_NAMES,
    id::TenantId,
    ledger::{ChainHash, Head},
    revision::{Epoch, Position, Revision},
    time::{Moment, Timestamp},
};

use crate::{
    entity::{Places, Rehydrated},
    tenant::Tenant,
};

/// The largest snapshot that is written or read, in bytes: some ten times a tenant with all that its tier may have.
pub(crate) const SNAPSHOT_MAX_BYTES: usize = 256 << 20;

/// The version that this node writes, and the only one that it reads. It is raised with every change of the state's shape, of what
/// an event does to it, and with every new type of event.
pub(crate) const VERSION: u8 = 4;

const MAGIC: &[u8; 4] = b"wwzs";
const SUM_BYTES: usize = 32;

/// The version that these bytes begin with, if they are those of a snapshot.
pub(crate) fn version_of(head: &[u8]) -> Option<u8> {
    head.strip_prefix(MAGIC)?.first().copied()
}

/// Why a snapshot is of no use here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// Nothing of ours.
    #[error("these bytes are no snapshot")]
    NotASnapshot,
    /// Another node of this platform wrote it, or will.
    #[error("it is of version {0}, and this node reads version {VERSION} alone")]
    Version(u8),
    /// Cut off, or changed since it was written.
    #[error("its checksum does not fit")]
    Altered,
    /// It is whole, and somebody else's.
    #[error("it is another tenant's")]
    Tenant,
    /// It cannot be written, or its body is not of its shape.
    #[error("it cannot be written or read: {0}")]
    Body(String),
}

impl SnapshotError {
    /// The same for a metric.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "other_version",
            Self::NotASnapshot | Self::Altered | Self::Tenant | Self::Body(_) => "damaged",
        }
    }
}

/// A tenant as of a commit of the log.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Its times are as if the wall clock were the steady one.
    pub(crate) tenant: Tenant,
    pub(crate) places: Places,
    /// The end of the stream then.
    pub(crate) head: Head,
    /// The log's position of the last commit, where it can be asked whether it still has it.
    pub(crate) position: Position,
    /// When that was, by the wall clock.
    pub(crate) taken_at: Timestamp,
}

#[derive(Serialize)]
struct Written<'a> {
    head: (Revision, [u8; 32], Epoch),
    position: Position,
    taken_at_ms: i64,
    places: &'a Places,
    tenant: &'a Tenant,
}

#[derive(Deserialize)]
struct Read {
    head: (Revision, [u8; 32], Epoch),
    position: Position,
    taken_at_ms: i64,
    places: Places,
    tenant: Tenant,
}

impl Snapshot {
    /// Of a tenant that stands exactly where the log does.
    pub(crate) fn of(folded: &Rehydrated, now: Moment) -> Self {
        let Rehydrated { tenant, head, position, places, .. } = folded;
        let onto_the_wall = now.wall.unix_ms().saturating_sub(now.steady.as_ms());
        Self {
            tenant: tenant.clone().shifted(onto_the_wall),
            places: places.clone(),
            head: *head,
            position: *position,
            taken_at: now.wall,
        }
    }

    /// The tenant as this process sees it at `now`. Nothing of it lies in the future, also when the wall clock was set back
    /// meanwhile.
    pub(crate) fn wake(self, now: Moment) -> Rehydrated {
        let seen = now.wall.max(self.taken_at);
        let onto_the_steady = now.steady.as_ms().saturating_sub(seen.unix_ms());
        Rehydrated {
            tenant: self.tenant.shifted(onto_the_steady),
            head: self.head,
            position: self.position,
            places: self.places,
            kept: self.head.revision,
            has_unknown: false,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let written = Written {
            head: (self.head.revision, *self.head.hash.as_bytes(), self.head.epoch),
            position: self.position,
            taken_at_ms: self.taken_at.unix_ms(),
            places: &self.places,
            tenant: &self.tenant,
        };
        let body = bincode::serde::encode_to_vec(&written, bincode::config::standard()).map_err(body)?;
        let bytes = [&MAGIC[..], &[VERSION], &checksum(VERSION, &body), &body].concat();
        if bytes.len() > SNAPSHOT_MAX_BYTES {
            return Err(SnapshotError::Body(format!("it would have {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8], tenant: &TenantId) -> Result<Self, SnapshotError> {
        let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Err(SnapshotError::NotASnapshot) };
        let Some((&[version], rest)) = rest.split_first_chunk::<1>() else { return Err(SnapshotError::NotASnapshot) };
        if magic != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let Some((sum, rest)) = rest.split_first_chunk::<SUM_BYTES>() else { return Err(SnapshotError::Altered) };
        if checksum(version, rest) != *sum {
            return Err(SnapshotError::Altered);
        }
        let (read, used) =
            bincode::serde::decode_from_slice::<Read, _>(rest, bincode::config::standard()).map_err(body)?;
        if used != rest.len() {
            return Err(SnapshotError::Body("it is longer than what is in it".into()));
        }
        let Read { head: (revision, hash, epoch), position, taken_at_ms, places, tenant: state } = read;
        if state.id() != tenant {
            return Err(SnapshotError::Tenant);
        }
        let head = Head { revision, hash: ChainHash::from_bytes(hash), epoch };
        let taken_at = Timestamp::from_unix_ms(taken_at_ms);
        Ok(Self { tenant: state, places, head, position, taken_at })
    }
}

/// Which types of events this version knows is a part of it: what an older or later one made of a history is another state.
fn checksum(version: u8, body: &[u8]) -> [u8; SUM_BYTES] {
    let mut hasher = Sha256::new().chain_update([version]);
    for name in TYPE_NAMES {
        hasher.update(name);
        hasher.update([0]);
    }
    hasher.chain_update(body).finalize().into()
}

fn body(error: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::Body(error.to_string())
}

#[cfg(test)]
mod tests;
