//! The two buckets of a cluster on JetStream, changed by compare-and-set only.
//!
//! What is read to decide on is read from the leader of the bucket's stream, as followers may be behind; watches bring the
//! news sooner. Keys have no time to live of their own: the bucket of members has one for all of them.

use std::{error::Error as _, time::Duration};

use async_nats::jetstream::{
    self, Context, ErrorCode,
    context::{GetStreamErrorKind, PublishError, PublishErrorKind},
    kv::{self, Operation, Store, UpdateErrorKind, Watch},
    stream::{LastRawMessageErrorKind, StorageType},
};
use bytes::Bytes;
use wasmwiz_events::{
    id::NodeId,
    nats::{Connection, Purpose, Unconnected, survey::Wanted, with_causes},
};

use super::{config::ClusterConfig, member::Refusal};

/// The bucket of leases: one key a member, its name.
pub const MEMBERS: &str = "WASMWIZ_MEMBERS";

/// The bucket of what all agree on.
pub const CLUSTER: &str = "WASMWIZ_CLUSTER";

/// Its key of the table of owners.
pub const TABLE: &str = "table";

/// Its key of who plans.
pub const LEADER: &str = "leader";

/// The largest value, in bytes: a table is some 35 KiB.
const VALUE_MAX_BYTES: i32 = 512 * 1_024;

/// The most that a bucket keeps, in bytes.
const BUCKET_MAX_BYTES: i64 = 16 * 1_024 * 1_024;

/// What the server says when another write to the key is under way.
const UNDER_WAY: u64 = 10_164;

/// Why something could not be had of the buckets.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There is no connection.
    #[error(transparent)]
    Unconnected(#[from] Unconnected),
    /// It was lost.
    #[error("the connection to NATS was lost; another is opened")]
    Lost,
    /// No answer in time. What was asked for may have been done.
    #[error("JetStream does not answer in time: see whether its servers have a majority and their disks keep up")]
    TimedOut,
    /// Somebody else changed the key.
    #[error("somebody else has changed it meanwhile; it is tried again")]
    Conflict,
    /// The buckets are of another kind of cluster than this node's.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something else.
    #[error(
        "JetStream refuses ({0}): see that it is enabled for this account, on nats-server 2.11 or later, with room left"
    )]
    JetStream(String),
}

/// A key as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its value; none after it was removed.
    pub value: Option<Bytes>,
    /// What to compare with when it is changed. 0 for a key that never was.
    pub revision: u64,
}

/// Both buckets, through one connection.
pub struct Buckets {
    connection: Connection,
    members: Store,
    cluster: Store,
}

impl Buckets {
    /// Connects, and makes what is missing.
    ///
    /// # Errors
    /// [`Trouble`]; all but [`Trouble::Refused`] may pass.
    pub async fn open(config: &ClusterConfig) -> Result<Self, Trouble> {
        let timeout = config.answer_within();
        let purpose = Purpose { name: "wasmwiz-cluster", section: "cluster.nats", timeout };
        let connection = Connection::open(&config.nats, purpose).await?;
        let context =
            jetstream::ContextBuilder::new().timeout(timeout).ack_timeout(timeout).build(connection.client().clone());
        let members = ensure(&context, members(config)).await?;
        if members.stream.cached_info().config.max_age != config.ttl() {
            let there = members.stream.cached_info().config.max_age.as_millis();
            let there = u64::try_from(there).unwrap_or(u64::MAX);
            return Err(Refusal::LeaseTtl { here: config.lease_ttl_ms, there }.into());
        }
        let cluster = ensure(&context, cluster(config)).await?;
        for (bucket, store) in [(MEMBERS, &members), (CLUSTER, &cluster)] {
            let (here, there) = (config.replicas, store.stream.cached_info().config.num_replicas);
            if here != there {
                return Err(Refusal::Replicas { bucket, here, there }.into());
            }
        }
        Ok(Self { connection, members, cluster })
    }

    /// Resolves once the connection is gone.
    pub async fn lost(&self) {
        self.connection.lost().await;
    }

    /// The record of a member.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn member(&self, node: &NodeId) -> Result<Key, Trouble> {
        read(&self.members, node.as_str()).await
    }

    /// Writes the record of a member over the one with this revision. Gives the new one.
    ///
    /// # Errors
    /// [`Trouble::Conflict`] if that is not the last one.
    pub async fn put_member(&self, node: &NodeId, record: Bytes, revision: u64) -> Result<u64, Trouble> {
        self.members.update(node.as_str(), record, revision).await.map_err(|error| unwritten(&error))
    }

    /// Deletes the record with this revision.
    ///
    /// # Errors
    /// [`Trouble::Conflict`] if that is not the last one.
    pub async fn delete_member(&self, node: &NodeId, revision: u64) -> Result<(), Trouble> {
        let deleted = self.members.delete_expect_revision(node.as_str(), Some(revision)).await;
        deleted.map_err(|error| unwritten(&error))
    }

    /// A key of what all agree on.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn agreed(&self, key: &'static str) -> Result<Key, Trouble> {
        read(&self.cluster, key).await
    }

    /// Changes a key of what all agree on. Gives its new revision.
    ///
    /// # Errors
    /// [`Trouble::Conflict`] if `revision` is not the last one.
    pub async fn agree(&self, key: &'static str, value: Bytes, revision: u64) -> Result<u64, Trouble> {
        self.cluster.update(key, value, revision).await.map_err(|error| unwritten(&error))
    }

    /// All records of members, and every change from now on.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn watch_members(&self) -> Result<Watch, Trouble> {
        self.members.watch_with_history(">").await.map_err(|error| Trouble::JetStream(with_causes(&error)))
    }

    /// What all agree on, and every change from now on.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn watch_agreed(&self) -> Result<Watch, Trouble> {
        self.cluster.watch_with_history(">").await.map_err(|error| Trouble::JetStream(with_causes(&error)))
    }
}

