//! Executions as rows.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction, params};
use uuid::Uuid;
use wasmwiz_events::{
    digest::Digest,
    execution::{Content, ModuleRef, NotAnOutcome, Outcome, Output},
    id::{ExecutionId, TenantId},
    reproducibility::Reproducibility,
    revision::{Position, Revision},
    time::{Millis, Timestamp},
};

use super::{ExecutionCursor, ExecutionEnd, ExecutionFilter, ExecutionRecord, SCANNED_ROWS, fold::Opening};
use crate::{
    dictionary::text_number,
    page::{Listed, Page},
    row,
};

pub(super) const SCHEMA: &str = "
CREATE TABLE tenants (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE keys (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE modules (n INTEGER PRIMARY KEY, name TEXT, version INTEGER, digest BLOB NOT NULL);
CREATE INDEX modules_by_digest ON modules (digest);
CREATE TABLE executions (
    tenant INTEGER NOT NULL,
    accepted_revision INTEGER NOT NULL,
    id BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    module INTEGER NOT NULL,
    key INTEGER NOT NULL,
    accepted_position INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    started_at INTEGER,
    stdin_bytes INTEGER NOT NULL,
    stdin_digest BLOB,
    outcome INTEGER,
    exit_code INTEGER,
    finished_position INTEGER,
    finished_at INTEGER,
    stdout_bytes INTEGER,
    stdout_digest BLOB,
    stderr_bytes INTEGER,
    stderr_digest BLOB,
    flags INTEGER,
    fuel INTEGER,
    cpu_us INTEGER,
    wall_us INTEGER,
    peak_memory_bytes INTEGER,
    message TEXT,
    rerun_of BLOB,
    fuel_given INTEGER,
    PRIMARY KEY (tenant, accepted_revision)
) WITHOUT ROWID;
CREATE UNIQUE INDEX executions_by_id ON executions (tenant, id);
CREATE INDEX open_executions ON executions (tenant) WHERE outcome IS NULL;
CREATE TABLE spans (
    tenant INTEGER NOT NULL,
    span INTEGER NOT NULL,
    earliest_at INTEGER NOT NULL,
    latest_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, span)
) WITHOUT ROWID;";

const STDOUT_TRUNCATED: i64 = 1;
const STDERR_TRUNCATED: i64 = 2;
/// Where the number of a class is in the flags: two bits.
const CLASS_SHIFT: u32 = 2;

/// Revisions of a stream that share one row of `spans`: a thousandth of the history is looked at to find the rest. A power
/// of two, so that the row of a revision is a shift.
const SPAN_REVISIONS: i64 = 1_024;

/// What one batch knows of the times in each span.
#[derive(Debug, Default)]
pub(super) struct Spans(BTreeMap<(i64, i64), (i64, i64)>);

impl Spans {
    pub(super) fn note(&mut self, tenant: i64, opening: &Opening) {
        let (span, at) = (row::signed(opening.revision.get()) / SPAN_REVISIONS, opening.at.unix_ms());
        let (earliest, latest) = self.0.entry((tenant, span)).or_insert((at, at));
        (*earliest, *latest) = ((*earliest).min(at), (*latest).max(at));
    }

    pub(super) fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO spans VALUES (?1, ?2, ?3, ?4) ON CONFLICT (tenant, span) DO UPDATE SET \
             earliest_at = min(earliest_at, excluded.earliest_at), latest_at = max(latest_at, excluded.latest_at)",
        )?;
        for ((tenant, span), (earliest, latest)) in &self.0 {
            statement.execute(params![tenant, span, earliest, latest])?;
        }
        Ok(())
    }
}

