//! Where states of tenants are kept, so that waking one need not read its whole past.
//!
//! Nothing is lost with them, and nothing depends on them: what cannot be read, or does not fit the log, is ignored and said.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wasmwiz_events::{id::TenantId, revision::Revision};

mod files;

pub use files::FileSnapshots;

/// How often a tenant's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// Events of a tenant after which its state is kept again; 0: never, and waking reads the whole past.
    pub every_events: u64,
    /// The same for a tenant that leaves memory.
    pub at_rest_events: u64,
    /// How many of a tenant are kept, the newest. At least 1; with 2, one that is damaged costs little.
    pub keep: usize,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { every_events: 10_000, at_rest_events: 500, keep: 2 }
    }
}

/// A place for states of tenants. Its calls block.
pub trait Snapshots: Send + Sync + 'static {
    /// Revisions of which there is a state, the newest first.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn revisions(&self, tenant: &TenantId) -> std::io::Result<Vec<Revision>>;

    /// The bytes of one.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&self, tenant: &TenantId, revision: Revision) -> std::io::Result<Vec<u8>>;

    /// Forgets one that is of no use.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&self, tenant: &TenantId, revision: Revision) -> std::io::Result<()>;

    /// Keeps one, and forgets those ahead of it and the oldest beyond `keep`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(&self, tenant: &TenantId, revision: Revision, bytes: &[u8], keep: usize) -> std::io::Result<()>;
}

/// The version of a snapshot that begins with these bytes; none where they are no snapshot's. Eight bytes are enough.
pub fn version_of(head: &[u8]) -> Option<u8> {
    crate::codec::snapshot::version_of(head)
}

/// The version that this program writes, and the only one that it reads: any other is ignored, and folded anew from the log.
pub const VERSION: u8 = crate::codec::snapshot::VERSION;

/// Where snapshots are below a data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("snapshots")
}
