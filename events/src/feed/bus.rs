//! What the feed asks of JetStream: the stream's settings, and the publication of one message.

use std::{error::Error as _, time::Duration};

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, Context, ErrorCode,
        context::{CreateStreamErrorKind, GetStreamErrorKind, PublishError, PublishErrorKind},
        kv,
        stream::{self, DiscardPolicy, RetentionPolicy, StorageType},
    },
};

use super::{
    chain::Chain,
    config::{Discard, FeedConfig},
    message::{Message, PREFIX},
    trouble::Trouble,
};
use crate::nats::{Connection, Purpose, differences, is_full, survey::Wanted, with_causes};

/// JetStream through one connection. It ends with that: whoever holds it makes another, and begins at the checkpoint.
pub(crate) struct Bus {
    context: Context,
    connection: Connection,
}

impl Bus {
    pub(crate) async fn connect(config: &FeedConfig) -> Result<Self, Trouble> {
        let timeout = config.ack_timeout();
        let purpose = Purpose { name: "wasmwiz-feed", section: "feed.nats", timeout };
        let connection = Connection::open(&config.nats, purpose).await?;
        let context = jetstream::ContextBuilder::new()
            .timeout(timeout)
            .ack_timeout(timeout)
            .max_ack_inflight(config.in_flight_max)
            .backpressure_on_inflight(true)
            .build(connection.client().clone());
        Ok(Self { context, connection })
    }

    /// The bucket of the checkpoint, made if it is missing.
    pub(crate) async fn bucket(&self, config: &FeedConfig) -> Result<kv::Store, Trouble> {
        let bucket = match self.context.get_key_value(&config.bucket).await {
            Ok(bucket) => return Ok(bucket),
            Err(_) => kv::Config {
                bucket: config.bucket.clone(),
                description: "How far the feed of WasmWiz is".to_owned(),
                history: 1,
                num_replicas: config.replicas,
                ..Default::default()
            },
        };
        self.context.create_key_value(bucket).await.map_err(|error| Trouble::Bucket(with_causes(&error)))
    }

    /// Resolves once the connection is gone.
    pub(crate) async fn lost(&self) {
        self.connection.lost().await;
    }

    /// Makes the stream, or sees that it is as it should be.
    pub(crate) async fn ensure_stream(&self, config: &FeedConfig) -> Result<Found, Trouble> {
        let wanted = wanted(config);
        match self.context.get_stream(&config.stream).await {
            Ok(stream) => same(&wanted, &stream.cached_info().config).map(|()| found(stream.cached_info())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(missing) if missing.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    let made = self.context.create_stream(wanted).await;
                    made.map(|stream| found(stream.cached_info())).map_err(|error| uncreated(&error.kind()))
                }
                _ => Err(Trouble::JetStream(with_causes(&error))),
            },
        }
    }

    /// Sends a message and waits until the stream has it. Where it lies there.
    pub(crate) async fn publish(&self, message: Message) -> Result<u64, Trouble> {
        let headers = headers(&message);
        let sent = self.context.publish_with_headers(message.subject, headers, message.body).await;
        let acknowledgement = sent.map_err(|error| unpublished(&error))?;
        acknowledgement.await.map(|stored| stored.sequence).map_err(|error| unpublished(&error))
    }

    /// A chain of messages behind the last one of the stream as it was `found`.
    pub(crate) async fn chain(&self, config: &FeedConfig, found: &Found) -> Result<Chain, Trouble> {
        Chain::begin(self.connection.client().clone(), config.ack_timeout(), found.last_sequence).await
    }
}

/// What is told of a message beside its subject and its body.
pub(super) fn headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, message.id.to_string());
    headers.insert("Content-Type", "application/cloudevents+json");
    headers
}

/// What tells a stream from another one, and whether it still has what it acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// When it was made, as it says itself.
    pub(crate) created: String,
    pub(crate) last_sequence: u64,
}

fn found(info: &stream::Info) -> Found {
    Found { created: info.created.to_string(), last_sequence: info.state.last_sequence }
}

/// The feed's stream, and the bucket of its checkpoint where nodes share a log, for who looks whether they are as they should be.
pub(super) fn all_wanted(config: &FeedConfig, shared: bool) -> Vec<Wanted> {
    let wanted = wanted(config);
    let (name, replicas) = (wanted.name.clone(), config.replicas);
    let stream = Wanted::new(name, replicas, move |found| differences(&wanted, found));
    let bucket = shared.then(|| Wanted::copies(format!("KV_{}", config.bucket), replicas));
    [stream].into_iter().chain(bucket).collect()
}

/// The stream as the settings want it.
fn wanted(config: &FeedConfig) -> stream::Config {
    stream::Config {
        name: config.stream.clone(),
        description: Some("Events of WasmWiz, one CloudEvent a message".to_owned()),
        subjects: vec![format!("{PREFIX}.>")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        max_age: Duration::from_secs(config.max_age_s),
        max_bytes: if config.max_bytes == 0 { -1 } else { i64::try_from(config.max_bytes).unwrap_or(-1) },
        discard: match config.discard {
            Discard::Old => DiscardPolicy::Old,
            Discard::New => DiscardPolicy::New,
        },
        duplicate_window: Duration::from_secs(config.duplicate_window_s),
        allow_direct: true,
        ..Default::default()
    }
}

/// Compares what matters to the feed and to its subscribers.
fn same(wanted: &stream::Config, found: &stream::Config) -> Result<(), Trouble> {
    let differences = differences(wanted, found);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Trouble::Settings { stream: wanted.name.clone(), differences: differences.join("; ") })
}

fn uncreated(kind: &CreateStreamErrorKind) -> Trouble {
    match kind {
        CreateStreamErrorKind::JetStream(error) if is_full(error) => Trouble::NoRoom(error.to_string()),
        kind => Trouble::JetStream(format!("the stream cannot be made: {kind}")),
    }
}

fn unpublished(error: &PublishError) -> Trouble {
    match error.kind() {
        PublishErrorKind::TimedOut => Trouble::NotAcknowledged,
        PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => Trouble::Lost,
        PublishErrorKind::MaxPayloadExceeded => Trouble::TooLarge,
        PublishErrorKind::StreamNotFound => Trouble::JetStream("no stream takes the event".to_owned()),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence | PublishErrorKind::Other => {
            match error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                Some(refusal) if is_full(refusal) => Trouble::Full(refusal.to_string()),
                Some(refusal) => Trouble::Refused(refusal.to_string()),
                None => Trouble::Refused(with_causes(error)),
            }
        }
    }
}
