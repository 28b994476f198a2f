//! The log on NATS JetStream: what nodes that form one platform share.
//!
//! ```text
//! append ─ head of the tenant's subject ─ may it follow? ─ publish, if the subject still ends there ─► acknowledged
//!              ▲ remembered, or read at the leader                      │ it does not, or nobody knows
//!              └────────────────────────────────────────────────────────┘
//! ```
//! One stream holds all tenants; a commit with its payloads is one message on `<prefix>.<shard>.<tenant>`, and its sequence in
//! the stream is its position. The server stores a message only if the tenant's subject ends with the message that the commit
//! was decided on, so of two owners one is refused, whatever either believes.
//!
//! - **Acknowledged means that the stream's quorum has it.** That this outlives the loss of power is a setting of the servers
//!   (`sync_interval: always`), which they are asked for.
//! - **An outcome that is not known is found out**: the same commit is offered again until the log says what became of it. Only
//!   when that takes too long is the answer [`AppendError::Unknown`].
//! - **What decides is read at the stream's leader**, never from a copy that may lag.
//! - **No bus is not the end**: appends and reads wait within their bounds, subscriptions for as long as it takes. A stream
//!   that is not the one that was opened is the end: the log is poisoned.

use std::{num::NonZeroUsize, sync::Arc};

use async_trait::async_trait;
use lru::LruCache;
use tokio::{
    sync::{Mutex, Semaphore, watch},
    time::Instant,
};

use super::{Append, AppendError, Appended, EventLog, ReadError, ReadLimit, Subscription, admission};
use crate::{
    commit::Recorded,
    id::TenantId,
    ledger::Head,
    metrics as names,
    nats::{Purpose, survey::Wanted},
    payload::Payload,
    revision::Position,
    revision::Revision,
};

mod append;
mod blobs;
mod config;
mod durability;
mod follow;
mod frame;
mod link;
mod outcome;
mod read;
mod session;
mod stream;
mod tries;

pub use blobs::JetstreamBlobs;
pub use config::{Acknowledged, JetstreamLogConfig};
pub use durability::Durability;
pub use session::OpenError;

use link::Link;
use session::{Missing, Tail};

/// Where the end of a tenant's subject is; `None`: to be read. Whoever appends to it holds the lock.
type Place = Arc<Mutex<Option<Tail>>>;

/// A log on JetStream. Clones share it.
#[derive(Clone)]
pub struct JetstreamLog {
    shared: Arc<Shared>,
}

struct Shared {
    config: JetstreamLogConfig,
    link: Link,
    places: std::sync::Mutex<LruCache<TenantId, Place>>,
    /// For each tenant a revision and a sequence at which, or before which, it begins: where the next page is read.
    marks: std::sync::Mutex<LruCache<TenantId, (Revision, u64)>>,
    /// Bytes of appends that wait or are under way.
    room: Semaphore,
    poison: watch::Sender<Option<Arc<str>>>,
}

impl JetstreamLog {
    /// The largest message that the servers have to take, in bytes.
    pub const MESSAGE_BYTES_MAX: usize = frame::MESSAGE_BYTES_MAX;

    /// The streams of a log with these settings, for who looks whether they are there and as they should be.
    pub fn wanted_streams(config: &JetstreamLogConfig) -> Vec<Wanted> {
        stream::all_wanted(config)
    }

    /// Connects, makes the stream if it is missing, and checks that server and stream are what is asked for.
    ///
    /// # Errors
    /// [`OpenError`], each with what to do about it.
    pub async fn open(config: JetstreamLogConfig) -> Result<Self, OpenError> {
        Self::opened(config, Missing::IsMade).await
    }

    /// The same, of a log that is there: for who only reads it.
    ///
    /// # Errors
    /// As [`Self::open`], and [`OpenError::Gone`].
    pub async fn open_existing(config: JetstreamLogConfig) -> Result<Self, OpenError> {
        Self::opened(config, Missing::IsGone).await
    }

