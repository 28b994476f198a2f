//! May this commit become the stream's next one? The rules of an append, without any I/O: every log that decides for
//! itself asks here, so that all refuse alike.

use super::{Append, AppendError};
use crate::{
    commit::{Commit, MAX_BODY_BYTES, MAX_EVENTS},
    ledger::Head,
    payload::{MAX_COMMIT_BYTES, MAX_INLINE_BYTES},
    revision::Revision,
};

/// What the head of the stream says about a commit.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It is the next one: store it.
    Next,
    /// Its place is taken, perhaps by itself: if the commit stored at its first revision is this one, it is a repeated
    /// append, otherwise the refusal holds.
    Taken(AppendError),
    /// It cannot be stored.
    Refused(AppendError),
}

/// Decides about `commit` on a stream that ends at `head`.
///
/// A repeated append is recognised before the epoch is compared: the commit of an owner that has lost its shard since
/// is stored all the same. Otherwise an older epoch is named before a wrong revision, for it is the one that lasts.
pub(crate) fn admit(head: &Head, commit: &Commit) -> Admission {
    let header = commit.header();
    let refusal = if header.owner_epoch < head.epoch {
        Some(AppendError::Fenced { offered: header.owner_epoch, current: head.epoch })
    } else if header.first_revision != head.revision.next() {
        let expected = header.first_revision.previous();
        Some(AppendError::Conflict { expected, actual: head.revision, epoch: head.epoch })
    } else if header.prev_hash != head.hash {
        Some(AppendError::Unchained(head.revision))
    } else {
        None
    };
    match refusal {
        None => Admission::Next,
        Some(refusal) if Revision::NONE < header.first_revision && header.first_revision <= head.revision => {
            Admission::Taken(refusal)
        }
        Some(refusal) => Admission::Refused(refusal),
    }
}

/// Checks the bounds of an append, and gives its size in bytes.
///
/// # Errors
/// [`AppendError::TooLarge`].
pub(crate) fn size(append: &Append) -> Result<usize, AppendError> {
    let (header, body) = (append.commit.header(), append.commit.body().len());
    let payloads = || append.payloads.iter().map(|payload| payload.bytes().len());
    let payload_bytes: usize = payloads().sum();
    let fits = body <= MAX_BODY_BYTES
        && (1..=MAX_EVENTS).contains(&(header.count as usize))
        // As far as SQLite counts. An epoch beyond it is no epoch that an owner was given.
        && i64::try_from(header.owner_epoch.get()).is_ok()
        && payload_bytes <= MAX_COMMIT_BYTES
        && payloads().all(|bytes| bytes <= MAX_INLINE_BYTES);
    if fits { Ok(body + payload_bytes) } else { Err(AppendError::TooLarge) }
}

/// The refusal's value of the label `reason`.
pub(crate) const fn reason(error: &AppendError) -> &'static str {
    match error {
        AppendError::Conflict { .. } => "conflict",
        AppendError::Fenced { .. } => "fenced",
        AppendError::Unchained(_) => "unchained",
        AppendError::TooLarge => "too_large",
        AppendError::Busy => "busy",
        AppendError::Unknown(_) => "unknown",
        AppendError::Poisoned(_) => "poisoned",
    }
}
