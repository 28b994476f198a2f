//! A page of a report: which buckets it has, and their sums.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use wasmwiz_events::{
    execution::{NotAnOutcome, Outcome},
    id::TenantId,
    time::{Millis, Timestamp},
};

use super::{
    After, Percentiles, Span, UsageBucket, UsageBy, UsageCursor, UsageRow,
    fold::HOUR_MS,
    histogram::Histogram,
    rows::{COUNTERS, Counters},
};
use crate::{
    dictionary::text_number,
    executions::outcome_of,
    page::{Listed, Page},
    row,
};

/// A bucket that is being summed.
struct Sum {
    row: UsageRow,
    walls: Histogram,
}

/// Where the rows of a report are.
struct Place {
    tenant: i64,
    first_hour: i64,
    end_hour: i64,
}

pub(super) fn page(
    connection: &Connection,
    tenant: &TenantId,
    span: Span,
    by: UsageBy,
    page: &Page<UsageCursor>,
) -> rusqlite::Result<Listed<UsageRow, UsageCursor>> {
    let Some(tenant) = text_number(connection, "tenants", tenant.as_str())? else {
        return Ok(Listed { items: Vec::new(), next: None });
    };
    let first_hour = span.from.unix_ms().div_euclid(HOUR_MS);
    let end_hour = span.to.unix_ms().saturating_add(HOUR_MS - 1).div_euclid(HOUR_MS);
    let place = Place { tenant, first_hour, end_hour };
    let rows = match by {
        UsageBy::Hour => by_time(connection, place, 1, page)?,
        UsageBy::Day => by_time(connection, place, 24, page)?,
        UsageBy::Key => by_label(connection, &place, ("key", "keys"), page)?,
        UsageBy::Module => by_label(connection, &place, ("module", "modules"), page)?,
    };
    Ok(Listed::cut(rows, page, |row| UsageCursor { span, after: after(&row.bucket) }))
}

fn after(bucket: &UsageBucket) -> After {
    match bucket {
        UsageBucket::Time(time) => After::Hour(time.unix_ms().div_euclid(HOUR_MS)),
        UsageBucket::Label(label) => After::Label(label.clone()),
    }
}

/// Buckets of so many hours. The rows lie in the order of their hours: only those of the page are read.
fn by_time(
    connection: &Connection,
    place: Place,
    hours: i64,
    page: &Page<UsageCursor>,
) -> rusqlite::Result<Vec<UsageRow>> {
    let first_hour = match page.after.as_ref().map(|cursor| &cursor.after) {
        Some(After::Hour(hour)) => hour.saturating_add(hours).max(place.first_hour),
        Some(After::Label(_)) | None => place.first_hour,
    };
    let most = page.items() + 1;
    let mut sums: Vec<Sum> = Vec::new();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT u.hour, {COUNTERS} FROM usage u WHERE u.tenant = ?1 AND u.hour >= ?2 AND u.hour < ?3 ORDER BY u.hour"
    ))?;
    let mut found = statement.query(params![place.tenant, first_hour, place.end_hour])?;
    while let Some(row) = found.next()? {
        let begins = row.get::<_, i64>(0)?.div_euclid(hours).saturating_mul(hours).saturating_mul(HOUR_MS);
        let bucket = UsageBucket::Time(Timestamp::from_unix_ms(begins));
        if sums.last().is_none_or(|last| last.row.bucket != bucket) {
            if sums.len() == most {
                break;
            }
            sums.push(Sum::nothing(bucket));
        }
        if let Some(last) = sums.last_mut() {
            last.absorb(row)?;
        }
    }
    Ok(sums.into_iter().map(Sum::done).collect())
}

