//! The one thread that writes: it takes what is queued, stores it in one transaction, and acknowledges after the fsync.
//!
//! ```text
//! queue ─ take one, then whatever waits ─► BEGIN ─ append ─ append ─ … ─ COMMIT (fsync) ─► recent, tail ─► answers
//! ```
//! There is no timer: the batch is what queued up while the last one was synced.
//! **Must never be true**: an answer before its COMMIT; a second try of a COMMIT that failed.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Shared, SqliteLogConfig,
    checkpointer::{Checkpointer, Progress, checkpoint},
    heads::Heads,
    lock::DirLock,
    row, schema,
};
use crate::{
    commit::{Commit, Recorded},
    digest::Digest,
    id::CommitId,
    ledger::ChainHash,
    log::{
        AppendError, Appended,
        admission::{self, Admission},
    },
    metrics as names,
    revision::Position,
};

const INSERT: &str = "INSERT INTO commits (position, tenant, first_revision, count, commit_id, owner_epoch, recorded_at, \
     prev_hash, hash, body, payloads) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
const STORED: &str = "SELECT position, commit_id, hash FROM commits WHERE tenant = ?1 AND first_revision = ?2";

/// Pages that an append may write beside those that its bytes fill: two torn ones, a leaf of the index, and a split of
/// each tree.
const PAGES_OF_AN_APPEND: usize = 6;

/// Pages that a transaction may write beside those of its appends: the way from the roots to the leaves.
const PAGES_OF_A_TRANSACTION: usize = 8;

/// How long appends wait for a reader when the WAL has reached its bound.
const READER_WAIT: Duration = Duration::from_millis(500);

/// The longest that the checkpoint at the end waits for other programs.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Request {
    Append(Queued),
    Keep(Keep),
}

/// Of the payloads that ride with some commits, which stay.
#[derive(Debug)]
pub(super) struct Keep {
    pub(super) kept: Vec<(Position, Vec<Digest>)>,
    pub(super) answer: oneshot::Sender<Result<u64, AppendError>>,
}

/// An append in the queue.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) commit: Commit,
    /// Packed; `None` when there are none.
    pub(super) payloads: Option<Bytes>,
    pub(super) size_bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Appended, AppendError>>,
}

/// The state of the writer's thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) config: SqliteLogConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::Receiver<Request>,
    pub(super) tail: watch::Sender<Position>,
    pub(super) heads: Heads,
    /// Bytes of the WAL that are not in the database yet: counted too high, so that SQLite is seldom asked.
    pub(super) wal_bytes_at_most: u64,
    /// The next checkpoint is due when they are so many.
    pub(super) next_checkpoint_at: u64,
    /// Readers are waited for when the WAL holds so many bytes that are not in the database.
    pub(super) wait_for_readers_at: u64,
    /// Ends before the lock is given back.
    pub(super) checkpointer: Checkpointer,
    /// Held as long as the thread lives.
    pub(super) _lock: DirLock,
}

/// The transaction failed: nothing of it may be acknowledged, and nothing may be tried again.
pub(super) struct Fault(String);

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            return Self(format!("the disk is full, or the log has reached its largest size: {error}"));
        }
        Self(error.to_string())
    }
}

