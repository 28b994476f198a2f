//! The thread that copies the WAL into the database while the writer goes on appending.
//!
//! ```text
//! writer ── the WAL has grown ──► checkpointer: copies, syncs, and again what came meanwhile
//!    ▲                                   │
//!    └── copies the little that is left ◄┘      then nothing of the WAL is needed and it starts over from its beginning
//! ```
//! A checkpoint of some MiB takes as long as dozens of commits; done by the writer, every append in that time waits for
//! it. Only the last part has to be the writer's, as the WAL starts over only when all of it has been copied.

use std::{
    panic::AssertUnwindSafe,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use super::{OpenError, Shared, schema};

/// What the writer may copy by itself, in bytes: about as much as one large commit holds.
const REST_BYTES: u64 = 1 << 20;

/// How often the checkpointer copies what came while it copied. Each pass has less to do than the one before, unless the
/// disk is slower than the appends; then more passes would not help.
const PASSES: usize = 4;

/// The writer's end of it.
pub(super) struct Checkpointer {
    due: Option<SyncSender<()>>,
    done: Receiver<()>,
    running: bool,
    thread: Option<JoinHandle<()>>,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing was asked of it.
    Idle,
    /// It copies.
    Running,
    /// It has copied: the rest is the writer's. Told once.
    Done,
    /// It has ended: the log is poisoned.
    Ended,
}

impl Checkpointer {
    /// Starts the thread on a connection of its own.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(super) fn start(path: &Path, busy_timeout: Duration, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let connection = schema::open_checkpointer(path, busy_timeout)
            .map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
        let ((due, asked), (tell, done)) = (sync_channel(1), sync_channel(1));
        let thread = std::thread::Builder::new().name("log-checkpoint".to_owned()).spawn(move || {
            let run = AssertUnwindSafe(|| serve(&connection, &asked, &tell));
            let failed = match std::panic::catch_unwind(run) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("the WAL could not be copied into the database: {error}"),
                Err(_) => "the checkpointer has panicked".to_owned(),
            };
            tracing::error!(reason = failed, "the event log has stopped after an error: the process must stop too");
            shared.poison.send_replace(Some(failed.into()));
        });
        let thread = thread.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { due: Some(due), done, running: false, thread: Some(thread) })
    }

    /// Asks it to copy, unless it does already.
    pub(super) fn begin(&mut self) {
        if !self.running
            && let Some(due) = &self.due
        {
            // It waits for this, or it has ended, which `progress` tells.
            self.running = due.try_send(()).is_ok();
        }
    }

    /// Where it stands; waits for the end of its copying when `wait` says so.
    pub(super) fn progress(&mut self, wait: bool) -> Progress {
        if !self.running {
            return if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                Progress::Ended
            } else {
                Progress::Idle
            };
        }
        let told = if wait { self.done.recv().map_err(|_| false) } else { self.try_told() };
        match told {
            Ok(()) => {
                self.running = false;
                Progress::Done
            }
            Err(true) => Progress::Running,
            Err(false) => Progress::Ended,
        }
    }

    /// `Err(true)`: not yet.
    fn try_told(&self) -> Result<(), bool> {
        self.done.try_recv().map_err(|error| error == std::sync::mpsc::TryRecvError::Empty)
    }

    /// Ends the thread, after the pass that it is in.
    pub(super) fn stop(&mut self) {
        self.due = None;
        // A panic was caught and has poisoned the log.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(connection: &Connection, asked: &Receiver<()>, tell: &SyncSender<()>) -> rusqlite::Result<()> {
    while asked.recv().is_ok() {
        for _ in 0..PASSES {
            if checkpoint(connection, "PASSIVE")? < REST_BYTES {
                break;
            }
        }
        if tell.send(()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Checkpoints, and gives the bytes in the WAL that are not in the database yet.
///
/// # Errors
/// What SQLite says: then the log must stop.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    let (in_wal, copied) = statement.query_row([], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
    Ok(u64::try_from(in_wal - copied).unwrap_or(0).saturating_mul(schema::PAGE_BYTES as u64))
}
