//! Reading the rows as they are, right or wrong, for an audit. A node may be writing meanwhile.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, Row, params, types::ValueRef};

use super::{
    OpenError, lock,
    row::{self, RowError},
    schema,
};
use crate::{commit::Commit, id::TenantId, revision::Revision};

/// Rows read at a time: each chunk is its own short transaction, so that an audit does not hold the writer's WAL.
const CHUNK_ROWS: usize = 256;

/// A chunk ends when it holds this many bytes.
const CHUNK_BYTES: usize = 16 << 20;

/// After so many positions in a row that cannot be read, the rest is taken for lost.
const MAX_UNREADABLE: usize = 100;

/// How long a read waits for a lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A row as it was found.
#[derive(Debug)]
pub struct StoredRow {
    /// Its place in the table. It may be wrong, as everything else here.
    pub position: i64,
    /// The tenant, if the column can be read.
    pub tenant: Option<TenantId>,
    /// The commit, or which column cannot be read.
    pub commit: Result<Commit, String>,
    /// The body, if the column can be read.
    pub body: Option<Bytes>,
    /// The packed payloads, if there are some; or why the column cannot be read.
    pub payloads: Result<Option<Bytes>, String>,
}

/// A row, or the place where SQLite could not read one.
#[derive(Debug)]
pub enum Found {
    /// A row.
    Row(Box<StoredRow>),
    /// The file is damaged here.
    Damage {
        /// The position that could not be read.
        position: i64,
        /// The tenant and first revision that the index has for the position, if it has.
        indexed: Option<(TenantId, Revision)>,
        /// What SQLite said.
        what: String,
    },
}

/// A log opened for reading its rows.
#[derive(Debug)]
pub struct SqliteAudit {
    connection: Connection,
    /// Where the lock file is.
    dir: PathBuf,
}

impl SqliteAudit {
    /// Opens the log in `dir` for reading only.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = schema::path(dir);
        if !schema::exists(dir) {
            return Err(OpenError::Missing { path });
        }
        let connection = schema::open_reader(&path, BUSY_TIMEOUT);
        let connection = connection.map_err(|source| OpenError::Sqlite { path: path.clone(), source })?;
        schema::check(&connection, &path)?;
        Ok(Self { connection, dir: dir.to_owned() })
    }

    /// Reads through a connection that a test also writes with.
    #[cfg(test)]
    pub(crate) fn over(connection: Connection) -> Self {
        Self { connection, dir: PathBuf::new() }
    }

    /// The connection.
    #[cfg(test)]
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// All rows in the order of their positions, up to the last one there is now.
    pub fn rows(&self) -> Rows<'_> {
        Rows { connection: &self.connection, after: None, chunk: VecDeque::new(), end: None, unreadable: 0 }
    }

    /// Is somebody, a node, writing to the log now?
    pub fn is_held(&self) -> bool {
        lock::is_held(&self.dir)
    }

    /// What SQLite's own check finds wrong with the file: its pages, and whether index and table agree. Empty is well.
    ///
    /// It is one read of the whole file: for as long as it takes, a node that writes meanwhile cannot reuse its WAL.
    pub fn check_file(&self) -> Vec<String> {
        let check = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare("PRAGMA integrity_check(20)")?;
            statement.query_map([], |row| row.get::<_, String>(0))?.collect()
        };
        match check() {
            Ok(lines) => lines.into_iter().filter(|line| line != "ok").collect(),
            Err(error) => vec![error.to_string()],
        }
    }
}

/// See [`SqliteAudit::rows`].
#[derive(Debug)]
pub struct Rows<'a> {
    connection: &'a Connection,
    /// The largest position read; `None` at the beginning.
    after: Option<i64>,
    chunk: VecDeque<Found>,
    /// The last position when the walk began.
    end: Option<i64>,
    /// Places in a row that could not be read.
    unreadable: usize,
}

impl Rows<'_> {
    fn fill(&mut self) {
        let last = || self.connection.query_row("SELECT max(position) FROM commits", [], |row| row.get(0));
        let end = self.end.unwrap_or_else(|| last().unwrap_or(i64::MAX));
        self.end = Some(end);
        let after = self.after.unwrap_or(i64::MIN);
        if after >= end {
            return;
        }
        let failure = self.read(after, end).err().map(|error| error.to_string());
        let reached = self.chunk.iter().map(Found::position).max();
        // A damaged tree may give the same rows again for ever: the walk ends where it does not get further.
        let stuck = reached.is_some_and(|reached| reached <= after).then(|| "the table has no order".to_owned());
        self.unreadable = if reached.is_some() { 0 } else { self.unreadable + 1 };
        let reached = reached.unwrap_or(after).max(after);
        let Some(what) = failure.or(stuck) else {
            self.after = Some(if self.chunk.is_empty() { end } else { reached });
            return;
        };
        // Go on behind the place that cannot be read, one position at a time.
        let position = if reached == i64::MIN { 1 } else { reached.saturating_add(1) };
        let indexed = self.indexed(position);
        self.chunk.push_back(Found::Damage { position, indexed, what });
        self.after = Some(if self.unreadable < MAX_UNREADABLE { position } else { end });
    }

    fn read(&mut self, after: i64, end: i64) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT {}, payloads FROM commits WHERE position > ?1 AND position <= ?2 ORDER BY position",
            row::COLUMNS
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, end])?;
        let mut bytes = 0_usize;
        while let Some(row) = rows.next()? {
            let stored = stored(row)?;
            bytes = bytes.saturating_add(stored.size());
            self.chunk.push_back(Found::Row(Box::new(stored)));
            if self.chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// What the index knows about a position whose row cannot be read. It is a tree of its own.
    fn indexed(&self, position: i64) -> Option<(TenantId, Revision)> {
        let sql =
            "SELECT tenant, first_revision FROM commits INDEXED BY sqlite_autoindex_commits_1 WHERE +position = ?1";
        let found: (String, i64) =
            self.connection.query_row(sql, params![position], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
        Some((TenantId::new(&found.0).ok()?, Revision::new(found.1.unsigned_abs())))
    }
}

impl Iterator for Rows<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.chunk.is_empty() {
            self.fill();
        }
        self.chunk.pop_front()
    }
}

impl Found {
    fn position(&self) -> i64 {
        match self {
            Self::Row(row) => row.position,
            Self::Damage { position, .. } => *position,
        }
    }
}

impl StoredRow {
    fn size(&self) -> usize {
        let payloads = self.payloads.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
        self.body.as_ref().map_or(0, Bytes::len) + payloads
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredRow> {
    let readable = |error| match error {
        RowError::Value(what) => what,
        RowError::Sqlite(error) => error.to_string(),
    };
    let payloads = match row.get_ref(10)? {
        ValueRef::Null => Ok(None),
        _ => row::blob(row, 10, "payloads").map(Some).map_err(readable),
    };
    Ok(StoredRow {
        position: row.get(0)?,
        tenant: row::tenant(row).ok(),
        commit: row::commit(row).map_err(readable),
        body: row::blob(row, 9, "body").ok(),
        payloads,
    })
}
