//! The view as it is stored, for whoever checks it against the log. A node may hold and write it meanwhile.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use wasmwiz_events::{
    execution::{NotAnOutcome, Outcome},
    ledger::ChainHash,
    revision::Position,
    time::Timestamp,
};

use super::{
    Storage, UsageProjection,
    fold::HOUR_MS,
    rows::{COUNTERS, Counters},
};
use crate::{
    checkpoint::Checkpoint,
    executions::outcome_of,
    rebuild::{ViewFile, schema_digest},
    row,
};

/// Everything that the view holds of ended executions and of what is stored, at one moment.
#[derive(Debug)]
pub struct Stored {
    /// The last commit that it has folded.
    pub position: Position,
    /// The hash of that commit: tells whether a log is the one that was folded.
    pub last_hash: ChainHash,
    /// Its rows, in no order.
    pub rows: Vec<StoredRow>,
    /// What each tenant stores.
    pub storage: BTreeMap<String, Storage>,
}

/// The executions of one tenant, hour, key, module and outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Whose.
    pub tenant: String,
    /// When the hour (UTC) begins in which they ended.
    pub hour: Timestamp,
    /// The id of the key that asked.
    pub key: String,
    /// The module's name, or its digest.
    pub module: String,
    /// How they ended.
    pub outcome: Outcome,
    /// How many.
    pub executions: u64,
    /// Fuel, as far as it was counted.
    pub fuel: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Time from start to end, in microseconds.
    pub wall_us: u64,
    /// The most memory that one of them held.
    pub peak_memory_bytes: u64,
    /// Bytes of standard input.
    pub stdin_bytes: u64,
    /// Bytes of standard output kept.
    pub stdout_bytes: u64,
    /// Bytes of standard error kept.
    pub stderr_bytes: u64,
    /// Bytes kept of what guests read from the host's clocks.
    pub transcript_bytes: u64,
    /// The bins of their times: the smallest value, in microseconds, and how many. Ascending.
    pub walls: Vec<(u64, u64)>,
}

/// The view is not there, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// There is no such file.
    #[error(
        "there is no view of usage of this version at {0}: a node of this version folds it from the log when it starts"
    )]
    Missing(PathBuf),
    /// The file has another shape, or is unfinished.
    #[error("{0} is not a view of usage of this version: a node of this version folds it again when it starts")]
    Foreign(PathBuf),
    /// SQLite cannot read it.
    #[error("{path} cannot be read; delete it while no node runs, and a node folds it again when it starts")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// Reads the view in the folder of views `folder`, all of it at one moment.
///
/// # Errors
/// [`StoredError`].
pub fn stored(folder: &Path) -> Result<Stored, StoredError> {
    let path = ViewFile::of::<UsageProjection>(folder).path();
    if !path.exists() {
        return Err(StoredError::Missing(path));
    }
    match read(&path) {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => Err(StoredError::Foreign(path)),
        Err(source) => Err(StoredError::Unreadable { path, source }),
    }
}

fn read(path: &Path) -> rusqlite::Result<Option<Stored>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    // Checkpoint and rows of one moment, whatever a node writes meanwhile.
    let snapshot = connection.transaction()?;
    let table = "SELECT 1 FROM sqlite_schema WHERE name = 'checkpoint'";
    if snapshot.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let Some(checkpoint) = Checkpoint::load(&snapshot, schema_digest::<UsageProjection>())? else { return Ok(None) };
    let mut statement = snapshot.prepare(&format!(
        "SELECT t.label, u.hour, k.label, m.label, {COUNTERS} FROM usage u
         JOIN tenants t ON t.n = u.tenant JOIN keys k ON k.n = u.key JOIN modules m ON m.n = u.module"
    ))?;
    let rows = statement.query_map([], |found| {
        let counters = Counters::read(found, 5)?;
        Ok(StoredRow {
            tenant: found.get(0)?,
            hour: Timestamp::from_unix_ms(found.get::<_, i64>(1)?.saturating_mul(HOUR_MS)),
            key: found.get(2)?,
            module: found.get(3)?,
            outcome: outcome_of(found.get(4)?).ok_or_else(|| row::unreadable(4, NotAnOutcome))?,
            executions: counters.executions,
            fuel: counters.fuel,
            cpu_us: counters.cpu_us,
            wall_us: counters.wall_us,
            peak_memory_bytes: counters.peak_memory_bytes,
            stdin_bytes: counters.stdin_bytes,
            stdout_bytes: counters.stdout_bytes,
            stderr_bytes: counters.stderr_bytes,
            transcript_bytes: counters.transcript_bytes,
            walls: counters.walls.bins().collect(),
        })
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut statement = snapshot
        .prepare("SELECT t.label, s.module_bytes, s.payload_bytes FROM storage s JOIN tenants t ON t.n = s.tenant")?;
    let storage = statement.query_map([], |found| Ok((found.get::<_, String>(0)?, Storage::read(found, 1)?)))?;
    let storage = storage.collect::<rusqlite::Result<_>>()?;
    Ok(Some(Stored { position: checkpoint.position, last_hash: checkpoint.last_hash, rows, storage }))
}
