//! The file: its table, its settings, and the refusal of files that this version does not understand.
//!
//! ```text
//! commits(position PK, tenant, first_revision, count, commit_id, owner_epoch, recorded_at, prev_hash, hash, body, payloads)
//! unique (tenant, first_revision)      the index by which streams are read and heads are found
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{OpenError, SqliteLogConfig};

/// Name of the database in the log's directory. Beside it SQLite keeps `events.db-wal` and `events.db-shm`.
pub(super) const FILE_NAME: &str = "events.db";

/// `WzLg`: marks the file as a log of this platform.
const APPLICATION_ID: i64 = 0x577a_4c67;

/// Version of the table's shape. It changes with a migration and an ADR.
const VERSION: i64 = 1;

/// Statements kept prepared by a connection: more than it has.
const STATEMENTS: usize = 32;

/// Large pages: an execution's commit of a few KiB lies in its row, without overflow pages. Fixed when a file is made.
pub(super) const PAGE_BYTES: usize = 8_192;

const SETTINGS: &str = "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA wal_autocheckpoint = 0; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;";

/// The index that SQLite makes for the table's only UNIQUE constraint: which commit holds which revisions of which stream.
pub(super) const BY_STREAM: &str = "sqlite_autoindex_commits_1";

/// The columns that can be large come last, `payloads` behind `body`: reading a commit never touches its payloads.
const TABLE: &str = "CREATE TABLE commits (
    position INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    first_revision INTEGER NOT NULL,
    count INTEGER NOT NULL,
    commit_id BLOB NOT NULL,
    owner_epoch INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    prev_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    body BLOB NOT NULL,
    payloads BLOB,
    UNIQUE (tenant, first_revision)
) STRICT;";

/// The path of the log's database in `dir`.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Makes the directory, readable by its owner only.
///
/// # Errors
/// [`OpenError::Io`].
pub(super) fn create_dir(dir: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent).map_err(io)
}

/// Opens the database for the writer, and creates it if there is none.
///
/// # Errors
/// [`OpenError`].
pub(super) fn open_writer(dir: &Path, config: &SqliteLogConfig) -> Result<Connection, OpenError> {
    let path = path(dir);
    let io = |source| OpenError::Io { path: path.clone(), source };
    let created = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        // SQLite gives its own files the mode of this one.
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io(error)),
    };
    let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(sqlite)?;
    prepare(&connection, Duration::from_millis(config.busy_timeout_ms)).map_err(sqlite)?;
    connection.execute_batch(SETTINGS).map_err(sqlite)?;
    let wal_bytes = i64::try_from(config.wal_bytes).unwrap_or(i64::MAX);
    connection.pragma_update(None, "journal_size_limit", wal_bytes).map_err(sqlite)?;
    if let Some(max_bytes) = config.max_bytes {
        connection
            .pragma_update(
                None,
                "max_page_count",
                i64::try_from(max_bytes / PAGE_BYTES as u64).unwrap_or(i64::MAX).max(1),
            )
            .map_err(sqlite)?;
    }
    create_table(&connection).map_err(sqlite)?;
    check(&connection, &path)?;
    if created {
        sync_dir(dir).map_err(io)?;
    }
    Ok(connection)
}

/// Opens the database for the checkpointer: it copies pages and writes no row.
///
/// # Errors
/// What SQLite says.
pub(super) fn open_checkpointer(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, busy_timeout)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA mmap_size = 0;")?;
    Ok(connection)
}

/// Opens the database for a reader.
///
/// # Errors
/// What SQLite says.
pub(super) fn open_reader(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, busy_timeout)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0;")?;
    Ok(connection)
}

fn prepare(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Checkpoints are the writer's and the checkpointer's, and never come after an I/O error.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Creates the table and marks the file, in one transaction, if the file is empty.
fn create_table(connection: &Connection) -> rusqlite::Result<()> {
    let empty = || connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0));
    if !empty()? {
        return Ok(());
    }
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLE} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Is it a log, and of a version that is known?
///
/// # Errors
/// [`OpenError::NotALog`], [`OpenError::Version`], [`OpenError::Sqlite`].
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    if pragma("application_id").map_err(sqlite)? != APPLICATION_ID {
        return Err(OpenError::NotALog { path: path.to_owned() });
    }
    match pragma("user_version").map_err(sqlite)? {
        VERSION => Ok(()),
        found => Err(OpenError::Version { path: path.to_owned(), found, known: VERSION }),
    }
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Does `dir` hold a log?
pub(super) fn exists(dir: &Path) -> bool {
    fs::metadata(path(dir)).is_ok_and(|found| found.is_file())
}
