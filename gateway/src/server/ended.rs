//! How a connection's life ended, as far as it is worth counting.

use std::{error::Error, io};

use crate::metrics;

/// How a connection's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, or because it was idle.
    Closed,
    /// No request came in time, or not all of its head.
    NoHead,
    /// The client did not take its answer in time.
    SlowReader,
    /// The client sent more frames of HTTP/2 that are of no request than it may.
    Flood,
    /// An answer was on its way to a tenant that has been suspended.
    Suspended,
    /// What came was no HTTP, or not of the measure that is taken.
    Malformed,
    /// The client does not speak TLS, or not in time.
    NoTls,
    /// Cut off in the middle of an answer, at the end of the shutdown.
    Aborted,
}

impl Ended {
    /// What an error of hyper's means.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        tracing::debug!(error, "a connection ended with an error");
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        let ended = causes.find_map(|cause| {
            if let Some(cause) = cause.downcast_ref::<hyper::Error>() {
                return match cause {
                    cause if cause.is_timeout() => Some(Self::NoHead),
                    cause if cause.is_parse() => Some(Self::Malformed),
                    _ => None,
                };
            }
            // Of our own errors the library keeps the kind and the text.
            match cause.downcast_ref::<io::Error>()?.kind() {
                io::ErrorKind::TimedOut => Some(Self::SlowReader),
                io::ErrorKind::QuotaExceeded => Some(Self::Flood),
                _ => None,
            }
        });
        ended.unwrap_or(Self::Closed)
    }

    /// Counts it, unless it is the ordinary end.
    pub(super) fn count(self) {
        let reason = match self {
            Self::Closed => return,
            Self::NoHead => "no_head",
            Self::SlowReader => "slow_reader",
            Self::Flood => "flood",
            Self::Suspended => "suspended",
            Self::Malformed => "malformed",
            Self::NoTls => "no_tls",
            Self::Aborted => "aborted",
        };
        ::metrics::counter!(metrics::CONNECTIONS_CUT_OFF_TOTAL, "reason" => reason).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::frames::Flood;

    #[test]
    fn a_write_that_was_given_up_is_a_slow_reader() {
        assert_eq!(Ended::of(&io::Error::from(io::ErrorKind::TimedOut)), Ended::SlowReader);
        assert_eq!(Ended::of(&io::Error::from(io::ErrorKind::ConnectionReset)), Ended::Closed);
        assert_eq!(Ended::of(&io::Error::from(Flood)), Ended::Flood);
    }
}
