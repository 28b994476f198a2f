//! JetStream through one connection: what the log asks of it. It ends with that connection.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID},
    jetstream::{
        self, Context, ErrorCode,
        context::{GetStreamErrorKind, PublishError},
        object_store::ObjectStore,
        stream::{self, LastRawMessageErrorKind},
    },
};
use bytes::Bytes;

use super::{
    JetstreamLogConfig, frame,
    outcome::{self, Outcome},
    purpose, stream as settings,
};
use crate::{
    commit::Recorded,
    id::{CommitId, TenantId},
    ledger::Head,
    nats::{
        self, Connection, Unconnected,
        survey::{SERVER_MIN, is_new_enough},
        with_causes,
    },
    payload::Payload,
    revision::Position,
};

/// Why the log cannot be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection. It may pass.
    #[error("{0}")]
    Unconnected(String),
    /// The servers do not answer as JetStream does. It may pass.
    #[error(
        "JetStream does not answer ({0}): see that it is enabled for this account, and that a majority of servers is up."
    )]
    JetStream(String),
    /// The server is too old.
    #[error("nats-server {found} is too old for the log: install {}.{} or newer.", SERVER_MIN.0, SERVER_MIN.1)]
    Server {
        /// Its version.
        found: String,
    },
    /// A commit does not fit into a message.
    #[error(
        "the server takes messages of {found} bytes, and a commit may have {needed}: set max_payload: 2MB in nats.conf."
    )]
    MaxPayload {
        /// Its bound.
        found: usize,
        /// What is needed.
        needed: usize,
    },
    /// There is a stream of this name that is another.
    #[error(
        "stream {stream} has other settings than log.jetstream wants ({differences}): correct the settings, or change the stream \
         with the nats command, or name another one."
    )]
    Settings {
        /// Its name.
        stream: String,
        /// In what they differ.
        differences: String,
    },
    /// There is no stream any more. Servers that have just begun may not know it yet.
    #[error("stream {stream} is gone: give these servers back what they had stored, or name those that have it.")]
    Gone {
        /// Its name.
        stream: String,
    },
    /// The stream cannot be made.
    #[error(
        "stream {stream} cannot be made ({why}): there must be as many servers as log.jetstream.replicas, with room."
    )]
    Uncreated {
        /// Its name.
        stream: String,
        /// What the server says.
        why: String,
    },
}

impl OpenError {
    /// May it pass without anybody doing anything here?
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self, Self::Unconnected(_) | Self::JetStream(_) | Self::Gone { .. } | Self::Uncreated { .. })
    }
}

impl From<Unconnected> for OpenError {
    fn from(error: Unconnected) -> Self {
        Self::Unconnected(error.to_string())
    }
}

/// What a stream that is not there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is to be made.
    IsMade,
    /// It was there.
    IsGone,
}

/// Why something could not be read.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may pass.
    Passing(String),
    /// What is stored is no commit of this log.
    Damaged(Position, String),
}

/// A commit of the stream.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) recorded: Arc<Recorded>,
    framed: frame::Framed,
}

impl Stored {
    pub(super) fn payloads(&self) -> Result<Vec<Payload>, String> {
        self.framed.payloads()
    }
}

/// The end of a tenant's subject.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) head: Head,
    /// Sequence of the last commit's message; 0 when there is none.
    pub(super) sequence: u64,
}

/// What tells a stream from another one, and how far it is known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// When it was made, as it says itself.
    pub(super) created: String,
    pub(super) last_sequence: u64,
}

/// The stream through a connection.
pub(super) struct Session {
    context: Context,
    stream: stream::Stream<()>,
    bucket: ObjectStore,
    connection: Connection,
    /// The names of the streams of commits and of blobs.
    streams: [String; 2],
    /// Who kept each of them when it was opened.
    keepers: Vec<BTreeSet<String>>,
    /// When the stream was made, as it says itself.
    created: String,
    /// The last sequence that it has told or acknowledged.
    last_sequence: AtomicU64,
}

