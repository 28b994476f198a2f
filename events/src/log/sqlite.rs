//! The embedded log: one SQLite file, one thread that writes, group commit, and readers that never wait for it.
//!
//! ```text
//! append ─► bounded queue ─► writer thread ─ one transaction, one fsync ─► events.db-wal ─► events.db
//!                                   └─► recent commits + durable tail ─► subscriptions
//! read_* ─► recent commits, or a read-only connection on a blocking thread
//! ```
//! **Invariants**
//! - An append is acknowledged after the COMMIT that holds it, with `synchronous=FULL`: it has been synced.
//! - Positions are 1, 2, 3 … without gaps.
//! - The first I/O error ends the writer for good. A sync is never tried a second time: the system may have thrown the
//!   unwritten pages away and would report success. A full disk is such an error too.
//! - Only the writer checkpoints; no connection maps the file into memory.

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc as std_mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Append, AppendError, Appended, EventLog, ReadError, ReadLimit, Subscription, admission, recent::Recent};
use crate::{
    commit::Recorded,
    digest::Digest,
    id::TenantId,
    ledger::Head,
    metrics as names,
    payload::{self, Payload},
    revision::{Position, Revision},
};

mod audit;
mod checkpointer;
mod forget;
mod heads;
mod lock;
mod reader;
mod row;
mod schema;
mod subscription;
#[cfg(test)]
mod tests;
mod writer;

pub use audit::{Found, Rows, SqliteAudit, StoredRow};

/// How long dropping a log waits for its writer. A writer that still hangs then hangs in the disk, and is left there.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// The bounds of an embedded log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteLogConfig {
    /// The most appends that wait; more are refused as busy.
    pub queue_appends: usize,
    /// The most bytes that wait, bodies and payloads; more are refused as busy.
    pub queue_bytes: usize,
    /// The most appends in one transaction.
    pub batch_appends: usize,
    /// A transaction takes no further append when it has this many bytes.
    pub batch_bytes: usize,
    /// The most reads at a time.
    pub readers: usize,
    /// The most commits kept in memory for subscriptions.
    pub recent_commits: usize,
    /// The most body bytes kept in memory for subscriptions.
    pub recent_bytes: usize,
    /// The most streams whose ends are kept in memory.
    pub heads: usize,
    /// The WAL is copied into the database when it holds this many bytes that are not there yet. A copy is synced while
    /// appends go on, and they wait for the disk that long: less at a time is a lower worst case.
    pub checkpoint_bytes: u64,
    /// Beyond this many bytes appends wait a moment for the readers that keep the WAL from being reused; a WAL file that
    /// has grown larger is cut to this.
    pub wal_bytes: u64,
    /// How long a connection waits for a lock, in milliseconds. In one process there is none to wait for.
    pub busy_timeout_ms: u64,
    /// The database may not grow beyond this many bytes; reaching it is like a full disk. A node refuses what writes much from here on, and
    /// has the database itself grow by a sixteenth more, for the ends of what was accepted.
    pub max_bytes: Option<u64>,
}

impl Default for SqliteLogConfig {
    fn default() -> Self {
        Self {
            queue_appends: 1_024,
            queue_bytes: 64 << 20,
            batch_appends: 512,
            batch_bytes: 8 << 20,
            readers: 4,
            recent_commits: 4_096,
            recent_bytes: 16 << 20,
            heads: 65_536,
            checkpoint_bytes: 4 << 20,
            wal_bytes: 256 << 20,
            busy_timeout_ms: 5_000,
            max_bytes: None,
        }
    }
}

impl SqliteLogConfig {
    /// How long a log waits for its file that no other program should use.
    const HELD_FOR_MS: u64 = 3_600_000;

    /// The same, where an append that meets another program at the file waits for an hour and is not given up before.
    #[must_use]
    pub const fn held(self) -> Self {
        Self { busy_timeout_ms: Self::HELD_FOR_MS, ..self }
    }
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open for writing.
    #[error(
        "another process holds {}: stop that process, or give this one another data directory",
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// There is no log to read.
    #[error("there is no event log at {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not an event log of this platform: move it away, or choose another directory", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by another version.
    #[error("{} has format version {found}, this program knows version {known}: use the program that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version known here.
        known: i64,
    },
    /// A file or directory could not be made or opened.
    #[error("cannot open {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// SQLite could not open the file.
    #[error("cannot open the event log {}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// The embedded event log.
#[derive(Debug)]
pub struct SqliteLog {
    shared: Arc<Shared>,
    tail: watch::Receiver<Position>,
    /// Taken when the log is closed: the writer ends when its queue has no sender and is empty.
    queue: RwLock<Option<mpsc::Sender<writer::Request>>>,
    writer: Mutex<Option<Ending>>,
    queue_bytes: usize,
}

