//! What tells a request that is sent again from another one: recorded with what came of it, so that it is done once.

use crate::digest::Digest;

/// A request that may be sent again. The log has digests alone: neither the key nor the request is told by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// Digest of the caller's idempotency key, and of whose it is.
    pub key: Digest,
    /// Digest of the request: another one under the same key is a mistake of the caller's.
    pub request: Digest,
}