pub(super) fn module_number(rows: &Connection, module: &ModuleRef) -> rusqlite::Result<i64> {
    let name = module.name.as_ref().map(|name| name.as_str());
    let known = rows
        .prepare_cached("SELECT n FROM modules WHERE digest = ?1 AND name IS ?2 AND version IS ?3")?
        .query_row(params![module.digest.as_bytes(), name, module.version], |found| found.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    rows.prepare_cached("INSERT INTO modules (name, version, digest) VALUES (?1, ?2, ?3)")?.execute(params![
        name,
        module.version,
        module.digest.as_bytes()
    ])?;
    Ok(rows.last_insert_rowid())
}

/// The digest of no bytes is known, and most error outputs are empty: nothing is stored for it.
fn stored_digest(digest: &Digest, size_bytes: u64) -> Option<&[u8; 32]> {
    (size_bytes > 0).then(|| digest.as_bytes())
}

/// The columns of an end, as they are bound.
struct EndColumns<'a> {
    outcome: i64,
    stdout: (Option<i64>, Option<&'a [u8; 32]>),
    stderr: (Option<i64>, Option<&'a [u8; 32]>),
    flags: i64,
}

impl<'a> EndColumns<'a> {
    fn of(end: &'a ExecutionEnd) -> Self {
        let output = |output: &'a Option<Output>| match output {
            Some(output) => (Some(row::signed(output.size_bytes)), stored_digest(&output.digest, output.size_bytes)),
            None => (None, None),
        };
        let truncated = |output: Option<Output>| output.is_some_and(|output| output.truncated);
        let flags = if truncated(end.stdout) { STDOUT_TRUNCATED } else { 0 }
            | if truncated(end.stderr) { STDERR_TRUNCATED } else { 0 }
            | class_code(end.reproducibility) << CLASS_SHIFT;
        let (stdout, stderr) = (output(&end.stdout), output(&end.stderr));
        Self { outcome: outcome_code(end.outcome), stdout, stderr, flags }
    }
}

/// The number of an outcome in this view's rows.
pub(crate) const fn outcome_code(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Succeeded => 0,
        Outcome::Exited => 1,
        Outcome::Trapped => 2,
        Outcome::DeadlineExceeded => 3,
        Outcome::OutOfFuel => 4,
        Outcome::OutOfMemory => 5,
        Outcome::Cancelled => 6,
        Outcome::Failed => 7,
        Outcome::Lost => 8,
    }
}

/// The number of a class in this view's rows.
const fn class_code(class: Reproducibility) -> i64 {
    match class {
        Reproducibility::Unverifiable => 0,
        Reproducibility::Pure => 1,
        Reproducibility::VirtualTime => 2,
        Reproducibility::Transcript => 3,
    }
}

/// The class that two bits stand for.
fn class_of(code: i64) -> Reproducibility {
    let known = Reproducibility::ALL.into_iter().find(|class| class_code(*class) == code);
    known.unwrap_or(Reproducibility::Unverifiable)
}

/// The outcome that a number stands for.
pub(crate) fn outcome_of(code: i64) -> Option<Outcome> {
    Outcome::ALL.into_iter().find(|outcome| outcome_code(*outcome) == code)
}

pub(super) struct Insertion<'t>(CachedStatement<'t>);

impl<'t> Insertion<'t> {
    pub(super) fn prepare(transaction: &'t Transaction<'_>) -> rusqlite::Result<Self> {
        let sql = "INSERT OR REPLACE INTO executions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, \
                   ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27)";
        Ok(Self(transaction.prepare_cached(sql)?))
    }