/// What is needed to wait for the writer's end.
#[derive(Debug)]
struct Ending {
    thread: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: std_mpsc::Receiver<()>,
}

/// What the writer, the readers and the subscriptions share.
#[derive(Debug)]
struct Shared {
    readers: Arc<reader::Readers>,
    recent: Recent,
    poison: watch::Sender<Option<Arc<str>>>,
    queued_bytes: AtomicUsize,
    transactions: AtomicU64,
    /// Of the database, where it has a bound.
    used_pages: AtomicU64,
    checkpoint_at_end: AtomicBool,
}

impl Shared {
    async fn read_all(&self, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        match self.recent.after(after, limit) {
            Some(found) => Ok(found),
            None => self.readers.all(after, limit).await,
        }
    }

    /// Why an append has had no answer.
    fn stopped(&self) -> AppendError {
        AppendError::Poisoned(self.poison.borrow().clone().unwrap_or_else(|| "the log is closed".into()))
    }

    /// Why a subscription has come to its end.
    fn ended(&self) -> ReadError {
        ReadError::Unavailable(self.poison.borrow().clone().unwrap_or_else(|| "the log is closed".into()))
    }
}

impl SqliteLog {
    /// Opens the log in `dir`, and creates directory and file if there are none. Blocks the thread for some
    /// milliseconds, longer when a WAL has to be read after a crash.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path, config: SqliteLogConfig) -> Result<Self, OpenError> {
        schema::create_dir(dir)?;
        let lock = lock::DirLock::take(dir)?;
        let connection = schema::open_writer(dir, &config)?;
        let path = schema::path(dir);
        let last =
            connection.query_row("SELECT coalesce(max(position), 0) FROM commits", [], |row| row.get::<_, i64>(0));
        let last = last.map_err(|source| OpenError::Sqlite { path: path.clone(), source })?;
        let used_pages =
            writer::used_pages(&connection).map_err(|source| OpenError::Sqlite { path: path.clone(), source })?;
        let (tail, tail_reader) = watch::channel(Position::new(last.unsigned_abs()));
        let (sender, queue) = mpsc::channel(config.queue_appends.max(1));
        let busy_timeout = Duration::from_millis(config.busy_timeout_ms);
        let shared = Arc::new(Shared {
            readers: Arc::new(reader::Readers::new(path.clone(), config.readers, busy_timeout)),
            recent: Recent::new(config.recent_commits, config.recent_bytes),
            poison: watch::channel(None).0,
            queued_bytes: AtomicUsize::new(0),
            transactions: AtomicU64::new(0),
            used_pages: AtomicU64::new(used_pages),
            checkpoint_at_end: AtomicBool::new(false),
        });
        let queue_bytes = config.queue_bytes;
        let heads = heads::Heads::new(config.heads);
        let writer = writer::Writer {
            connection,
            shared: Arc::clone(&shared),
            queue,
            tail,
            heads,
            // Unknown: a WAL may be left from a crash. The first transaction asks.
            wal_bytes_at_most: config.checkpoint_bytes,
            next_checkpoint_at: config.checkpoint_bytes,
            wait_for_readers_at: config.wal_bytes,
            checkpointer: checkpointer::Checkpointer::start(&path, busy_timeout, Arc::clone(&shared))?,
            config,
            _lock: lock,
        };
        let (alive, ended) = std_mpsc::sync_channel(1);
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("event-log".to_owned()).spawn(move || {
            let run = AssertUnwindSafe(|| writer.run());
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("the event log's writer has panicked");
                watched.poison.send_replace(Some("the writer has panicked".into()));
            }
            drop(alive);
        });
        let thread = thread.map_err(|source| OpenError::Io { path, source })?;
        let writer = Mutex::new(Some(Ending { thread, ended }));
        Ok(Self { shared, tail: tail_reader, queue: RwLock::new(Some(sender)), writer, queue_bytes })
    }

    /// Opens the log in `dir` for auditing. A node may be running on it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(dir: &Path) -> Result<SqliteAudit, OpenError> {
        SqliteAudit::open(dir)
    }

    /// Writes what is queued, copies the WAL into the database, and waits for the writer's end. Appends that come later
    /// are refused; reads go on. Closing twice is closing once. Blocks.
    pub fn close(&self) {
        self.shared.checkpoint_at_end.store(true, Ordering::Release);
        self.stop_queue();
        let ending = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the writer was caught and has poisoned the log.
        let _ = ending.map(|ending| ending.thread.join());
    }

    /// Transactions committed since the log was opened: with the number of appends, how well they are grouped.
    pub fn transactions(&self) -> u64 {
        self.shared.transactions.load(Ordering::Relaxed)
    }

    /// How many bytes of its bound the database has used: what is in its WAL counts, too. Without a bound it is what there was when it
    /// was opened.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used_pages.load(Ordering::Relaxed).saturating_mul(schema::PAGE_BYTES as u64)
    }

    /// What the file of the database in `dir` takes up, in bytes, without what is in its WAL alone; 0 when there is none.
    pub fn file_bytes(dir: &Path) -> u64 {
        std::fs::metadata(schema::path(dir)).map_or(0, |file| file.len())
    }

    fn stop_queue(&self) {
        self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Queues an append, or says why not.
    fn enqueue(&self, append: Append) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        let size_bytes = admission::size(&append)?;
        let payloads = (!append.payloads.is_empty()).then(|| payload::pack(&append.payloads));
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_ref() else { return Err(self.shared.stopped()) };
        let (answer, answered) = oneshot::channel();
        let request = writer::Request::Append(writer::Queued { commit: append.commit, payloads, size_bytes, answer });
        if self.shared.queued_bytes.fetch_add(size_bytes, Ordering::Relaxed) > self.queue_bytes {
            self.shared.queued_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(AppendError::Busy);
        }
        queue.try_send(request).map_err(|refused| {
            self.shared.queued_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            match refused {
                mpsc::error::TrySendError::Full(_) => AppendError::Busy,
                mpsc::error::TrySendError::Closed(_) => self.shared.stopped(),
            }
        })?;
        Ok(answered)
    }
}

