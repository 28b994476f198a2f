//! A commit and its payloads as the bytes of one message.
//!
//! ```text
//! "WWC1" │ first_revision │ count │ commit_id │ owner_epoch │ recorded_at │ prev_hash │ hash │ tenant │ body │ payloads │ crc32
//!   4           u64          u32       16          u64           i64          32        32   u8+bytes u32+… u32+…      u32
//! ```
//! Numbers are big-endian. The hash is over header and body as for every commit, so what is proven does not depend on this
//! form; the checksum finds what the transport damaged. A stored byte never changes: another form has another magic.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use crate::{
    commit::{Commit, Header, MAX_BODY_BYTES},
    id::{CommitId, TenantId},
    ledger::ChainHash,
    log::Append,
    payload::{self, MAX_COMMIT_BYTES, MAX_INLINE_BYTES, Payload},
    revision::{Epoch, Revision},
    time::Timestamp,
};

const MAGIC: [u8; 4] = *b"WWC1";

/// What comes before the tenant.
const FIXED_BYTES: usize = 4 + 8 + 4 + 16 + 8 + 8 + 32 + 32;

/// Payloads of a commit, at most: empty ones take their head's 36 bytes only. Bounds what packing adds.
const PACKED_BYTES_MAX: usize = MAX_COMMIT_BYTES + MAX_INLINE_BYTES;

/// The largest message, in bytes: a frame, and headers and subject beside it.
pub(super) const MESSAGE_BYTES_MAX: usize = FIXED_BYTES + 64 + MAX_BODY_BYTES + PACKED_BYTES_MAX + 4 * 1_024;

/// Whose payloads take more are copied, so that whoever keeps a commit does not keep them.
const KEPT_ALONG_MAX: usize = 4 * 1_024;

/// A message of the stream, read.
#[derive(Debug, Clone)]
pub(super) struct Framed {
    pub(super) commit: Commit,
    packed: Bytes,
}

impl Framed {
    /// What rode with the commit.
    pub(super) fn payloads(&self) -> Result<Vec<Payload>, String> {
        payload::unpack(self.packed.clone()).map_err(|_| "its payloads cannot be unpacked".to_owned())
    }
}

/// Writes a commit.
pub(super) fn encode(append: &Append) -> Bytes {
    let (header, body) = (append.commit.header(), append.commit.body());
    let packed = if append.payloads.is_empty() { Bytes::new() } else { payload::pack(&append.payloads) };
    let tenant = header.tenant.as_str().as_bytes();
    let mut out = BytesMut::with_capacity(FIXED_BYTES + tenant.len() + body.len() + packed.len() + 16);
    out.put_slice(&MAGIC);
    out.put_u64(header.first_revision.get());
    out.put_u32(header.count);
    out.put_slice(header.commit_id.as_uuid().as_bytes());
    out.put_u64(header.owner_epoch.get());
    out.put_i64(header.recorded_at.unix_ms());
    out.put_slice(header.prev_hash.as_bytes());
    out.put_slice(append.commit.hash().as_bytes());
    // A tenant's id has 40 characters at most, body and payloads are bounded in front of every log.
    out.put_u8(u8::try_from(tenant.len()).unwrap_or(u8::MAX));
    out.put_slice(tenant);
    for part in [body, &packed] {
        out.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        out.put_slice(part);
    }
    let checksum = crc32fast::hash(&out);
    out.put_u32(checksum);
    out.freeze()
}

/// Reads a message. The error says what is wrong with it.
pub(super) fn decode(message: &Bytes) -> Result<Framed, &'static str> {
    let (Some(framed), Some(checksum)) =
        (message.get(..message.len().saturating_sub(4)), message.last_chunk::<4>().copied())
    else {
        return Err("is too short to be a commit");
    };
    if !framed.starts_with(&MAGIC) {
        return Err("is no commit of a form that this version knows");
    }
    if crc32fast::hash(framed) != u32::from_be_bytes(checksum) {
        return Err("has another checksum than its bytes");
    }
    let mut rest = message.slice(MAGIC.len()..framed.len());
    parts(&mut rest).filter(|_| rest.is_empty()).ok_or("ends in the wrong place")
}