    async fn opened(config: JetstreamLogConfig, missing: Missing) -> Result<Self, OpenError> {
        let (poison, _) = watch::channel(None);
        let link = Link::open(&config, missing, poison.clone()).await?;
        let entries = NonZeroUsize::new(config.heads_max).unwrap_or(NonZeroUsize::MIN);
        let room = Semaphore::new(config.waiting_bytes_max.min(Semaphore::MAX_PERMITS));
        let (places, marks) = (LruCache::new(entries), LruCache::new(entries));
        let (places, marks) = (std::sync::Mutex::new(places), std::sync::Mutex::new(marks));
        Ok(Self { shared: Arc::new(Shared { config, link, places, marks, room, poison }) })
    }

    /// For a health check: is there a connection to the stream, or what is in the way?
    ///
    /// # Errors
    /// What is in the way, with a remedy.
    pub fn check(&self) -> Result<String, String> {
        self.shared.link.check()
    }

    /// The blobs beside it, through the same connection.
    pub fn blobs(&self) -> JetstreamBlobs {
        JetstreamBlobs::of(Arc::clone(&self.shared))
    }

    /// Ends its connection. What was acknowledged is stored.
    pub fn close(&self) {
        self.shared.link.close();
    }
}

impl Shared {
    fn place(&self, tenant: &TenantId) -> Place {
        let mut places = self.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(places.get_or_insert(tenant.clone(), Place::default))
    }

    fn poisoned(&self) -> Option<Arc<str>> {
        self.poison.borrow().clone()
    }
}

/// What the server shows for the connection.
const fn purpose(config: &JetstreamLogConfig) -> Purpose {
    Purpose { name: "wasmwiz-log", section: "log.jetstream.nats", timeout: config.answer_within() }
}

#[async_trait]
impl EventLog for JetstreamLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let (shared, bytes) = (&*self.shared, admission::size(&append)?);
        if let Some(reason) = shared.poisoned() {
            return Err(AppendError::Poisoned(reason));
        }
        let room = shared.room.try_acquire_many(u32::try_from(bytes.max(1)).unwrap_or(u32::MAX));
        let Ok(_room) = room else { return Err(AppendError::Busy) };
        let begun = now();
        let appended = append::append(shared, &append).await;
        match &appended {
            Ok(_) => {
                metrics::histogram!(names::LOG_COMMIT_SECONDS).record(begun.elapsed().as_secs_f64());
                metrics::counter!(names::LOG_COMMITS_TOTAL).increment(1);
                metrics::counter!(names::LOG_EVENTS_TOTAL).increment(u64::from(append.commit.header().count));
            }
            Err(error) => {
                metrics::counter!(names::LOG_REFUSED_TOTAL, "reason" => admission::reason(error)).increment(1);
            }
        }
        appended
    }

    async fn read_stream(
        &self,
        tenant: &TenantId,
        from: Revision,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        read::stream(&self.shared, tenant, from, Position::START, limit).await
    }

    async fn read_stream_behind(
        &self,
        tenant: &TenantId,
        from: Revision,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        read::stream(&self.shared, tenant, from, after, limit).await
    }

    async fn read_all(&self, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        read::all(&self.shared, after, limit).await
    }

    async fn read_at(&self, position: Position) -> Result<Option<Arc<Recorded>>, ReadError> {
        Ok(read::at(&self.shared, position).await?.map(|stored| stored.recorded))
    }

    async fn tenant_at(&self, position: Position) -> Result<Option<TenantId>, ReadError> {
        read::tenant_at(&self.shared, position).await
    }

    async fn payloads(&self, position: Position) -> Result<Vec<Payload>, ReadError> {
        let Some(stored) = read::at(&self.shared, position).await? else { return Ok(Vec::new()) };
        stored.payloads().map_err(|what| ReadError::Damaged { position, what: what.into() })
    }

    async fn subscribe(&self, after: Position) -> Result<Box<dyn Subscription>, ReadError> {
        Ok(Box::new(follow::Follow::new(Arc::clone(&self.shared), after)))
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head, ReadError> {
        Ok(read::tail(&self.shared, tenant).await?.head)
    }

    async fn tail(&self) -> Result<Position, ReadError> {
        read::end(&self.shared).await
    }

    fn durability(&self) -> Result<Option<Arc<str>>, Arc<str>> {
        self.shared.link.durability()
    }

    async fn poisoned(&self) -> Arc<str> {
        let mut poison = self.shared.poison.subscribe();
        loop {
            if let Some(reason) = poison.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives as long as the log.
            if poison.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
