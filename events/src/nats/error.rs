//! Why there is no connection, each with its remedy, and what JetStream's errors say. No text has a secret.

use std::error::Error;

use async_nats::{
    ConnectError, ConnectErrorKind, ServerError,
    jetstream::{self, ErrorCode},
    rustls,
};

/// Why NATS cannot be spoken to. It may pass. `section` is where the settings are, such as `feed.nats`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unconnected {
    /// No server answers.
    #[error("NATS cannot be reached ({why}): start it, or correct {section}.url.")]
    Unreachable {
        /// Where the settings are.
        section: &'static str,
        /// What the client says.
        why: String,
    },
    /// Whoever asks is not let in.
    #[error("NATS refuses the credentials: correct what {section} names, or the server's accounts.")]
    Credentials {
        /// Where the settings are.
        section: &'static str,
    },
    /// A file that the settings name cannot be used.
    #[error("a file of the connection to NATS is of no use ({why}): correct the paths in {section}.")]
    File {
        /// Where the settings are.
        section: &'static str,
        /// Which, and why.
        why: String,
    },
    /// The handshake of TLS fails.
    #[error(
        "there is no secure connection to NATS ({why}): correct {section}.tls_ca_file, or the server's certificate."
    )]
    Tls {
        /// Where the settings are.
        section: &'static str,
        /// What the client says.
        why: String,
    },
}

impl Unconnected {
    /// The label of metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Credentials { .. } => "credentials",
            Self::File { .. } => "file",
            Self::Tls { .. } => "tls",
        }
    }

    /// Of what the client says. A failed handshake comes to it as an I/O error, so the causes decide before the kind.
    pub(super) fn from_client(error: &ConnectError, section: &'static str) -> Self {
        let why = with_causes(error);
        if causes(error).any(|cause| tls_error(cause).is_some()) {
            return Self::Tls { section, why };
        }
        if causes(error).any(refuses_credentials) {
            return Self::Credentials { section };
        }
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Self::Credentials { section }
            }
            ConnectErrorKind::Tls => Self::Tls { section, why },
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => Self::Unreachable { section, why },
        }
    }
}

/// The error and what caused it, outermost first.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| {
        let error: &'e (dyn Error + 'static) = *error;
        // An I/O error that wraps another one names as its source that one's source, and leaves out the one itself.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    error.downcast_ref()
}

/// Servers say so in several ways: `authorization violation`, `user authentication expired`, `account …`.
fn refuses_credentials(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<ServerError>() {
        Some(ServerError::AuthorizationViolation) => true,
        Some(ServerError::Other(text)) => text.to_ascii_lowercase().contains("authentication"),
        Some(ServerError::SlowConsumer(_)) | None => false,
    }
}

/// The error with its causes, each said once.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Does a stream take no more: by its own limits, its account's, or the server's disk?
pub(crate) fn is_full(error: &jetstream::Error) -> bool {
    [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
    ]
    .contains(&error.error_code())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const SECTION: &str = "feed.nats";

    fn of(kind: ConnectErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Unconnected {
        Unconnected::from_client(&async_nats::error::Error::with_source(kind, source), SECTION)
    }

    #[test]
    fn a_failed_handshake_is_told_from_a_server_that_is_away() {
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let handshake = of(ConnectErrorKind::Io, io::Error::new(io::ErrorKind::InvalidData, expired));
        assert_eq!(handshake.reason(), "tls");
        assert!(handshake.to_string().contains("Expired"), "{handshake}");
        let away = of(ConnectErrorKind::Io, io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(
            away.to_string(),
            "NATS cannot be reached (IO error: connection refused): start it, or correct feed.nats.url."
        );
    }

    #[test]
    fn credentials_that_are_wrong_or_have_ended_are_credentials() {
        let refused = of(ConnectErrorKind::AuthorizationViolation, ServerError::AuthorizationViolation);
        let ended = of(ConnectErrorKind::Io, ServerError::Other("user authentication expired".into()));
        let no_seed = of(ConnectErrorKind::Authentication, "no seed");
        assert_eq!([refused, ended, no_seed].map(|error| error.reason()), ["credentials"; 3]);
    }
}
