//! What may be in the way of the feed and may pass, each with its remedy.

use crate::{nats::Unconnected, revision::Position};

/// Why the feed cannot go on at the moment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// There is no connection.
    #[error(transparent)]
    Unconnected(#[from] Unconnected),
    /// The checkpoint is there and cannot be read.
    #[error("the feed's checkpoint cannot be read ({0}): permit feed.json in the data folder to the node.")]
    File(String),
    #[error(
        "NATS does not let the feed use JetStream ({0}): enable it, and permit wasmwiz.v1.> and $JS.API.STREAM.INFO and \
         CREATE of the stream to the user."
    )]
    JetStream(String),
    #[error(
        "the stream {stream} has other settings ({differences}): change feed.* or the stream; it is not overwritten."
    )]
    Settings { stream: String, differences: String },
    #[error(
        "the server has no room for the stream ({0}): lower feed.max_bytes, which it reserves, or raise max_file_store."
    )]
    NoRoom(String),
    #[error("the stream is full ({0}): raise feed.max_bytes and the stream's, or let subscribers make room.")]
    Full(String),
    #[error("an event is larger than NATS takes: raise max_payload of the server to 2 MiB.")]
    TooLarge,
    #[error("NATS did not acknowledge in time: look at its load, or raise feed.ack_timeout_ms.")]
    NotAcknowledged,
    #[error("the stream refuses an event ({0}): see the log of its server.")]
    Refused(String),
    #[error("the connection to NATS is lost.")]
    Lost,
    #[error("the log cannot be read ({0}).")]
    Log(String),
    #[error("the checkpoint cannot be written ({0}): make room in the data folder.")]
    Checkpoint(String),
    #[error(
        "the feed's checkpoint cannot be read or written in its bucket ({0}): permit the bucket feed.bucket, its stream \
         KV_<bucket> and $KV.<bucket>.> to the user."
    )]
    Bucket(String),
    #[error(
        "the log lacks the commit of the feed's checkpoint, at {checkpoint}, and ends at {tail}: it is an older copy, or \
         another one. Delete feed.json in the data folder to publish it from its start."
    )]
    OtherLog { checkpoint: Position, tail: Position },
}

impl Trouble {
    /// The label of the metric.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Unconnected(reason) => reason.reason(),
            Self::File(_) => "file",
            Self::JetStream(_) => "jetstream",
            Self::Settings { .. } => "settings",
            Self::NoRoom(_) => "no_room",
            Self::Full(_) => "full",
            Self::TooLarge => "too_large",
            Self::NotAcknowledged => "timeout",
            Self::Refused(_) => "refused",
            Self::Lost => "lost",
            Self::Log(_) => "log",
            Self::Checkpoint(_) => "checkpoint",
            Self::Bucket(_) => "bucket",
            Self::OtherLog { .. } => "other_log",
        }
    }
}
