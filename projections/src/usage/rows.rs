//! Counters as rows.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use wasmwiz_events::id::ExecutionId;

use super::histogram::Histogram;
use crate::row;

pub(super) const SCHEMA: &str = "
CREATE TABLE tenants (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE keys (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE modules (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE open (
    tenant INTEGER NOT NULL,
    id BLOB NOT NULL,
    key INTEGER NOT NULL,
    module INTEGER NOT NULL,
    stdin_bytes INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE TABLE usage (
    tenant INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    key INTEGER NOT NULL,
    module INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    executions INTEGER NOT NULL,
    fuel INTEGER NOT NULL,
    cpu_us INTEGER NOT NULL,
    wall_us INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    stdin_bytes INTEGER NOT NULL,
    stdout_bytes INTEGER NOT NULL,
    stderr_bytes INTEGER NOT NULL,
    transcript_bytes INTEGER NOT NULL,
    walls BLOB NOT NULL,
    PRIMARY KEY (tenant, hour, key, module, outcome)
) WITHOUT ROWID;
CREATE TABLE storage (
    tenant INTEGER PRIMARY KEY,
    module_bytes INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL
);
-- The versions that are live, and what bytes each has.
CREATE TABLE versions (
    tenant INTEGER NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (tenant, name, version)
) WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions (tenant, digest);";

/// The columns of counters, in the order in which they are read.
pub(super) const COUNTERS: &str = "u.outcome, u.executions, u.fuel, u.cpu_us, u.wall_us, u.peak_memory_bytes, u.stdin_bytes, \
     u.stdout_bytes, u.stderr_bytes, u.transcript_bytes, u.walls";

/// The key of a row of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place<N> {
    pub(super) tenant: N,
    pub(super) hour: i64,
    pub(super) key: N,
    pub(super) module: N,
    pub(super) outcome: i64,
}

/// Sums over executions; the peak is a maximum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counters {
    pub(super) executions: u64,
    pub(super) fuel: u64,
    pub(super) cpu_us: u64,
    pub(super) wall_us: u64,
    pub(super) peak_memory_bytes: u64,
    pub(super) stdin_bytes: u64,
    pub(super) stdout_bytes: u64,
    pub(super) stderr_bytes: u64,
    pub(super) transcript_bytes: u64,
    /// Of those whose time was measured.
    pub(super) walls: Histogram,
}

impl Counters {
    pub(super) fn add(&mut self, other: &Self) {
        self.executions = self.executions.saturating_add(other.executions);
        self.fuel = self.fuel.saturating_add(other.fuel);
        self.cpu_us = self.cpu_us.saturating_add(other.cpu_us);
        self.wall_us = self.wall_us.saturating_add(other.wall_us);
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
        self.stdin_bytes = self.stdin_bytes.saturating_add(other.stdin_bytes);
        self.stdout_bytes = self.stdout_bytes.saturating_add(other.stdout_bytes);
        self.stderr_bytes = self.stderr_bytes.saturating_add(other.stderr_bytes);
        self.transcript_bytes = self.transcript_bytes.saturating_add(other.transcript_bytes);
        self.walls.merge(&other.walls);
    }

    /// From the columns of [`COUNTERS`] after the outcome, the first of them `first`.
    pub(super) fn read(found: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            executions: row::unsigned(found, first)?,
            fuel: row::unsigned(found, first + 1)?,
            cpu_us: row::unsigned(found, first + 2)?,
            wall_us: row::unsigned(found, first + 3)?,
            peak_memory_bytes: row::unsigned(found, first + 4)?,
            stdin_bytes: row::unsigned(found, first + 5)?,
            stdout_bytes: row::unsigned(found, first + 6)?,
            stderr_bytes: row::unsigned(found, first + 7)?,
            transcript_bytes: row::unsigned(found, first + 8)?,
            walls: histogram(found, first + 9)?,
        })
    }
}

/// A row of the table of open executions.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) key: i64,
    pub(super) module: i64,
    pub(super) stdin_bytes: u64,
}

pub(super) fn open(
    transaction: &Transaction<'_>,
    tenant: i64,
    id: ExecutionId,
    opened: &Opened,
) -> rusqlite::Result<()> {
    transaction.prepare_cached("INSERT OR REPLACE INTO open VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        tenant,
        id.as_uuid().as_bytes(),
        opened.key,
        opened.module,
        row::signed(opened.stdin_bytes),
    ])?;
    Ok(())
}

/// Takes an execution out of the table of open ones; `None` when it is not there.
pub(super) fn close(transaction: &Transaction<'_>, tenant: i64, id: ExecutionId) -> rusqlite::Result<Option<Opened>> {
    transaction
        .prepare_cached("DELETE FROM open WHERE tenant = ?1 AND id = ?2 RETURNING key, module, stdin_bytes")?
        .query_row(params![tenant, id.as_uuid().as_bytes()], |found| {
            Ok(Opened { key: found.get(0)?, module: found.get(1)?, stdin_bytes: row::unsigned(found, 2)? })
        })
        .optional()
}

/// Adds to a row of counters. Times are merged here, the rest by SQLite.
pub(super) fn add(transaction: &Transaction<'_>, place: &Place<i64>, sums: &Counters) -> rusqlite::Result<()> {
    let mut walls = transaction
        .prepare_cached(
            "SELECT walls FROM usage WHERE tenant = ?1 AND hour = ?2 AND key = ?3 AND module = ?4 AND outcome = ?5",
        )?
        .query_row(params![place.tenant, place.hour, place.key, place.module, place.outcome], |found| {
            histogram(found, 0)
        })
        .optional()?
        .unwrap_or_default();
    walls.merge(&sums.walls);
    transaction
        .prepare_cached(
            "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT DO UPDATE SET
                executions = executions + excluded.executions,
                fuel = CASE WHEN fuel > 9223372036854775807 - excluded.fuel THEN 9223372036854775807 ELSE fuel + excluded.fuel END,
                cpu_us = cpu_us + excluded.cpu_us,
                wall_us = wall_us + excluded.wall_us,
                peak_memory_bytes = max(peak_memory_bytes, excluded.peak_memory_bytes),
                stdin_bytes = stdin_bytes + excluded.stdin_bytes,
                stdout_bytes = stdout_bytes + excluded.stdout_bytes,
                stderr_bytes = stderr_bytes + excluded.stderr_bytes,
                transcript_bytes = transcript_bytes + excluded.transcript_bytes,
                walls = excluded.walls",
        )?
        .execute(params![
            place.tenant,
            place.hour,
            place.key,
            place.module,
            place.outcome,
            row::signed(sums.executions),
            row::signed(sums.fuel),
            row::signed(sums.cpu_us),
            row::signed(sums.wall_us),
            row::signed(sums.peak_memory_bytes),
            row::signed(sums.stdin_bytes),
            row::signed(sums.stdout_bytes),
            row::signed(sums.stderr_bytes),
            row::signed(sums.transcript_bytes),
            walls.to_bytes(),
        ])?;
    Ok(())
}

fn histogram(found: &Row<'_>, column: usize) -> rusqlite::Result<Histogram> {
    Histogram::from_bytes(found.get_ref(column)?.as_blob()?).map_err(|error| row::unreadable(column, error))
}
