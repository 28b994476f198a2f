//! What is kept elsewhere, so that nobody can rewrite a history from its end: the heads of all streams, and the order of all
//! commits, at one place of the log.
//!
//! ```text
//! order = SHA-256( "wasmwiz.order.v1" 0x00, order before, hash of the commit )        over the commits in the log's order
//! the first order before is 32 zeros
//! ```
//! A chain proves that what is before a commit belongs there. It cannot show that commits behind its end are gone, that all of it
//! was hashed anew, that a whole tenant is gone, or that tenants' commits stand in another order among each other. Heads that
//! were kept show each of these for all that was there then.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    digest::Digest,
    id::TenantId,
    ledger::ChainHash,
    revision::{Position, Revision},
};

const ORDER_TAG: &[u8] = b"wasmwiz.order.v1\0";

/// The ends of all streams, and the order of all commits, up to one position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// The last commit that is covered.
    pub position: Position,
    /// How many commits there are up to there.
    pub commits: u64,
    /// Digest of their hashes, in the log's order.
    pub order: Digest,
    /// By tenant, where its stream ends.
    pub heads: BTreeMap<TenantId, KeptHead>,
}

/// The end of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptHead {
    /// Revision of its last event.
    pub revision: Revision,
    /// Hash of its last commit.
    pub hash: Digest,
}

impl KeptHead {
    pub(super) fn new(revision: Revision, hash: ChainHash) -> Self {
        Self { revision, hash: Digest::from_bytes(*hash.as_bytes()) }
    }
}

/// The order of the commits that were walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) commits: u64,
    pub(super) position: Position,
    digest: [u8; 32],
}

impl Default for Order {
    fn default() -> Self {
        Self { commits: 0, position: Position::START, digest: [0; 32] }
    }
}

impl Order {
    pub(super) fn step(&mut self, position: Position, hash: ChainHash) {
        let hashed = Sha256::new().chain_update(ORDER_TAG).chain_update(self.digest).chain_update(hash.as_bytes());
        (self.commits, self.position, self.digest) = (self.commits + 1, position, hashed.finalize().into());
    }

    pub(super) const fn digest(&self) -> Digest {
        Digest::from_bytes(self.digest)
    }
}

/// Heads that were kept, on the way of a walk that is to meet them again.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    kept: &'a Heads,
    /// Of these nothing was seen yet.
    awaited: HashMap<&'a TenantId, KeptHead>,
    /// How many were met as they were kept.
    met: u64,
    /// Was its place passed?
    order_seen: bool,
}

impl<'a> Expected<'a> {
    pub(super) fn new(kept: &'a Heads) -> Self {
        let awaited = kept.heads.iter().map(|(tenant, head)| (tenant, *head)).collect();
        Self { kept, awaited, met: 0, order_seen: kept.commits == 0 }
    }

    /// What is wrong with a commit that ends at `revision` with this hash.
    pub(super) fn meets(&mut self, tenant: &TenantId, revision: Revision, hash: ChainHash) -> Option<String> {
        let awaited = self.awaited.get(tenant).filter(|awaited| revision >= awaited.revision).copied()?;
        self.awaited.remove(tenant);
        let KeptHead { revision: kept, hash: expected } = awaited;
        if revision != kept {
            return Some(format!(
                "the kept head at revision {kept} is no end of a commit: the history was written anew"
            ));
        }
        let found = KeptHead::new(revision, hash).hash;
        self.met += u64::from(found == expected);
        (found != expected).then(|| {
            format!(
                "its hash is {found}, and the kept head of this revision is {expected}: the history was written anew"
            )
        })
    }

    /// What is wrong with the order of the commits, once the walk is where the heads were kept.
    pub(super) fn passes(&mut self, order: &Order) -> Option<String> {
        if self.order_seen || order.commits < self.kept.commits {
            return None;
        }
        self.order_seen = true;
        let (found, kept) = (order.digest(), self.kept.order);
        (found != kept).then(|| {
            let count = self.kept.commits;
            format!("the order of the first {count} commits is {found}, and the kept one is {kept}: commits are gone, moved or others")
        })
    }

    /// How many heads were met, of which streams none was, and how many commits there were if there are fewer now.
    pub(super) fn left(self) -> (u64, Vec<(TenantId, KeptHead)>, Option<u64>) {
        let mut left: Vec<_> = self.awaited.into_iter().map(|(tenant, head)| (tenant.clone(), head)).collect();
        left.sort_by(|(a, _), (b, _)| a.cmp(b));
        (self.met, left, (!self.order_seen).then_some(self.kept.commits))
    }
}
