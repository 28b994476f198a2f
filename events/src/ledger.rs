//! The chain: every commit carries the hash of the one before it in its stream.
//!
//! ```text
//! hash = SHA-256( "wasmwiz.commit.v1" 0x00          the domain tag
//!                 prev_hash            32 bytes
//!                 tenant               u32 length, then its text
//!                 first_revision       u64
//!                 count                u32
//!                 commit_id            16 bytes
//!                 owner_epoch          u64
//!                 recorded_at          i64, milliseconds since 1970
//!                 body                 u64 length, then its bytes )
//! the first prev_hash = SHA-256( "wasmwiz.stream.v1" 0x00, tenant as text )
//! ```
//! All integers are big-endian. The position is not hashed: a stream keeps its proof when it moves to another log.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{
    commit::{Commit, Header},
    envelope::BadBody,
    id::TenantId,
    revision::{Epoch, Revision},
};

const COMMIT_TAG: &[u8] = b"wasmwiz.commit.v1\0";
const STREAM_TAG: &[u8] = b"wasmwiz.stream.v1\0";

/// One link of a chain: 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// A hash as it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a tenant's first commit chains from.
    pub fn genesis(tenant: &TenantId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(STREAM_TAG);
        hasher.update(tenant.as_str());
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash that seals a commit: see the module's documentation for its exact input.
pub fn chain_hash(header: &Header, body: &[u8]) -> ChainHash {
    let tenant = header.tenant.as_str().as_bytes();
    let mut hasher = Sha256::new();
    hasher.update(COMMIT_TAG);
    hasher.update(header.prev_hash.0);
    hasher.update(u32::try_from(tenant.len()).unwrap_or(u32::MAX).to_be_bytes());
    hasher.update(tenant);
    hasher.update(header.first_revision.get().to_be_bytes());
    hasher.update(header.count.to_be_bytes());
    hasher.update(header.commit_id.as_uuid().as_bytes());
    hasher.update(header.owner_epoch.get().to_be_bytes());
    hasher.update(header.recorded_at.unix_ms().to_be_bytes());
    hasher.update((body.len() as u64).to_be_bytes());
    hasher.update(body);
    ChainHash(hasher.finalize().into())
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Revision of the last event; [`Revision::NONE`] for an empty stream.
    pub revision: Revision,
    /// Hash of the last commit, or the genesis hash.
    pub hash: ChainHash,
    /// Epoch of the last commit's owner.
    pub epoch: Epoch,
}

impl Head {
    /// The head of a stream that has no event yet.
    pub fn genesis(tenant: &TenantId) -> Self {
        Self { revision: Revision::NONE, hash: ChainHash::genesis(tenant), epoch: Epoch::default() }
    }
}

/// What is wrong with a chain, and where.
#[derive(Debug, thiserror::Error)]
#[error("the history of tenant {tenant} is broken at revision {revision}: {fault}")]
pub struct Broken {
    /// Whose stream.
    pub tenant: TenantId,
    /// The revision that the faulty commit has, or should have.
    pub revision: Revision,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with one commit.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It does not begin where the one before it ends.
    #[error("it begins at revision {found} where {expected} follows")]
    Gap {
        /// The revision that follows.
        expected: Revision,
        /// The revision found.
        found: Revision,
    },
    /// It names another predecessor.
    #[error("it does not chain from the commit before it")]
    Unchained,
    /// Its hash is not the hash of its content.
    #[error("its hash is not the hash of its content")]
    Altered,
    /// Its owner's epoch is older than its predecessor's.
    #[error("its epoch {found} is older than epoch {before} before it")]
    EpochDecreased {
        /// The epoch found.
        found: Epoch,
        /// The epoch before it.
        before: Epoch,
    },
    /// Its body cannot be read.
    #[error("its body cannot be read: {0}")]
    Unreadable(#[source] BadBody),
    /// Its body holds other events than its header says.
    #[error("its events are not those that its header announces")]
    Mismatch,
}

/// Walks one stream, commit by commit.
#[derive(Debug, Clone)]
pub struct Verifier {
    tenant: TenantId,
    head: Head,
}

impl Verifier {
    /// A walk that begins at a tenant's first commit.
    pub fn new(tenant: TenantId) -> Self {
        let head = Head::genesis(&tenant);
        Self { tenant, head }
    }

    /// A walk that goes on behind `head`, which is taken on trust.
    pub const fn resume(tenant: TenantId, head: Head) -> Self {
        Self { tenant, head }
    }

    /// The end of what has been walked.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Goes on behind a commit that is passed over: what `next` says of the one before it is taken on trust.
    ///
    /// # Errors
    /// [`Broken`] unless `next` lies at least one event further on. The walk stays where it was.
    pub fn pass_over(&mut self, next: &Commit) -> Result<(), Broken> {
        let (header, expected) = (next.header(), self.head.revision.next());
        if header.first_revision <= expected {
            let fault = Fault::Gap { expected: expected.next(), found: header.first_revision };
            return Err(Broken { tenant: self.tenant.clone(), revision: expected, fault });
        }
        self.head = Head { revision: header.first_revision.previous(), hash: header.prev_hash, ..self.head };
        Ok(())
    }

    /// Checks the next commit: place, predecessor, epoch, hash, and that its body holds what its header says.
    ///
    /// # Errors
    /// [`Broken`]. The walk stays where it was.
    pub fn step(&mut self, commit: &Commit) -> Result<(), Broken> {
        let (header, expected) = (commit.header(), self.head.revision.next());
        let broken = |fault| Err(Broken { tenant: self.tenant.clone(), revision: expected, fault });
        if header.tenant != self.tenant {
            return broken(Fault::Mismatch);
        }
        if header.first_revision != expected {
            return broken(Fault::Gap { expected, found: header.first_revision });
        }
        if header.prev_hash != self.head.hash {
            return broken(Fault::Unchained);
        }
        if chain_hash(header, commit.body()) != commit.hash() {
            return broken(Fault::Altered);
        }
        if header.owner_epoch < self.head.epoch {
            return broken(Fault::EpochDecreased { found: header.owner_epoch, before: self.head.epoch });
        }
        let events = match commit.events() {
            Ok(events) => events,
            Err(error) => return broken(Fault::Unreadable(error)),
        };
        let announced = events.len() == header.count as usize
            && events.iter().all(|event| event.tenant == self.tenant)
            && events.iter().zip(expected.get()..).all(|(event, revision)| event.revision.get() == revision);
        if !announced {
            return broken(Fault::Mismatch);
        }
        self.head = commit.head();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
