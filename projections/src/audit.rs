//! Where to find it in the log: an index of the log, not a copy.
//!
//! One row a commit holds 14 bytes an event: the code of its type and fingerprints of its actor and its subject. A query
//! gives places; the caller reads the commits there, and compares actor and subject, because two texts may have one
//! fingerprint.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    id::TenantId,
    ledger::ChainHash,
    revision::{Position, Revision},
    time::Timestamp,
};

mod fingerprint;
mod fold;
mod rows;

pub(crate) use fold::AuditProjection;

use crate::{
    page::{Listed, Page},
    readers::{QueryError, Readers},
};

/// Which events a search is for. Conditions are joined by "and".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// Of exactly this type, for instance `dev.wasmwiz.key.issued.v1`.
    pub type_name: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// About this subject, for instance `keys/4kD2`.
    pub subject: Option<String>,
    /// Recorded at this moment or later.
    pub from: Option<Timestamp>,
    /// Recorded before this moment.
    pub to: Option<Timestamp>,
}

/// The place of one event in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRef {
    /// The commit that holds it.
    pub position: Position,
    /// Its index in the commit; 0 is the first.
    pub index: u32,
    /// Its place in the tenant's stream.
    pub revision: Revision,
}

/// Where a search goes on: events before this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCursor {
    /// The commit that was looked at last.
    pub position: Position,
    /// The event in it that was looked at last; those with smaller indices are still to come.
    pub index: u32,
}

/// The end of a tenant's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// Revision of the last event.
    pub revision: Revision,
    /// Hash of the last commit.
    pub hash: ChainHash,
    /// Position of the last commit.
    pub position: Position,
}

/// The most commits that one search call looks at: a few milliseconds.
pub const SCANNED_COMMITS: u32 = 5_000;

/// Questions to the view.
#[derive(Debug, Clone)]
pub struct Audit {
    readers: Readers,
}

impl Audit {
    pub(crate) const fn new(readers: Readers) -> Self {
        Self { readers }
    }

    /// Places of the tenant's events, the newest first.
    ///
    /// One call looks at no more than [`SCANNED_COMMITS`] commits: a filter that few events pass gives a short page, even
    /// an empty one, and a cursor that goes on from there. A place found by actor or subject is a candidate: see the
    /// module's documentation.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn find(
        &self,
        tenant: &TenantId,
        filter: AuditFilter,
        page: Page<AuditCursor>,
    ) -> Result<Listed<EventRef, AuditCursor>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| rows::find(connection, &whose, &filter, &page)).await
    }

    /// The end of the tenant's stream as far as the view has come; `None` when it has no event yet.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn head(&self, tenant: &TenantId) -> Result<Option<AuditHead>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| rows::head(connection, &whose)).await
    }
}

#[cfg(test)]
mod tests;
