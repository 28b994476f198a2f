//! Read-only connections to one view's file, a bounded number of them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;
use wasmwiz_events::{id::TenantId, revision::Position};

use crate::{progress::Progress, quarantine::Quarantine};

/// How much of a view's file a reader maps, in bytes; the rest is read through the page cache.
const MMAP_BYTES: i64 = 256 << 20;

/// Prepared statements kept by one connection: more than any view has queries.
const STATEMENTS: usize = 32;

/// A query could not be answered. Never the fault of the caller's words: an id that does not exist is an empty answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// All readers were busy for as long as a query may wait for one.
    #[error("the view has too many queries waiting")]
    Busy,
    /// The view's file could not be read, or holds a row that this version does not understand.
    #[error("the view cannot be read")]
    Unreadable(#[from] rusqlite::Error),
    /// The process is going down, or the query panicked.
    #[error("the query was broken off")]
    BrokenOff,
    /// The view is being built from the log, and has a part of what that has: what it would tell is not true.
    #[error("view {view} is being built from the log, and has come to position {position} of {tail}")]
    Building {
        /// Which view.
        view: &'static str,
        /// How far it is.
        position: Position,
        /// How far it has to come.
        tail: Position,
    },
    /// The tenant's stream is set aside by the view: what the view has of it is not true any more.
    #[error(
        "view {view} has set the tenant's stream aside, as its commit at position {position} cannot be read or folded"
    )]
    SetAside {
        /// Which view.
        view: &'static str,
        /// The commit.
        position: Position,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Readers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    permits: Arc<Semaphore>,
    wait: Duration,
    idle: Mutex<Vec<Connection>>,
    quarantine: Quarantine,
    progress: Arc<Progress>,
}

impl Readers {
    /// At most `count` connections to the file at `path`, each opened when it is first needed.
    pub(crate) fn new(
        path: PathBuf,
        count: usize,
        wait: Duration,
        quarantine: Quarantine,
        progress: Arc<Progress>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(count.max(1)));
        Self(Arc::new(Pool { path, permits, wait, idle: Mutex::new(Vec::new()), quarantine, progress }))
    }

    /// Streams of which nothing is told.
    pub(crate) fn quarantine(&self) -> &Quarantine {
        &self.0.quarantine
    }

    /// Runs a query about one tenant, unless its stream is set aside.
    pub(crate) async fn read_of<T, F>(&self, tenant: &TenantId, query: F) -> Result<T, QueryError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.0.quarantine.admit(tenant)?;
        let answer = self.read(query).await?;
        // It may have been set aside while the query waited for its turn.
        self.0.quarantine.admit(tenant)?;
        Ok(answer)
    }

    /// Runs `query`, which is about no tenant, on a connection, on a thread that may block.
    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T, QueryError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.0.progress.admit()?;
        self.look(query).await
    }

    /// The same of a view that may be being built, for whoever asks for rows and not for the truth.
    pub(crate) async fn look<T, F>(&self, query: F) -> Result<T, QueryError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = tokio::time::timeout(self.0.wait, Arc::clone(&self.0.permits).acquire_owned());
        let permit = permit.await.map_err(|_| QueryError::Busy)?.map_err(|_| QueryError::BrokenOff)?;
        let pool = Arc::clone(&self.0);
        let answer = tokio::task::spawn_blocking(move || {
            let connection = pool.take()?;
            let answer = query(&connection);
            // After an error the connection is closed: the next query finds a fresh one.
            if answer.is_ok() {
                pool.give_back(connection);
            }
            drop(permit);
            answer
        });
        Ok(answer.await.map_err(|_| QueryError::BrokenOff)??)
    }
}

impl Pool {
    fn take(&self) -> rusqlite::Result<Connection> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.wait)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "mmap_size", MMAP_BYTES)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