impl Writer {
    /// Writes until the queue is closed and empty, or until the first fault.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            if self.shared.poison.borrow().is_some() {
                return;
            }
            let (batch, keep) = self.gather(first);
            if !batch.is_empty() && self.write(batch).is_break() {
                return;
            }
            if let Some(keep) = keep
                && self.forget(keep).is_break()
            {
                return;
            }
            if let Err(fault) = self.checkpoint_if_due() {
                return self.poison(fault);
            }
        }
        self.checkpointer.stop();
        // Nobody waits for long at the end, however long appends may wait.
        let within = Duration::from_millis(self.config.busy_timeout_ms).min(CLOSE_WAIT);
        let _ = self.connection.busy_timeout(within);
        if self.shared.checkpoint_at_end.load(Ordering::Acquire)
            && let Err(reason) = checkpoint(&self.connection, "TRUNCATE")
        {
            tracing::warn!(%reason, "the event log was closed without a checkpoint; the next start reads its WAL");
        }
    }

    /// Says why the log has stopped. Whoever waits reads it when its answer is dropped, so this comes before any drop.
    pub(super) fn poison(&self, Fault(reason): Fault) {
        if self.shared.poison.borrow().is_some() {
            // The checkpointer has said it already.
            return;
        }
        tracing::error!(%reason, "the event log has stopped after an error: the process must stop too");
        self.shared.poison.send_replace(Some(reason.into()));
    }

    /// The appends of a batch, and what is to be forgotten after it.
    fn gather(&mut self, first: Request) -> (Vec<Queued>, Option<Keep>) {
        let first = match first {
            Request::Append(first) => first,
            Request::Keep(keep) => return (Vec::new(), Some(keep)),
        };
        let mut bytes = first.size_bytes;
        let mut batch = Vec::with_capacity(self.queue.len().min(self.config.batch_appends) + 1);
        batch.push(first);
        while batch.len() < self.config.batch_appends && bytes < self.config.batch_bytes {
            let Ok(request) = self.queue.try_recv() else { break };
            match request {
                Request::Append(request) => {
                    bytes = bytes.saturating_add(request.size_bytes);
                    batch.push(request);
                }
                Request::Keep(keep) => return (batch, Some(keep)),
            }
        }
        (batch, None)
    }

    /// Makes a batch durable, shows it, and answers it.
    #[expect(clippy::disallowed_methods, reason = "measures the transaction, decides nothing")]
    fn write(&mut self, batch: Vec<Queued>) -> ControlFlow<()> {
        let started = Instant::now();
        let _span = tracing::debug_span!("log.append", appends = batch.len()).entered();
        let answers = match self.store(&batch) {
            Ok(answers) => answers,
            Err(fault) => {
                self.poison(fault);
                return ControlFlow::Break(());
            }
        };
        metrics::histogram!(names::LOG_COMMIT_SECONDS).record(started.elapsed().as_secs_f64());
        let (mut recorded, mut waiting) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (request, appended) in batch.into_iter().zip(answers) {
            self.shared.queued_bytes.fetch_sub(request.size_bytes, Ordering::Relaxed);
            if let Ok(Appended { position, repeated: false }) = appended {
                recorded.push(Arc::new(Recorded { position, commit: request.commit }));
            }
            waiting.push((request.answer, appended));
        }
        self.publish(recorded);
        for (sender, appended) in waiting {
            if let Err(error) = &appended {
                metrics::counter!(names::LOG_REFUSED_TOTAL, "reason" => admission::reason(error)).increment(1);
            }
            // Whoever asked may have gone; the commit is durable all the same.
            let _ = sender.send(appended);
        }
        ControlFlow::Continue(())
    }

    /// One transaction: the answers for a batch, true when this returns.
    fn store(&mut self, batch: &[Queued]) -> Result<Vec<Result<Appended, AppendError>>, Fault> {
        match self.execute("BEGIN IMMEDIATE") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                // For the whole of `busy_timeout_ms`. Nothing was stored.
                tracing::warn!("another program holds the event log's file: appends are refused");
                return Ok(batch.iter().map(|_| Err(AppendError::Busy)).collect());
            }
            begun => begun?,
        }
        let mut answers = Vec::with_capacity(batch.len());
        let mut next = self.tail.borrow().next();
        for request in batch {
            let appended = self.append(request, next)?;
            if matches!(appended, Ok(Appended { repeated: false, .. })) {
                next = next.next();
            }
            answers.push(appended);
        }
        // Asked before the COMMIT: then no lock has to be taken for it.
        let used_pages = self.config.max_bytes.map(|_| used_pages(&self.connection)).transpose()?;
        self.execute("COMMIT")?;
        if let Some(used_pages) = used_pages {
            self.shared.used_pages.store(used_pages, Ordering::Relaxed);
        }
        self.shared.transactions.fetch_add(1, Ordering::Relaxed);
        let bytes: usize = batch.iter().map(|request| request.size_bytes).sum();
        let pages = PAGES_OF_A_TRANSACTION + batch.len() * PAGES_OF_AN_APPEND + bytes / schema::PAGE_BYTES;
        self.wal_bytes_at_most += (pages * schema::PAGE_BYTES) as u64;
        Ok(answers)
    }

    /// Shows durable commits to those who follow the log.
    #[expect(clippy::cast_precision_loss, reason = "a batch has at most some hundred commits")]
    fn publish(&self, recorded: Vec<Arc<Recorded>>) {
        let Some(last) = recorded.last().map(|last| last.position) else { return };
        let events = recorded.iter().map(|recorded| u64::from(recorded.commit.header().count)).sum();
        metrics::histogram!(names::LOG_BATCH_APPENDS).record(recorded.len() as f64);
        metrics::counter!(names::LOG_COMMITS_TOTAL).increment(recorded.len() as u64);
        metrics::counter!(names::LOG_EVENTS_TOTAL).increment(events);
        self.shared.recent.push(recorded);
        self.tail.send_replace(last);
    }

    /// One append inside the transaction. The outer error ends the log, the inner one is the answer.
    fn append(&mut self, request: &Queued, position: Position) -> Result<Result<Appended, AppendError>, Fault> {
        let commit = &request.commit;
        let head = match self.heads.of(&self.connection, commit.tenant())? {
            Ok(head) => head,
            Err(damage) => return Ok(Err(AppendError::Unknown(damage.into()))),
        };
        match admission::admit(&head, commit) {
            Admission::Refused(refusal) => return Ok(Err(refusal)),
            Admission::Taken(refusal) => return Ok(self.stored(commit)?.ok_or(refusal)),
            Admission::Next => {}
        }
        match self.insert(request, position) {
            Ok(()) => {}
            // The statement has undone itself, and only itself: the others of the batch are not concerned.
            Err(error) if is_refusal(&error) => {
                tracing::error!(tenant.id = %commit.tenant(), %error, "the log's table has refused a commit");
                return Ok(Err(AppendError::Unknown(format!("the table has refused the commit: {error}").into())));
            }
            Err(error) => return Err(error.into()),
        }
        // Ahead of the disk until COMMIT. If that fails, the writer ends and its cache with it.
        self.heads.set(commit.tenant(), commit.head());
        Ok(Ok(Appended { position, repeated: false }))
    }

    /// One append is one statement, which SQLite undoes alone when the table refuses the row: it is its own savepoint.
    /// (A SAVEPOINT around it copies two pages each time: a third of the CPU time of an append.)
    fn insert(&self, request: &Queued, position: Position) -> rusqlite::Result<()> {
        let (commit, header) = (&request.commit, request.commit.header());
        self.connection.prepare_cached(INSERT)?.execute(params![
            row::bound(position.get()),
            header.tenant.as_str(),
            row::bound(header.first_revision.get()),
            header.count,
            header.commit_id.as_uuid().as_bytes(),
            row::bound(header.owner_epoch.get()),
            header.recorded_at.unix_ms(),
            header.prev_hash.as_bytes(),
            commit.hash().as_bytes(),
            &commit.body()[..],
            request.payloads.as_deref(),
        ])?;
        Ok(())
    }

    /// The same commit, if it is what is stored at its first revision.
    fn stored(&self, commit: &Commit) -> Result<Option<Appended>, Fault> {
        let mut statement = self.connection.prepare_cached(STORED)?;
        let header = commit.header();
        let mut rows = statement.query(params![header.tenant.as_str(), row::bound(header.first_revision.get())])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let position = Position::new(row.get::<_, i64>(0)?.unsigned_abs());
        let id = row.get_ref(1)?.as_blob().ok().and_then(|id| uuid::Uuid::from_slice(id).ok()).map(CommitId::new);
        let hash = row.get_ref(2)?.as_blob().ok().and_then(|hash| hash.try_into().ok()).map(ChainHash::from_bytes);
        let same = id == Some(header.commit_id) && hash == Some(commit.hash());
        Ok(same.then_some(Appended { position, repeated: true }))
    }

    /// Has the WAL copied into the database beside the appends, and copies the last of it here.
    fn checkpoint_if_due(&mut self) -> Result<(), Fault> {
        // At its bound the WAL grows no further: appends wait for the copying.
        let full = self.wal_bytes_at_most >= self.config.wal_bytes;
        match self.checkpointer.progress(full) {
            Progress::Idle if self.wal_bytes_at_most < self.next_checkpoint_at => Ok(()),
            Progress::Idle => {
                self.wal_bytes_at_most = checkpoint(&self.connection, "NOOP")?;
                if self.wal_bytes_at_most >= self.next_checkpoint_at {
                    self.checkpointer.begin();
                }
                Ok(())
            }
            Progress::Running => Ok(()),
            Progress::Done => self.checkpoint_rest(),
            Progress::Ended => Err(Fault("the checkpointer has ended".into())),
        }
    }

    /// Copies what came during the last pass of the checkpointer, so that the WAL starts over.
    fn checkpoint_rest(&mut self) -> Result<(), Fault> {
        self.wal_bytes_at_most = checkpoint(&self.connection, "PASSIVE")?;
        if self.wal_bytes_at_most < self.config.wal_bytes {
            self.wait_for_readers_at = self.config.wal_bytes;
        } else if self.wal_bytes_at_most >= self.wait_for_readers_at {
            // A reader keeps the WAL from starting over: wait for it, but not for long, as all appends wait too.
            self.connection.busy_timeout(READER_WAIT)?;
            self.wal_bytes_at_most = checkpoint(&self.connection, "RESTART")?;
            self.connection.busy_timeout(Duration::from_millis(self.config.busy_timeout_ms))?;
            if self.wal_bytes_at_most >= self.config.wal_bytes {
                tracing::warn!(
                    wal_bytes = self.wal_bytes_at_most,
                    "a reader keeps the event log's WAL from being reused"
                );
            }
            // A reader that stays costs one wait each time the WAL has doubled, and not one a checkpoint.
            self.wait_for_readers_at = self.wal_bytes_at_most.saturating_mul(2).max(self.config.wal_bytes);
        }
        // What a reader has kept back is tried again when as much has come as makes a checkpoint worth it.
        self.next_checkpoint_at = self.wal_bytes_at_most + self.config.checkpoint_bytes;
        Ok(())
    }

    pub(super) fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
    }
}

/// The pages of the database that hold something, those of this transaction among them: what its bound is compared with. A page that
/// was freed is filled again before the file grows.
pub(super) fn used_pages(connection: &Connection) -> rusqlite::Result<u64> {
    let count = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
    let (pages, free) = (count("PRAGMA page_count")?, count("PRAGMA freelist_count")?);
    Ok(pages.saturating_sub(free).unsigned_abs())
}

/// Did the table refuse the row? Everything else is the disk's fault, or the machine's.
fn is_refusal(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}