fn parts(rest: &mut Bytes) -> Option<Framed> {
    let first_revision = Revision::new(rest.try_get_u64().ok()?);
    let count = rest.try_get_u32().ok()?;
    let commit_id = CommitId::new(Uuid::from_bytes(array(rest)?));
    let owner_epoch = Epoch::new(rest.try_get_u64().ok()?);
    let recorded_at = Timestamp::from_unix_ms(rest.try_get_i64().ok()?);
    let prev_hash = ChainHash::from_bytes(array(rest)?);
    let hash = ChainHash::from_bytes(array(rest)?);
    let tenant = usize::from(rest.try_get_u8().ok()?);
    let tenant = TenantId::new(std::str::from_utf8(&take(rest, tenant)?).ok()?).ok()?;
    let (body, packed) = (sized(rest)?, sized(rest)?);
    let body = if packed.len() > KEPT_ALONG_MAX { Bytes::copy_from_slice(&body) } else { body };
    let header = Header { tenant, first_revision, count, commit_id, owner_epoch, recorded_at, prev_hash };
    Some(Framed { commit: Commit::from_stored(header, hash, body), packed })
}

fn take(rest: &mut Bytes, bytes: usize) -> Option<Bytes> {
    (rest.len() >= bytes).then(|| rest.split_to(bytes))
}

fn array<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
    take(rest, N)?.as_ref().try_into().ok()
}

fn sized(rest: &mut Bytes) -> Option<Bytes> {
    let bytes = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    take(rest, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance::Stream;

    fn append(payloads: &[&[u8]]) -> Append {
        let stream = Stream::of(TenantId::new("t-1").unwrap());
        let payloads = payloads.iter().map(|bytes| Payload::new(Bytes::copy_from_slice(bytes))).collect();
        Append { commit: stream.seal(2), payloads }
    }

    #[test]
    fn a_commit_comes_back_as_it_was() {
        let large: &[u8] = &[7; 9_000];
        for payloads in [&[][..], &[&b""[..], b"stdin"], &[large]] {
            let append = append(payloads);
            let read = decode(&encode(&append)).unwrap();
            assert_eq!(read.commit.header(), append.commit.header());
            assert_eq!((read.commit.hash(), read.commit.body()), (append.commit.hash(), append.commit.body()));
            assert_eq!(read.payloads().unwrap(), append.payloads);
        }
    }

    #[test]
    fn no_byte_can_be_changed_and_none_can_be_missing() {
        let message = encode(&append(&[b"stdin"]));
        for place in 0..message.len() {
            let mut changed = message.to_vec();
            changed[place] ^= 1;
            assert!(decode(&changed.into()).is_err(), "byte {place}");
            assert!(decode(&message.slice(..place)).is_err(), "{place} bytes");
        }
        assert!(decode(&[&message[..], b"x"].concat().into()).is_err());
    }

    #[test]
    fn the_stored_form_never_changes() {
        let header = Header {
            tenant: TenantId::new("t-1").unwrap(),
            first_revision: Revision::new(2),
            count: 1,
            commit_id: CommitId::new(Uuid::from_u128(3)),
            owner_epoch: Epoch::new(4),
            recorded_at: Timestamp::from_unix_ms(5),
            prev_hash: ChainHash::from_bytes([6; 32]),
        };
        let commit = Commit::from_stored(header, ChainHash::from_bytes([7; 32]), Bytes::from_static(b"[]"));
        let golden = format!(
            "57574331{:016x}{:08x}{:032x}{:016x}{:016x}{}{}03742d31000000025b5d00000000",
            2,
            1,
            3,
            4,
            5,
            "06".repeat(32),
            "07".repeat(32)
        );
        let bytes = encode(&Append { commit, payloads: vec![] });
        assert_eq!(hex::encode(&bytes[..bytes.len() - 4]), golden);
    }
}