/// One change that a watch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this value now.
    Put(Bytes),
    /// Somebody deleted it.
    Deleted,
    /// The server removed it, for its age.
    Removed,
}

impl Change {
    /// Of what the client says.
    pub fn of(entry: &kv::Entry) -> Self {
        match entry.operation {
            Operation::Put => Self::Put(entry.value.clone()),
            Operation::Delete => Self::Deleted,
            Operation::Purge => Self::Removed,
        }
    }
}

/// The streams below the buckets, for who looks whether they are there and as they should be.
pub fn wanted_streams(config: &ClusterConfig) -> Vec<Wanted> {
    let (ttl, replicas) = (config.ttl(), config.replicas);
    let members = Wanted::new(format!("KV_{MEMBERS}"), replicas, move |found| {
        let (copies, age) = (found.num_replicas, found.max_age);
        let copies = (copies != replicas).then(|| format!("num_replicas is {copies}, should be {replicas}"));
        let age = (age != ttl).then(|| format!("max_age is {age:?}, should be {ttl:?} by cluster.lease_ttl_ms"));
        copies.into_iter().chain(age).collect()
    });
    vec![members, Wanted::copies(format!("KV_{CLUSTER}"), replicas)]
}

fn members(config: &ClusterConfig) -> kv::Config {
    kv::Config {
        bucket: MEMBERS.to_owned(),
        description: "WasmWiz: leases of nodes".to_owned(),
        max_age: config.ttl(),
        // Watchers hear of records that were removed for their age. Whole seconds, at least one.
        limit_markers: Some(Duration::from_secs(config.ttl().as_secs().max(1))),
        ..cluster(config)
    }
}

fn cluster(config: &ClusterConfig) -> kv::Config {
    kv::Config {
        bucket: CLUSTER.to_owned(),
        description: "WasmWiz: the table of owners, and who plans".to_owned(),
        max_value_size: VALUE_MAX_BYTES,
        max_bytes: BUCKET_MAX_BYTES,
        history: 1,
        storage: StorageType::File,
        num_replicas: config.replicas,
        ..Default::default()
    }
}

async fn ensure(context: &Context, config: kv::Config) -> Result<Store, Trouble> {
    let refused = |error: &(dyn std::error::Error + 'static)| Trouble::JetStream(with_causes(error));
    match context.get_stream(format!("KV_{}", config.bucket)).await {
        Ok(_) => context.get_key_value(&config.bucket).await.map_err(|error| refused(&error)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(missing) if missing.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                tracing::info!(bucket = config.bucket, replicas = config.num_replicas, "a bucket is made");
                context.create_key_value(config).await.map_err(|error| refused(&error))
            }
            _ => Err(refused(&error)),
        },
    }
}

/// From the leader: a follower may not have the last one yet.
async fn read(store: &Store, key: &str) -> Result<Key, Trouble> {
    let subject = format!("{}{key}", store.prefix);
    match store.stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => {
            // Whoever removed it: a value has none of these headers.
            let is_value =
                message.headers.get("KV-Operation").is_none() && message.headers.get("Nats-Marker-Reason").is_none();
            Ok(Key { value: is_value.then_some(message.payload), revision: message.sequence })
        }
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(Key { value: None, revision: 0 }),
            LastRawMessageErrorKind::JetStream(_)
            | LastRawMessageErrorKind::InvalidSubject
            | LastRawMessageErrorKind::Other => Err(Trouble::JetStream(with_causes(&error))),
        },
    }
}

fn unwritten(error: &kv::UpdateError) -> Trouble {
    let under_way = |error: &PublishError| {
        let inner = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        inner.is_some_and(|inner| inner.error_code().0 == UNDER_WAY)
    };
    match error.kind() {
        UpdateErrorKind::WrongLastRevision => Trouble::Conflict,
        UpdateErrorKind::TimedOut => Trouble::TimedOut,
        UpdateErrorKind::InvalidKey | UpdateErrorKind::Other => {
            match error.source().and_then(|source| source.downcast_ref::<PublishError>()) {
                Some(error) if under_way(error) => Trouble::Conflict,
                Some(error) if error.kind() == PublishErrorKind::BrokenPipe => Trouble::Lost,
                _ => Trouble::JetStream(with_causes(error)),
            }
        }
    }
}
