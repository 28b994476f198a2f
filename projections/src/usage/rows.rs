//! Counters as rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use wasmwiz_events::{
    execution::{NotAnOutcome, Outcome},
    id::{ExecutionId, TenantId},
    time::{Millis, Timestamp},
};

use super::{BUCKETS, UsageBucket, UsageBy, UsageReport, UsageRow, fold::HOUR_MS};
use crate::{dictionary::text_number, executions::outcome_of, row};

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
    PRIMARY KEY (tenant, hour, key, module, outcome)
) WITHOUT ROWID;";

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters {
    pub(super) executions: u64,
    pub(super) fuel: u64,
    pub(super) cpu_us: u64,
    pub(super) wall_us: u64,
    pub(super) peak_memory_bytes: u64,
    pub(super) stdin_bytes: u64,
    pub(super) stdout_bytes: u64,
    pub(super) stderr_bytes: u64,
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
    }

    /// From eight columns, the first of them `first`.
    fn read(found: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            executions: row::unsigned(found, first)?,
            fuel: row::unsigned(found, first + 1)?,
            cpu_us: row::unsigned(found, first + 2)?,
            wall_us: row::unsigned(found, first + 3)?,
            peak_memory_bytes: row::unsigned(found, first + 4)?,
            stdin_bytes: row::unsigned(found, first + 5)?,
            stdout_bytes: row::unsigned(found, first + 6)?,
            stderr_bytes: row::unsigned(found, first + 7)?,
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

pub(super) fn add(transaction: &Transaction<'_>, place: &Place<i64>, sums: &Counters) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT DO UPDATE SET
                executions = executions + excluded.executions,
                fuel = fuel + excluded.fuel,
                cpu_us = cpu_us + excluded.cpu_us,
                wall_us = wall_us + excluded.wall_us,
                peak_memory_bytes = max(peak_memory_bytes, excluded.peak_memory_bytes),
                stdin_bytes = stdin_bytes + excluded.stdin_bytes,
                stdout_bytes = stdout_bytes + excluded.stdout_bytes,
                stderr_bytes = stderr_bytes + excluded.stderr_bytes",
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
        ])?;
    Ok(())
}

/// The expression of a bucket and the table of its labels.
const fn bucket_columns(by: UsageBy) -> (&'static str, &'static str) {
    match by {
        UsageBy::Hour => ("u.hour * 3600000", ""),
        UsageBy::Day => ("u.hour / 24 * 86400000", ""),
        UsageBy::Key => ("l.label", "JOIN keys l ON l.n = u.key"),
        UsageBy::Module => ("l.label", "JOIN modules l ON l.n = u.module"),
    }
}

pub(super) fn report(
    rows: &Connection,
    tenant: &TenantId,
    from: Timestamp,
    to: Timestamp,
    by: UsageBy,
) -> rusqlite::Result<UsageReport> {
    let mut report = UsageReport { rows: Vec::new(), truncated: false };
    let Some(tenant) = text_number(rows, "tenants", tenant.as_str())? else { return Ok(report) };
    let first_hour = from.unix_ms().div_euclid(HOUR_MS);
    let end_hour = to.unix_ms().saturating_add(HOUR_MS - 1).div_euclid(HOUR_MS);
    let (bucket, labels) = bucket_columns(by);
    let mut statement = rows.prepare_cached(&format!(
        "SELECT {bucket} AS bucket, u.outcome, sum(u.executions), sum(u.fuel), sum(u.cpu_us), sum(u.wall_us),
            max(u.peak_memory_bytes), sum(u.stdin_bytes), sum(u.stdout_bytes), sum(u.stderr_bytes)
         FROM usage u {labels} WHERE u.tenant = ?1 AND u.hour >= ?2 AND u.hour < ?3
         GROUP BY bucket, u.outcome ORDER BY bucket, u.outcome"
    ))?;
    let mut found = statement.query(params![tenant, first_hour, end_hour])?;
    while let Some(row) = found.next()? {
        let bucket = match by {
            UsageBy::Hour | UsageBy::Day => UsageBucket::Time(row::time(row, 0)?),
            UsageBy::Key | UsageBy::Module => UsageBucket::Label(row.get(0)?),
        };
        let outcome = outcome_of(row.get(1)?).ok_or_else(|| row::unreadable(1, NotAnOutcome))?;
        let counters = Counters::read(row, 2)?;
        if report.rows.last().is_none_or(|last| last.bucket != bucket) {
            if report.rows.len() == BUCKETS {
                report.truncated = true;
                break;
            }
            report.rows.push(UsageRow::nothing(bucket));
        }
        if let Some(last) = report.rows.last_mut() {
            last.absorb(outcome, &counters);
        }
    }
    Ok(report)
}

impl UsageRow {
    const fn nothing(bucket: UsageBucket) -> Self {
        Self {
            bucket,
            executions_by_outcome: BTreeMap::new(),
            fuel: 0,
            cpu: Millis::from_micros(0),
            wall: Millis::from_micros(0),
            peak_memory_bytes: 0,
            stdin_bytes: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
        }
    }

    fn absorb(&mut self, outcome: Outcome, more: &Counters) {
        let executions = self.executions_by_outcome.entry(outcome).or_default();
        *executions = executions.saturating_add(more.executions);
        self.fuel = self.fuel.saturating_add(more.fuel);
        self.cpu = Millis::from_micros(self.cpu.as_micros().saturating_add(more.cpu_us));
        self.wall = Millis::from_micros(self.wall.as_micros().saturating_add(more.wall_us));
        self.peak_memory_bytes = self.peak_memory_bytes.max(more.peak_memory_bytes);
        self.stdin_bytes = self.stdin_bytes.saturating_add(more.stdin_bytes);
        self.stdout_bytes = self.stdout_bytes.saturating_add(more.stdout_bytes);
        self.stderr_bytes = self.stderr_bytes.saturating_add(more.stderr_bytes);
    }
}
