//! Bytes that ride with a commit, outside its hashed body: one row, one message, one fsync.

use bytes::{Bytes, BytesMut};

use crate::digest::Digest;

/// The largest payload that rides with a commit, in bytes. Larger ones go to the blob store first.
/// From the contract of the log: small enough that a commit of several stays one message.
pub const MAX_INLINE_BYTES: usize = 64 * 1_024;

/// All payloads of one commit together, in bytes.
pub const MAX_COMMIT_BYTES: usize = 512 * 1_024;

/// Some bytes and their name.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    digest: Digest,
    bytes: Bytes,
}

impl Payload {
    /// Names `bytes` by their digest.
    pub fn new(bytes: Bytes) -> Self {
        Self { digest: Digest::of(&bytes), bytes }
    }

    /// Bytes whose digest is known already, for instance because they were hashed while they streamed in.
    pub const fn with_digest(digest: Digest, bytes: Bytes) -> Self {
        Self { digest, bytes }
    }

    /// SHA-256 of the bytes.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Are the bytes still those that the digest names?
    pub fn is_intact(&self) -> bool {
        Digest::of(&self.bytes) == self.digest
    }
}

impl std::fmt::Debug for Payload {
    /// Names the payload, never shows its bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.digest, self.bytes.len())
    }
}

/// Packs payloads into one stored value: for each, 32 bytes of digest, a big-endian `u32` length, the bytes.
pub fn pack(payloads: &[Payload]) -> Bytes {
    let size = payloads.iter().map(|payload| payload.bytes.len() + 36).sum();
    let mut packed = BytesMut::with_capacity(size);
    for payload in payloads {
        packed.extend_from_slice(payload.digest.as_bytes());
        // At most MAX_INLINE_BYTES, which fits.
        packed.extend_from_slice(&u32::try_from(payload.bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        packed.extend_from_slice(&payload.bytes);
    }
    packed.freeze()
}

/// The stored value is not one that [`pack`] made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored payloads end in the middle of one")]
pub struct Torn;

/// Unpacks what [`pack`] made. The digests are as stored: ask [`Payload::is_intact`] before trusting them.
///
/// # Errors
/// [`Torn`] when the value ends in the middle of a payload.
pub fn unpack(mut packed: Bytes) -> Result<Vec<Payload>, Torn> {
    let mut payloads = Vec::new();
    while !packed.is_empty() {
        let (digest, rest) = packed.split_first_chunk::<32>().ok_or(Torn)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(Torn)?;
        let (digest, length) = (Digest::from_bytes(*digest), u32::from_be_bytes(*length) as usize);
        if rest.len() < length {
            return Err(Torn);
        }
        let mut bytes = packed.split_off(36);
        packed = bytes.split_off(length);
        payloads.push(Payload { digest, bytes });
    }
    Ok(payloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_survive_packing() {
        let payloads = [&b"one"[..], b"", b"three"].map(|bytes| Payload::new(Bytes::from_static(bytes)));
        assert_eq!(unpack(pack(&payloads)), Ok(payloads.to_vec()));
    }

    #[test]
    fn a_torn_value_is_noticed_at_every_length() {
        let packed = pack(&[Payload::new(Bytes::from_static(b"one"))]);
        for end in 1..packed.len() {
            assert_eq!(unpack(packed.slice(..end)), Err(Torn), "{end}");
        }
    }
}
