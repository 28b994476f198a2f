//! What a row keeps of one event: 14 bytes.

use std::fmt::{self, Write as _};

/// Bytes of one entry: type code (2), actor (4), subject (8), all big-endian.
pub(super) const ENTRY_BYTES: usize = 14;

/// One event as the index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) type_code: u16,
    pub(super) actor: u32,
    pub(super) subject: u64,
}

impl Entry {
    pub(super) fn pack_into(self, packed: &mut Vec<u8>) {
        packed.extend_from_slice(&self.type_code.to_be_bytes());
        packed.extend_from_slice(&self.actor.to_be_bytes());
        packed.extend_from_slice(&self.subject.to_be_bytes());
    }

    pub(super) fn unpack(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let [t0, t1, a0, a1, a2, a3, s0, s1, s2, s3, s4, s5, s6, s7] = *bytes;
        Self {
            type_code: u16::from_be_bytes([t0, t1]),
            actor: u32::from_be_bytes([a0, a1, a2, a3]),
            subject: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        }
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): the same on every platform and in every version, and cheap on short texts. It
/// need not resist an adversary, who could only mislead the search of their own tenant.
#[derive(Debug)]
struct Fnv1a(u64);

impl fmt::Write for Fnv1a {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

/// The fingerprint of a text, given as it is or as it would be written.
pub(super) fn of(text: impl fmt::Display) -> u64 {
    let mut hash = Fnv1a(0xcbf2_9ce4_8422_2325);
    // The hasher refuses nothing.
    let _written = write!(hash, "{text}");
    hash.0
}

/// The shorter fingerprint of an actor: a tenant has few of them.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is folded into the lower one first")]
pub(super) fn of_actor(actor: &str) -> u32 {
    let hash = of(actor);
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_the_published_algorithm() {
        // Test vectors of FNV-1a 64.
        assert_eq!(of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(of("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(of("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn an_entry_survives_packing() {
        let entry = Entry { type_code: 300, actor: 0xdead_beef, subject: 0x0123_4567_89ab_cdef };
        let mut packed = Vec::new();
        entry.pack_into(&mut packed);
        assert_eq!(Entry::unpack(packed.first_chunk().unwrap()), entry);
        assert_eq!(packed.len(), ENTRY_BYTES);
    }
}
