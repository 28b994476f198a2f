//! The index as rows.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction, params};
use wasmwiz_events::{
    id::TenantId,
    ledger::ChainHash,
    revision::{Position, Revision},
    time::Timestamp,
};

use super::{
    AuditCursor, AuditFilter, AuditHead, EventRef, SCANNED_COMMITS,
    fingerprint::{self, ENTRY_BYTES, Entry},
    fold::Indexed,
};
use crate::{
    dictionary::text_number,
    page::{Listed, Page},
    row,
};

pub(super) const SCHEMA: &str = "
CREATE TABLE tenants (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE types (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE heads (
    tenant INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash BLOB NOT NULL,
    latest_at INTEGER NOT NULL
);
CREATE TABLE commits (
    tenant INTEGER NOT NULL,
    position INTEGER NOT NULL,
    first_revision INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    -- The latest recorded_at of this commit and all before it in its stream: nothing older is later than this.
    latest_at INTEGER NOT NULL,
    events BLOB NOT NULL,
    PRIMARY KEY (tenant, position)
) WITHOUT ROWID;";

#[derive(Debug)]
struct HeadRow {
    revision: u64,
    position: Position,
    hash: ChainHash,
    latest_at: Timestamp,
}

/// The heads of the tenants of one batch: each is read once and written once.
#[derive(Debug, Default)]
pub(super) struct Heads(BTreeMap<i64, HeadRow>);

impl Heads {
    /// Moves the tenant's head to `commit`. Returns the latest time of the stream so far.
    pub(super) fn advance(
        &mut self,
        transaction: &Transaction<'_>,
        tenant: i64,
        commit: &Indexed,
        events: usize,
    ) -> rusqlite::Result<Timestamp> {
        let before = match self.0.get(&tenant) {
            Some(head) => Some(head.latest_at),
            None => transaction
                .prepare_cached("SELECT latest_at FROM heads WHERE tenant = ?1")?
                .query_row([tenant], |found| row::time(found, 0))
                .optional()?,
        };
        let latest_at = before.map_or(commit.recorded_at, |before| before.max(commit.recorded_at));
        let revision = commit.first_revision.saturating_add(events as u64).saturating_sub(1);
        self.0.insert(tenant, HeadRow { revision, position: commit.position, hash: commit.hash, latest_at });
        Ok(latest_at)
    }

    pub(super) fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut statement = transaction.prepare_cached("INSERT OR REPLACE INTO heads VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (tenant, head) in &self.0 {
            let (revision, position) = (row::signed(head.revision), row::signed(head.position.get()));
            statement.execute(params![tenant, revision, position, head.hash.as_bytes(), head.latest_at.unix_ms()])?;
        }
        Ok(())
    }
}

pub(super) struct Insertion<'t>(CachedStatement<'t>);

impl<'t> Insertion<'t> {
    pub(super) fn prepare(transaction: &'t Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self(transaction.prepare_cached("INSERT INTO commits VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?))
    }

    pub(super) fn insert(
        &mut self,
        tenant: i64,
        commit: &Indexed,
        latest_at: Timestamp,
        packed: &[u8],
    ) -> rusqlite::Result<()> {
        self.0.execute(params![
            tenant,
            row::signed(commit.position.get()),
            row::signed(commit.first_revision),
            commit.recorded_at.unix_ms(),
            latest_at.unix_ms(),
            packed,
        ])?;
        Ok(())
    }
}

pub(super) fn head(rows: &Connection, tenant: &TenantId) -> rusqlite::Result<Option<AuditHead>> {
    rows.prepare_cached(
        "SELECT h.revision, h.hash, h.position FROM tenants t JOIN heads h ON h.tenant = t.n WHERE t.label = ?1",
    )?
    .query_row([tenant.as_str()], |found| {
        Ok(AuditHead {
            revision: Revision::new(row::unsigned(found, 0)?),
            hash: ChainHash::from_bytes(found.get(1)?),
            position: Position::new(row::unsigned(found, 2)?),
        })
    })
    .optional()
}

