//! What became of a publication: the one place that knows what the server's and the client's errors mean.

use std::error::Error as _;

use async_nats::jetstream::{
    self, ErrorCode,
    context::{PublishError, PublishErrorKind},
};

use crate::nats::{is_full, with_causes};

/// Refusals that store nothing and may end soon, whatever their status says: while another publication on the subject is under
/// way, while one with the same id is, and while the leader does not know the subject's end yet. The first comes from
/// replicated streams only, and the client does not take it for a wrong sequence.
const SOON: [ErrorCode; 3] = [
    ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT,
    ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT,
    ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY,
];

/// Statuses for "not now": no leader, no quorum, too many requests.
const NOT_NOW: [usize; 2] = [503, 429];

/// Why a commit was not acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The subject does not end where the commit begins. It may be that very commit that it ends with.
    Moved,
    /// Not stored, and it may be soon: another publication is under way, there is no leader, or no room.
    NotNow(String),
    /// Not stored, and never will be.
    TooLarge,
    /// Stored or not.
    NotKnown(String),
}

/// Reads the client's error.
pub(super) fn of(error: &PublishError) -> Outcome {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => Outcome::Moved,
        // So the client calls it when nobody listens on the subject: no leader, or no stream.
        PublishErrorKind::StreamNotFound => Outcome::NotNow("the stream has no leader".to_owned()),
        PublishErrorKind::MaxPayloadExceeded => Outcome::TooLarge,
        PublishErrorKind::TimedOut => Outcome::NotKnown("the stream did not answer in time".to_owned()),
        PublishErrorKind::BrokenPipe => Outcome::NotKnown("the connection to NATS was lost".to_owned()),
        PublishErrorKind::MaxAckPending => Outcome::NotNow("too many commits are under way".to_owned()),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::Other => {
            match error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                Some(refusal) => refused(refusal),
                None => Outcome::NotKnown(with_causes(error)),
            }
        }
    }
}

fn refused(refusal: &jetstream::Error) -> Outcome {
    let code = refusal.error_code();
    if code == ErrorCode::STREAM_STORE_FAILED {
        // It failed while it was stored: by one server of several, perhaps.
        Outcome::NotKnown(refusal.to_string())
    } else if is_full(refusal) {
        Outcome::NotNow(format!("the stream takes no more ({refusal}): raise the account's or the servers' limits"))
    } else if SOON.contains(&code) || NOT_NOW.contains(&refusal.code()) {
        Outcome::NotNow(refusal.to_string())
    } else {
        // A refusal that is not known here: the log itself says what it means.
        Outcome::NotKnown(refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: usize, code: u64) -> PublishError {
        let json = serde_json::json!({"code": status, "err_code": code, "description": "no"});
        let refusal: jetstream::Error = serde_json::from_value(json).unwrap();
        PublishError::with_source(PublishErrorKind::Other, refusal)
    }

    #[test]
    fn a_refusal_is_told_from_what_nobody_knows() {
        assert_eq!(of(&PublishError::new(PublishErrorKind::WrongLastSequence)), Outcome::Moved);
        assert!(matches!(of(&PublishError::new(PublishErrorKind::StreamNotFound)), Outcome::NotNow(_)));
        assert!(matches!(of(&PublishError::new(PublishErrorKind::TimedOut)), Outcome::NotKnown(_)));
        assert!(matches!(of(&PublishError::new(PublishErrorKind::Other)), Outcome::NotKnown(_)));
        for (status, code) in [(400, 10_164), (409, 10_158), (503, 10_008), (429, 10_167), (400, 10_122)] {
            assert!(matches!(of(&refusal(status, code)), Outcome::NotNow(_)), "{code}");
        }
        for (status, code) in [(503, 10_077), (400, 10_999)] {
            assert!(matches!(of(&refusal(status, code)), Outcome::NotKnown(_)), "{code}");
        }
    }
}