    pub(super) fn insert(
        &mut self,
        tenant: i64,
        id: ExecutionId,
        module: i64,
        key: i64,
        opening: &Opening,
        end: Option<&ExecutionEnd>,
    ) -> rusqlite::Result<()> {
        let columns = end.map(EndColumns::of);
        let columns = columns.as_ref();
        self.0.execute(params![
            tenant,
            row::signed(opening.revision.get()),
            id.as_uuid().as_bytes(),
            opening.attempt,
            module,
            key,
            row::signed(opening.position.get()),
            opening.at.unix_ms(),
            opening.started_at.map(Timestamp::unix_ms),
            row::signed(opening.stdin.size_bytes),
            stored_digest(&opening.stdin.digest, opening.stdin.size_bytes),
            columns.map(|columns| columns.outcome),
            end.and_then(|end| end.exit_code),
            end.map(|end| row::signed(end.finished_position.get())),
            end.map(|end| end.finished_at.unix_ms()),
            columns.and_then(|columns| columns.stdout.0),
            columns.and_then(|columns| columns.stdout.1),
            columns.and_then(|columns| columns.stderr.0),
            columns.and_then(|columns| columns.stderr.1),
            columns.map(|columns| columns.flags),
            end.and_then(|end| end.fuel).map(row::signed),
            end.map(|end| row::signed(end.cpu.as_micros())),
            end.map(|end| row::signed(end.wall.as_micros())),
            end.map(|end| row::signed(end.peak_memory_bytes)),
            end.and_then(|end| end.message.as_deref()),
            opening.rerun_of.map(|of| of.as_uuid().into_bytes()),
            opening.fuel.map(row::signed),
        ])?;
        Ok(())
    }
}

pub(super) struct Starting<'t>(CachedStatement<'t>);

impl<'t> Starting<'t> {
    pub(super) fn prepare(transaction: &'t Transaction<'_>) -> rusqlite::Result<Self> {
        let sql = "UPDATE executions SET attempt = ?3, started_at = ?4 \
                   WHERE tenant = ?1 AND id = ?2 AND outcome IS NULL";
        Ok(Self(transaction.prepare_cached(sql)?))
    }

    /// Begins an attempt at an open execution; false when there is none.
    pub(super) fn start(
        &mut self,
        tenant: i64,
        id: ExecutionId,
        attempt: u32,
        started_at: Timestamp,
    ) -> rusqlite::Result<bool> {
        Ok(self.0.execute(params![tenant, id.as_uuid().as_bytes(), attempt, started_at.unix_ms()])? == 1)
    }
}

pub(super) struct Ending<'t>(CachedStatement<'t>);

impl<'t> Ending<'t> {
    pub(super) fn prepare(transaction: &'t Transaction<'_>) -> rusqlite::Result<Self> {
        let sql = "UPDATE executions SET outcome = ?3, exit_code = ?4, finished_position = ?5, finished_at = ?6, \
                   stdout_bytes = ?7, stdout_digest = ?8, stderr_bytes = ?9, stderr_digest = ?10, flags = ?11, \
                   fuel = ?12, cpu_us = ?13, wall_us = ?14, peak_memory_bytes = ?15, message = ?16 \
                   WHERE tenant = ?1 AND id = ?2 AND outcome IS NULL";
        Ok(Self(transaction.prepare_cached(sql)?))
    }

    /// Ends an open execution; false when there is none.
    pub(super) fn end(&mut self, tenant: i64, id: ExecutionId, end: &ExecutionEnd) -> rusqlite::Result<bool> {
        let columns = EndColumns::of(end);
        let changed = self.0.execute(params![
            tenant,
            id.as_uuid().as_bytes(),
            columns.outcome,
            end.exit_code,
            row::signed(end.finished_position.get()),
            end.finished_at.unix_ms(),
            columns.stdout.0,
            columns.stdout.1,
            columns.stderr.0,
            columns.stderr.1,
            columns.flags,
            end.fuel.map(row::signed),
            row::signed(end.cpu.as_micros()),
            row::signed(end.wall.as_micros()),
            row::signed(end.peak_memory_bytes),
            end.message,
        ])?;
        Ok(changed == 1)
    }
}

const EXECUTION: &str = "e.id, e.attempt, m.name, m.version, m.digest, k.label, e.accepted_position, e.accepted_at, \
     e.stdin_bytes, e.stdin_digest, e.outcome, e.exit_code, e.finished_position, e.finished_at, e.stdout_bytes, \
     e.stdout_digest, e.stderr_bytes, e.stderr_digest, e.flags, e.fuel, e.cpu_us, e.wall_us, e.peak_memory_bytes, \
     e.message, e.started_at, e.accepted_revision, e.rerun_of, e.fuel_given";