/// A filter in the terms of the rows.
struct Wanted {
    type_code: Option<u16>,
    actor: Option<u32>,
    subject: Option<u64>,
}

impl Wanted {
    /// `None` when nothing can pass: the type was never seen.
    fn of(rows: &Connection, filter: &AuditFilter) -> rusqlite::Result<Option<Self>> {
        let type_code = match &filter.type_name {
            Some(name) => match text_number(rows, "types", name)? {
                Some(code) => Some(u16::try_from(code).unwrap_or(u16::MAX)),
                None => return Ok(None),
            },
            None => None,
        };
        let actor = filter.actor.as_deref().map(fingerprint::of_actor);
        let subject = filter.subject.as_deref().map(fingerprint::of);
        Ok(Some(Self { type_code, actor, subject }))
    }

    fn passes(&self, entry: Entry) -> bool {
        self.type_code.is_none_or(|code| code == entry.type_code)
            && self.actor.is_none_or(|actor| actor == entry.actor)
            && self.subject.is_none_or(|subject| subject == entry.subject)
    }
}

pub(super) fn find(
    rows: &Connection,
    tenant: &TenantId,
    filter: &AuditFilter,
    page: &Page<AuditCursor>,
) -> rusqlite::Result<Listed<EventRef, AuditCursor>> {
    let mut listed = Listed { items: Vec::new(), next: None };
    let Some(tenant) = text_number(rows, "tenants", tenant.as_str())? else { return Ok(listed) };
    let Some(wanted) = Wanted::of(rows, filter)? else { return Ok(listed) };
    let newest = page.after.map_or(i64::MAX, |cursor| row::signed(cursor.position.get()));
    let mut statement = rows.prepare_cached(
        "SELECT position, first_revision, recorded_at, latest_at, events FROM commits
         WHERE tenant = ?1 AND position <= ?2 ORDER BY position DESC",
    )?;
    let mut found = statement.query(params![tenant, newest])?;
    let mut scanned = 0;
    while let Some(commit) = found.next()? {
        if filter.from.is_some_and(|from| row::time(commit, 3).is_ok_and(|latest_at| latest_at < from)) {
            // Nothing older in this stream was recorded later than this.
            break;
        }
        let position = Position::new(row::unsigned(commit, 0)?);
        if scanned == SCANNED_COMMITS {
            // The cursor stands behind the newest event of this commit: all of it is still to come.
            listed.next = Some(AuditCursor { position, index: u32::MAX });
            break;
        }
        scanned += 1;
        let recorded_at = row::time(commit, 2)?;
        if filter.from.is_some_and(|from| recorded_at < from) || filter.to.is_some_and(|to| recorded_at >= to) {
            continue;
        }
        let below = page.after.filter(|cursor| cursor.position == position).map_or(u32::MAX, |cursor| cursor.index);
        if collect(commit, position, below, &wanted, page.items(), &mut listed)? {
            break;
        }
    }
    Ok(listed)
}

/// Adds the events of one commit, the newest first. True when the page was full before the last of them.
fn collect(
    commit: &Row<'_>,
    position: Position,
    below: u32,
    wanted: &Wanted,
    items: usize,
    listed: &mut Listed<EventRef, AuditCursor>,
) -> rusqlite::Result<bool> {
    let first_revision = row::unsigned(commit, 1)?;
    let (entries, _) = commit.get_ref(4)?.as_blob()?.as_chunks::<ENTRY_BYTES>();
    for (index, entry) in (0_u32..below).zip(entries).collect::<Vec<_>>().into_iter().rev() {
        if !wanted.passes(Entry::unpack(entry)) {
            continue;
        }
        if listed.items.len() == items {
            listed.next = listed.items.last().map(|last| AuditCursor { position: last.position, index: last.index });
            return Ok(true);
        }
        let revision = Revision::new(first_revision.saturating_add(u64::from(index)));
        listed.items.push(EventRef { position, index, revision });
    }
    Ok(false)
}