/// Buckets by label: first which ones the page has, then what belongs to them. A tenant may have any number of labels (a
/// module that comes with its request is one), so no more of them are in memory than the page has.
fn by_label(
    connection: &Connection,
    place: &Place,
    (column, table): (&str, &str),
    page: &Page<UsageCursor>,
) -> rusqlite::Result<Vec<UsageRow>> {
    let after = match page.after.as_ref().map(|cursor| &cursor.after) {
        Some(After::Label(label)) => label.as_str(),
        Some(After::Hour(_)) | None => "",
    };
    let rows = format!(
        "FROM usage u JOIN {table} l ON l.n = u.{column}
         WHERE u.tenant = ?1 AND u.hour >= ?2 AND u.hour < ?3"
    );
    let Place { tenant, first_hour, end_hour } = place;
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let mut statement = connection
        .prepare_cached(&format!("SELECT DISTINCT l.label {rows} AND l.label > ?4 ORDER BY l.label LIMIT ?5"))?;
    let mut labels = statement.query(params![tenant, first_hour, end_hour, after, page.rows()])?;
    while let Some(row) = labels.next()? {
        let label: String = row.get(0)?;
        sums.insert(label.clone(), Sum::nothing(UsageBucket::Label(label)));
    }
    let Some((last, _)) = sums.last_key_value() else { return Ok(Vec::new()) };
    let mut statement =
        connection.prepare_cached(&format!("SELECT l.label, {COUNTERS} {rows} AND l.label > ?4 AND l.label <= ?5"))?;
    let mut found = statement.query(params![tenant, first_hour, end_hour, after, last.clone()])?;
    while let Some(row) = found.next()? {
        // One that came up since the labels were read belongs to a later report.
        if let Some(sum) = sums.get_mut(row.get_ref(0)?.as_str()?) {
            sum.absorb(row)?;
        }
    }
    Ok(sums.into_values().map(Sum::done).collect())
}

impl Sum {
    fn nothing(bucket: UsageBucket) -> Self {
        let none = Millis::from_micros(0);
        let row = UsageRow {
            bucket,
            executions_by_outcome: BTreeMap::new(),
            fuel: 0,
            cpu: none,
            wall: none,
            wall_percentiles: None,
            peak_memory_bytes: 0,
            stdin_bytes: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            transcript_bytes: 0,
        };
        Self { row, walls: Histogram::default() }
    }

    /// Adds a row that has its bucket in the first column, and [`COUNTERS`] after it.
    fn absorb(&mut self, found: &Row<'_>) -> rusqlite::Result<()> {
        let outcome: Outcome = outcome_of(found.get(1)?).ok_or_else(|| row::unreadable(1, NotAnOutcome))?;
        let more = Counters::read(found, 2)?;
        let Self { row, walls } = self;
        let executions = row.executions_by_outcome.entry(outcome).or_default();
        *executions = executions.saturating_add(more.executions);
        row.fuel = row.fuel.saturating_add(more.fuel);
        row.cpu = Millis::from_micros(row.cpu.as_micros().saturating_add(more.cpu_us));
        row.wall = Millis::from_micros(row.wall.as_micros().saturating_add(more.wall_us));
        row.peak_memory_bytes = row.peak_memory_bytes.max(more.peak_memory_bytes);
        row.stdin_bytes = row.stdin_bytes.saturating_add(more.stdin_bytes);
        row.stdout_bytes = row.stdout_bytes.saturating_add(more.stdout_bytes);
        row.stderr_bytes = row.stderr_bytes.saturating_add(more.stderr_bytes);
        row.transcript_bytes = row.transcript_bytes.saturating_add(more.transcript_bytes);
        walls.merge(&more.walls);
        Ok(())
    }

    fn done(self) -> UsageRow {
        let percentile = |percent| self.walls.quantile(percent).map(Millis::from_micros);
        let percentiles = percentile(50).zip(percentile(95)).zip(percentile(99));
        let wall_percentiles = percentiles.map(|((p50, p95), p99)| Percentiles { p50, p95, p99 });
        UsageRow { wall_percentiles, ..self.row }
    }
}
