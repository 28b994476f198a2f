//! Content-addressed bytes: modules, and payloads too large to ride with a commit.
//!
//! A blob is durable before the commit that names it. Putting the same bytes twice is putting them once. What is named is never
//! removed: who removes something has read the whole log for it first, and what was put lately stays.

use async_trait::async_trait;
use bytes::Bytes;

use crate::digest::Digest;

pub mod fs;
mod pieces;
mod recent;

pub use pieces::Pieces;

/// A blob could not be kept or fetched.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store's I/O failed.
    #[error("the blob store failed while {doing}")]
    Io {
        /// What it was doing.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes found are not those that the digest names.
    #[error("the stored bytes of {0} are damaged")]
    Damaged(Digest),
}

/// A store of immutable bytes, named by their SHA-256.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Keeps `bytes` and waits until they are durable.
    async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError>;

    /// The bytes that `digest` names, checked against it; `None` when they are not kept.
    async fn get(&self, digest: Digest) -> Result<Option<Bytes>, BlobError>;

    /// The bytes that `digest` names, to be read piece by piece; `None` when they are not kept.
    async fn open_pieces(&self, digest: Digest) -> Result<Option<Pieces>, BlobError>;

    /// Are they kept?
    async fn contains(&self, digest: Digest) -> Result<bool, BlobError>;

    /// What is kept, in the order of the digests, behind `after`: at most `limit`, and fewer at the end alone. A store that removes
    /// nothing says that it has nothing.
    async fn list(&self, _after: Option<Digest>, _limit: usize) -> Result<Vec<Digest>, BlobError> {
        Ok(Vec::new())
    }

    /// What is kept of these bytes is about to be named again by a commit: it stays for an hour, as if it were put now. Whoever looks
    /// for them afterwards and finds them has them until then. Nothing to do for a store that removes nothing.
    async fn note_used(&self, _digest: Digest) -> Result<(), BlobError> {
        Ok(())
    }

    /// Removes what nothing names, and says how many bytes that were. `None`: it stays, as it is not there, or was put or noted as used
    /// in the last hour: the commit that names it may be under way. Whoever puts the same bytes at the same time finds them kept.
    async fn remove(&self, _digest: Digest) -> Result<Option<u64>, BlobError> {
        Ok(None)
    }
}