impl Session {
    /// Connects and checks. A stream that is missing is made at the first time only: later its loss would be hidden.
    pub(super) async fn open(config: &JetstreamLogConfig, missing: Missing) -> Result<Self, OpenError> {
        let connection = Connection::open(&config.nats, purpose(config)).await?;
        let server = connection.client().server_info();
        if !is_new_enough(&server.version) {
            return Err(OpenError::Server { found: server.version.clone() });
        }
        let (found, needed) = (server.max_payload, frame::MESSAGE_BYTES_MAX);
        if found < needed {
            return Err(OpenError::MaxPayload { found, needed });
        }
        let timeout = config.answer_within();
        let context = jetstream::ContextBuilder::new().timeout(timeout).ack_timeout(timeout);
        let context = context.build(connection.client().clone());
        let info = ensure(&context, settings::wanted(config), missing).await?;
        let blobs = ensure(&context, settings::wanted_bucket(config), missing).await?;
        let streams = [&info, &blobs].map(|it| it.config.name.clone());
        let keepers = [&info, &blobs].map(|it| keepers_of(it, &server.server_name)).into();
        let bucket = context.get_object_store(&config.bucket).await.map_err(|error| unanswered(&error))?;
        let stream = context.get_stream_no_info(&config.stream).await.map_err(|error| unanswered(&error))?;
        let (created, last_sequence) = (info.created.to_string(), AtomicU64::new(info.state.last_sequence));
        Ok(Self { context, stream, bucket, connection, streams, keepers, created, last_sequence })
    }

    /// What the stream is, and how far, as far as this session knows.
    pub(super) fn identity(&self) -> Identity {
        Identity { created: self.created.clone(), last_sequence: self.last_sequence.load(Ordering::Relaxed) }
    }

    /// Resolves once the connection is gone.
    pub(super) async fn lost(&self) {
        self.connection.lost().await;
    }

    /// The names of the servers that keep the stream, and of those that keep the blobs, as they were when it was opened.
    pub(super) fn keepers_at_first(&self) -> Vec<BTreeSet<String>> {
        self.keepers.clone()
    }

    /// Those of now: copies move, and a server may not have known another's name before. `None`: there is no answer.
    pub(super) async fn keepers(&self) -> Option<Vec<BTreeSet<String>>> {
        let server = self.connection.client().server_info().server_name;
        let mut keepers = Vec::with_capacity(self.streams.len());
        for stream in &self.streams {
            let stream = self.context.get_stream(stream).await.ok()?;
            keepers.push(keepers_of(stream.cached_info(), &server));
        }
        Some(keepers)
    }

    /// Where the blobs are.
    pub(super) const fn bucket(&self) -> &ObjectStore {
        &self.bucket
    }

    /// To make consumers of.
    pub(super) const fn stream(&self) -> &stream::Stream<()> {
        &self.stream
    }