const JOINED: &str = "executions e CROSS JOIN modules m ON m.n = e.module CROSS JOIN keys k ON k.n = e.key";

pub(super) fn get(rows: &Connection, tenant: &TenantId, id: ExecutionId) -> rusqlite::Result<Option<ExecutionRecord>> {
    let Some(tenant) = text_number(rows, "tenants", tenant.as_str())? else { return Ok(None) };
    let mut found =
        rows.prepare_cached(&format!("SELECT {EXECUTION} FROM {JOINED} WHERE e.tenant = ?1 AND e.id = ?2"))?;
    found.query_row(params![tenant, id.as_uuid().as_bytes()], read_execution).optional()
}

pub(super) fn list(
    rows: &Connection,
    tenant: &TenantId,
    filter: &ExecutionFilter,
    page: &Page<ExecutionCursor>,
) -> rusqlite::Result<Listed<ExecutionRecord, ExecutionCursor>> {
    let mut listed = Listed { items: Vec::new(), next: None };
    let Some(tenant) = text_number(rows, "tenants", tenant.as_str())? else { return Ok(listed) };
    let before = page.after.map_or(i64::MAX, |cursor| row::signed(cursor.before.get()));
    let (from, to) = (filter.from.map_or(i64::MIN, Timestamp::unix_ms), filter.to.map_or(i64::MAX, Timestamp::unix_ms));
    // CROSS JOIN fixes the order of the tables: spans and their executions by key, the labels one by one.
    let mut statement = rows.prepare_cached(&format!(
        "SELECT {EXECUTION} FROM spans s CROSS JOIN executions e ON e.tenant = s.tenant \
         AND e.accepted_revision >= s.span * {SPAN_REVISIONS} \
         AND e.accepted_revision < min((s.span + 1) * {SPAN_REVISIONS}, ?5) \
         CROSS JOIN modules m ON m.n = e.module CROSS JOIN keys k ON k.n = e.key \
         WHERE s.tenant = ?1 AND s.span <= ?2 AND s.latest_at >= ?3 AND s.earliest_at < ?4 \
         ORDER BY s.span DESC, e.accepted_revision DESC"
    ))?;
    let mut found = statement.query(params![tenant, before / SPAN_REVISIONS, from, to, before])?;
    let (mut scanned, mut last, mut bytes) = (0, None, 0_u64);
    while let Some(row) = found.next()? {
        let is_full = listed.items.len() == page.items() || (bytes >= page.bytes_max && !listed.items.is_empty());
        if is_full || scanned == SCANNED_ROWS {
            listed.next = last.map(|before| ExecutionCursor { before });
            break;
        }
        scanned += 1;
        last = Some(Revision::new(row::unsigned(row, 25)?));
        if passes(filter, row)? {
            let record = read_execution(row)?;
            bytes = bytes.saturating_add(listed_bytes(&record));
            listed.items.push(record);
        }
    }
    Ok(listed)
}

/// What an execution has in a list beside its message, in bytes, about.
const LISTED_BYTES: u64 = 900;

/// What an execution has in a list, in bytes, about.
fn listed_bytes(record: &ExecutionRecord) -> u64 {
    let message = record.end.as_ref().and_then(|end| end.message.as_ref());
    LISTED_BYTES.saturating_add(message.map_or(0, |message| message.len() as u64))
}

pub(super) fn open_tenants(rows: &Connection) -> rusqlite::Result<Vec<TenantId>> {
    rows.prepare_cached(
        "SELECT label FROM tenants WHERE n IN (SELECT tenant FROM executions WHERE outcome IS NULL) ORDER BY n",
    )?
    .query_map([], |found| row::parsed(found, 0))?
    .collect()
}