impl Drop for SqliteLog {
    /// Lets the writer finish what is queued, without a checkpoint.
    fn drop(&mut self) {
        self.stop_queue();
        let ending = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Ending { ended, .. }) = ending
            && ended.recv_timeout(DROP_WAIT) == Err(std_mpsc::RecvTimeoutError::Timeout)
        {
            tracing::error!("the event log's writer hangs and is left behind");
        }
    }
}

#[async_trait]
impl EventLog for SqliteLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let answered = self.enqueue(append).inspect_err(|error| {
            metrics::counter!(names::LOG_REFUSED_TOTAL, "reason" => admission::reason(error)).increment(1);
        })?;
        // The writer drops an answer only when it has stopped.
        answered.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    fn keeps_order(&self) -> bool {
        // `enqueue` comes before the first wait, and one writer takes what is queued in order.
        true
    }

    async fn read_stream(
        &self,
        tenant: &TenantId,
        from: Revision,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        self.shared.readers.stream(tenant.clone(), from, Position::START, limit).await
    }

    async fn read_stream_behind(
        &self,
        tenant: &TenantId,
        from: Revision,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        self.shared.readers.stream(tenant.clone(), from, after, limit).await
    }

    async fn read_all(&self, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        if after >= *self.tail.borrow() {
            return Ok(Vec::new());
        }
        self.shared.read_all(after, limit).await
    }

    async fn read_at(&self, position: Position) -> Result<Option<Arc<Recorded>>, ReadError> {
        match self.shared.recent.at(position) {
            Some(found) => Ok(Some(found)),
            None => self.shared.readers.at(position).await,
        }
    }

    async fn tenant_at(&self, position: Position) -> Result<Option<TenantId>, ReadError> {
        self.shared.readers.tenant_at(position).await
    }

    async fn payloads(&self, position: Position) -> Result<Vec<Payload>, ReadError> {
        self.shared.readers.payloads(position).await
    }

    async fn with_payloads(
        &self,
        tenant: &TenantId,
        through: Revision,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        self.shared.readers.with_payloads(tenant.clone(), through, after, limit).await
    }

    async fn keep_payloads(&self, kept: Vec<(Position, Vec<Digest>)>) -> Result<u64, AppendError> {
        let (answer, answered) = oneshot::channel();
        {
            let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
            let queue = queue.as_ref().ok_or_else(|| self.shared.stopped())?;
            let queued = queue.try_send(writer::Request::Keep(writer::Keep { kept, answer }));
            queued.map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => AppendError::Busy,
                mpsc::error::TrySendError::Closed(_) => self.shared.stopped(),
            })?;
        }
        answered.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    async fn subscribe(&self, after: Position) -> Result<Box<dyn Subscription>, ReadError> {
        Ok(Box::new(subscription::Follower::new(Arc::clone(&self.shared), self.tail.clone(), after)))
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head, ReadError> {
        self.shared.readers.head(tenant.clone()).await
    }

    async fn tail(&self) -> Result<Position, ReadError> {
        Ok(*self.tail.borrow())
    }

    async fn poisoned(&self) -> Arc<str> {
        let mut poison = self.shared.poison.subscribe();
        loop {
            if let Some(reason) = poison.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives as long as this log, which is borrowed here: it cannot be gone.
            if poison.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