    /// Offers a commit to follow the message `expected` of its subject. Gives its sequence, and whether the stream had it.
    pub(super) async fn publish(
        &self,
        subject: String,
        commit: CommitId,
        expected: u64,
        message: Bytes,
    ) -> Result<(u64, bool), Outcome> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, commit.to_string());
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let publishing = async {
            let sent = self.context.publish_with_headers(subject, headers, message).await?;
            sent.await
        };
        tokio::select! {
            published = publishing => match published {
                Ok(stored) => {
                    self.last_sequence.fetch_max(stored.sequence, Ordering::Relaxed);
                    Ok((stored.sequence, stored.duplicate))
                }
                Err(error) => Err(outcome::of(&error as &PublishError)),
            },
            () = self.lost() => Err(Outcome::NotKnown("the connection to NATS was lost".to_owned())),
        }
    }

    /// The end of a tenant's subject, as the leader has it.
    pub(super) async fn tail(&self, subject: &str, tenant: &TenantId) -> Result<Tail, Failure> {
        match self.unless_lost(self.stream.get_last_raw_message_by_subject(subject)).await? {
            Ok(message) => {
                let stored = stored(message.sequence, &message.payload)?;
                if stored.recorded.commit.tenant() != tenant {
                    return Err(Failure::Damaged(stored.recorded.position, "is of another tenant".to_owned()));
                }
                Ok(Tail { head: stored.recorded.commit.head(), sequence: message.sequence })
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(Tail { head: Head::genesis(tenant), sequence: 0 })
            }
            Err(error) => Err(Failure::Passing(with_causes(&error))),
        }
    }

    /// The message at a sequence, as the leader has it.
    pub(super) async fn at(&self, sequence: u64) -> Result<Option<Stored>, Failure> {
        match self.unless_lost(self.stream.get_raw_message(sequence)).await? {
            Ok(message) => stored(message.sequence, &message.payload).map(Some),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(Failure::Passing(with_causes(&error))),
        }
    }

    /// The subject of one message, whatever it holds.
    pub(super) async fn subject_at(&self, sequence: u64) -> Result<Option<String>, Failure> {
        match self.unless_lost(self.stream.get_raw_message(sequence)).await? {
            Ok(message) => Ok(Some(message.subject.to_string())),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(Failure::Passing(with_causes(&error))),
        }
    }

    /// The first message of a subject at a sequence or behind it, as the leader has it.
    pub(super) async fn next(&self, subject: &str, sequence: u64) -> Result<Option<Stored>, Failure> {
        match self.unless_lost(self.stream.get_first_raw_message_by_subject(subject, sequence)).await? {
            Ok(message) => stored(message.sequence, &message.payload).map(Some),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(Failure::Passing(with_causes(&error))),
        }
    }

    /// Sequence of the stream's last message, as the leader has it.
    pub(super) async fn end(&self) -> Result<u64, Failure> {
        match self.unless_lost(self.stream.get_info()).await? {
            Ok(info) => Ok(info.state.last_sequence),
            Err(error) => Err(Failure::Passing(with_causes(&error))),
        }
    }

    /// What `asking` gives, unless the connection is lost first.
    pub(super) async fn unless_lost<T>(&self, asking: impl IntoFuture<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            asked = asking.into_future() => Ok(asked),
            () = self.lost() => Err(Failure::Passing("the connection to NATS was lost".to_owned())),
        }
    }
}

/// Makes a stream if it is to be made, and sees that it is as it should be.
async fn ensure(context: &Context, wanted: stream::Config, missing: Missing) -> Result<stream::Info, OpenError> {
    let stream = wanted.name.clone();
    let found = match context.get_stream(&stream).await {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                if missing == Missing::IsGone {
                    return Err(OpenError::Gone { stream });
                }
                let made = context.create_stream(wanted.clone()).await;
                let uncreated = |error| OpenError::Uncreated { stream: stream.clone(), why: with_causes(&error) };
                made.map_err(uncreated)?.cached_info().clone()
            }
            _ => return Err(unanswered(&error)),
        },
    };
    let differences = settings::differences(&wanted, &found.config);
    if differences.is_empty() {
        return Ok(found);
    }
    Err(OpenError::Settings { stream, differences: differences.join("; ") })
}

/// Who keeps a stream, as it says.
fn keepers_of(info: &stream::Info, server: &str) -> BTreeSet<String> {
    let mut keepers: BTreeSet<_> = nats::servers_of(info).collect();
    if keepers.is_empty() {
        // One that is alone need not say so.
        keepers.insert(server.to_owned());
    }
    keepers
}

fn unanswered(error: &(dyn std::error::Error + 'static)) -> OpenError {
    OpenError::JetStream(with_causes(error))
}

/// Reads a message.
pub(super) fn stored(sequence: u64, message: &Bytes) -> Result<Stored, Failure> {
    let position = Position::new(sequence);
    let framed = frame::decode(message).map_err(|what| Failure::Damaged(position, format!("the message {what}")))?;
    Ok(Stored { recorded: Arc::new(Recorded { position, commit: framed.commit.clone() }), framed })
}