/// The filter on the row's own columns, before anything is allocated for it.
fn passes(filter: &ExecutionFilter, found: &Row<'_>) -> rusqlite::Result<bool> {
    let accepted_at = row::time(found, 7)?;
    if filter.from.is_some_and(|from| accepted_at < from) || filter.to.is_some_and(|to| accepted_at >= to) {
        return Ok(false);
    }
    if let Some(outcome) = filter.outcome
        && found.get::<_, Option<i64>>(10)? != Some(outcome_code(outcome))
    {
        return Ok(false);
    }
    if let Some(module) = &filter.module
        && found.get_ref(2)?.as_str_or_null()? != Some(module.as_str())
    {
        return Ok(false);
    }
    Ok(match &filter.key {
        Some(key) => found.get_ref(5)?.as_str()? == key.as_str(),
        None => true,
    })
}

fn execution_id(found: &Row<'_>) -> rusqlite::Result<ExecutionId> {
    Ok(ExecutionId::new(Uuid::from_bytes(found.get(0)?)))
}

fn digest_of(found: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    Ok(found.get::<_, Option<[u8; 32]>>(column)?.map_or_else(|| Digest::of(b""), Digest::from_bytes))
}

fn read_execution(found: &Row<'_>) -> rusqlite::Result<ExecutionRecord> {
    let name = match found.get_ref(2)?.as_str_or_null()? {
        Some(_) => Some(row::parsed(found, 2)?),
        None => None,
    };
    let module = ModuleRef { name, version: found.get(3)?, digest: Digest::from_bytes(found.get(4)?) };
    Ok(ExecutionRecord {
        id: execution_id(found)?,
        attempt: found.get(1)?,
        module,
        key_id: row::parsed(found, 5)?,
        accepted_position: Position::new(row::unsigned(found, 6)?),
        accepted_at: row::time(found, 7)?,
        rerun_of: found.get::<_, Option<[u8; 16]>>(26)?.map(|of| ExecutionId::new(Uuid::from_bytes(of))),
        fuel: found.get::<_, Option<i64>>(27)?.map(|fuel| u64::try_from(fuel).unwrap_or_default()),
        started_at: found.get::<_, Option<i64>>(24)?.map(Timestamp::from_unix_ms),
        stdin: Content { size_bytes: row::unsigned(found, 8)?, digest: digest_of(found, 9)? },
        end: found.get::<_, Option<i64>>(10)?.map(|outcome| read_end(found, outcome)).transpose()?,
    })
}

fn read_end(found: &Row<'_>, outcome: i64) -> rusqlite::Result<ExecutionEnd> {
    let flags: i64 = found.get(18)?;
    let output = |size: usize, truncated: i64| {
        let Some(size_bytes) = found.get::<_, Option<i64>>(size)? else { return Ok(None) };
        let size_bytes = u64::try_from(size_bytes).unwrap_or_default();
        let digest = digest_of(found, size + 1)?;
        Ok::<_, rusqlite::Error>(Some(Output { digest, size_bytes, truncated: flags & truncated != 0 }))
    };
    Ok(ExecutionEnd {
        outcome: outcome_of(outcome).ok_or_else(|| row::unreadable(10, NotAnOutcome))?,
        exit_code: found.get(11)?,
        finished_position: Position::new(row::unsigned(found, 12)?),
        finished_at: row::time(found, 13)?,
        stdout: output(14, STDOUT_TRUNCATED)?,
        stderr: output(16, STDERR_TRUNCATED)?,
        reproducibility: class_of(flags >> CLASS_SHIFT & 3),
        fuel: found.get::<_, Option<i64>>(19)?.map(|fuel| u64::try_from(fuel).unwrap_or_default()),
        cpu: Millis::from_micros(row::unsigned(found, 20)?),
        wall: Millis::from_micros(row::unsigned(found, 21)?),
        peak_memory_bytes: row::unsigned(found, 22)?,
        message: found.get(23)?,
    })
}
