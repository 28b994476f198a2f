//! Streams that a view has set aside.
//!
//! A commit that cannot be read or folded ends the fold of its own stream and of no other. The view passes over it and over
//! what the stream has behind it, and remembers whose stream it is, from which place on, and why. Its rows of that tenant are
//! the past before the place and no truth about the present, so no query gives them until the stream is folded to its end.
//!
//! The ids of keys that such commits issue are remembered too: who shows one is told that the stream is set aside, and not
//! that there is no such key.
//!
//! What operators have skipped is remembered as their stream says it. Where a commit of the stream cannot be folded that is among it,
//! the stream is folded on behind it, if it goes on there: its newest commit is never passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{Connection, params};
use serde::Serialize;
use wasmwiz_events::{
    commit::Recorded,
    envelope::Envelope,
    event::Event,
    id::{KeyId, TenantId},
    revision::{Position, Revision},
    tenant::SYSTEM,
};

use crate::{metrics, readers::QueryError, row};

/// Part of every view's file, in the transaction of its checkpoint.
pub(crate) const SCHEMA: &str = "
CREATE TABLE quarantine (
    tenant TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    first_revision INTEGER,
    reason TEXT NOT NULL,
    commits INTEGER NOT NULL,
    behind INTEGER
) WITHOUT ROWID;
CREATE TABLE quarantined_keys (
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    PRIMARY KEY (id, tenant)
) WITHOUT ROWID;
CREATE TABLE skipped (
    tenant TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (tenant, position)
) WITHOUT ROWID;";

/// The longest reason that is kept, in characters.
const REASON_CHARS: usize = 500;

/// A stream that a view has set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Whose stream.
    pub tenant: TenantId,
    /// The commit that cannot be folded; or the last one before commits that the log has lost, see [`SetAside::names_fault`].
    pub position: Position,
    /// Revision of the first event that is not folded: there folding goes on. `None` while the commit at `position`, which says
    /// it, cannot be read; then nothing behind it is folded.
    pub first_revision: Option<Revision>,
    /// Why, for operators.
    pub reason: Arc<str>,
    /// How many commits of the stream the view has passed over and not folded since.
    pub commits: u64,
    /// Once something of it was folded, or passed over for good: the place behind which that goes on.
    #[serde(skip)]
    pub(crate) behind: Option<Position>,
}

/// What the thread of a view writes of its quarantine in one transaction.
#[derive(Debug)]
pub(crate) enum Change {
    /// Commits of streams that are set aside already.
    PassedOver(PassedOver),
    /// One more stream, or another place in one. With the keys that the commit issues.
    SetAside(SetAside, PassedOver),
    /// The stream is folded to its end, and what its last page says of others.
    Released(TenantId, PassedOver),
}

/// Commits that one batch passes over.
#[derive(Debug, Default)]
pub(crate) struct PassedOver {
    commits: BTreeMap<TenantId, u64>,
    keys: Vec<(KeyId, TenantId)>,
    skipped: Vec<Place>,
}

/// A commit of a tenant.
type Place = (TenantId, Position);

impl PassedOver {
    /// Is there nothing to write?
    fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.keys.is_empty() && self.skipped.is_empty()
    }

    /// Remembers what operators skip by a commit of their own stream; others' say nothing. Gives whose streams these are.
    pub(crate) fn note_skips(&mut self, tenant: &TenantId, events: &[Envelope]) -> impl Iterator<Item = &TenantId> {
        let before = self.skipped.len();
        for envelope in events.iter().filter(|_| tenant.as_str() == SYSTEM) {
            if let Event::CommitSkipped(skipped) = &envelope.event {
                self.skipped.push((skipped.tenant.clone(), skipped.position));
            }
        }
        self.skipped.iter().skip(before).map(|(tenant, _)| tenant)
    }

    /// Counts a commit.
    pub(crate) fn count(&mut self, tenant: &TenantId) {
        let count = self.commits.entry(tenant.clone()).or_default();
        *count = count.saturating_add(1);
    }

    /// Remembers the keys that a commit of a tenant issues, as far as it can be read. Whose it is may not be what it says itself.
    pub(crate) fn note_keys(&mut self, recorded: &Recorded, tenant: &TenantId) {
        let Ok(events) = recorded.commit.events() else { return };
        for envelope in events.iter() {
            if let Event::KeyIssued(issued) = &envelope.event {
                self.keys.push((issued.key_id.clone(), tenant.clone()));
            }
        }
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        for (tenant, commits) in &self.commits {
            connection
                .prepare_cached("UPDATE quarantine SET commits = commits + ?2 WHERE tenant = ?1")?
                .execute(params![tenant.as_str(), row::signed(*commits)])?;
        }
        for (id, tenant) in &self.keys {
            connection
                .prepare_cached("INSERT OR IGNORE INTO quarantined_keys VALUES (?1, ?2)")?
                .execute([id.as_str(), tenant.as_str()])?;
        }
        for (tenant, position) in &self.skipped {
            connection
                .prepare_cached("INSERT OR IGNORE INTO skipped VALUES (?1, ?2)")?
                .execute(params![tenant.as_str(), row::signed(position.get())])?;
        }
        Ok(())
    }
}

impl Change {
    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::PassedOver(passed_over) => passed_over.write(connection),
            Self::SetAside(aside, keys) => {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO quarantine VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                    .execute(params![
                        aside.tenant.as_str(),
                        row::signed(aside.position.get()),
                        aside.first_revision.map(|revision| row::signed(revision.get())),
                        &*aside.reason,
                        row::signed(aside.commits),
                        aside.behind.map(|position| row::signed(position.get())),
                    ])?;
                keys.write(connection)
            }
            Self::Released(tenant, notes) => {
                connection.execute("DELETE FROM quarantine WHERE tenant = ?1", [tenant.as_str()])?;
                connection.execute("DELETE FROM quarantined_keys WHERE tenant = ?1", [tenant.as_str()])?;
                notes.write(connection)
            }
        }
    }
}

impl SetAside {
    /// A stream whose commit at `position` is the first that cannot be folded.
    pub(crate) fn at(position: Position, tenant: TenantId, first_revision: Option<Revision>, reason: &str) -> Self {
        let reason = reason.chars().take(REASON_CHARS).collect::<String>().into();
        Self { tenant, position, first_revision, reason, commits: 1, behind: None }
    }

    /// Is the commit at `position` the one that cannot be folded? Otherwise it is folded, and what the log has lost lies behind it: a
    /// skip would change nothing.
    pub fn names_fault(&self) -> bool {
        self.behind.is_none_or(|behind| behind < self.position)
    }
}

/// The streams that one view has set aside. Clones share them; only the view's thread changes them.
#[derive(Debug, Clone)]
pub(crate) struct Quarantine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    view: &'static str,
    /// Almost always so: every request looks.
    is_empty: AtomicBool,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    streams: BTreeMap<TenantId, SetAside>,
    keys: BTreeMap<KeyId, BTreeSet<TenantId>>,
    skipped: BTreeSet<Place>,
}

impl Held {
    fn note(&mut self, key: KeyId, tenant: TenantId) {
        self.keys.entry(key).or_default().insert(tenant);
    }
}

impl Quarantine {
    /// Of a view, empty.
    pub(crate) fn new(view: &'static str) -> Self {
        Self(Arc::new(Inner { view, is_empty: AtomicBool::new(true), held: RwLock::default() }))
    }

    /// Takes over what the view's file says.
    pub(crate) fn load(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut held = Held::default();
        held.streams.extend(all(connection)?.into_iter().map(|aside| (aside.tenant.clone(), aside)));
        let mut keys = connection.prepare("SELECT id, tenant FROM quarantined_keys")?;
        let mut rows = keys.query([])?;
        while let Some(found) = rows.next()? {
            held.note(row::parsed(found, 0)?, row::parsed(found, 1)?);
        }
        let mut skipped = connection.prepare("SELECT tenant, position FROM skipped")?;
        let mut rows = skipped.query([])?;
        while let Some(found) = rows.next()? {
            held.skipped.insert((row::parsed(found, 0)?, Position::new(row::unsigned(found, 1)?)));
        }
        self.replace(|before| *before = held);
        Ok(())
    }

    /// Takes note of what was written.
    pub(crate) fn apply(&self, change: Change) {
        if matches!(&change, Change::PassedOver(passed) if passed.is_empty()) {
            return;
        }
        self.replace(|held| match change {
            Change::PassedOver(PassedOver { commits, keys, skipped }) => {
                for (tenant, more) in commits {
                    if let Some(aside) = held.streams.get_mut(&tenant) {
                        aside.commits = aside.commits.saturating_add(more);
                    }
                }
                keys.into_iter().for_each(|(key, tenant)| held.note(key, tenant));
                held.skipped.extend(skipped);
            }
            Change::SetAside(aside, PassedOver { keys, skipped, .. }) => {
                keys.into_iter().for_each(|(key, tenant)| held.note(key, tenant));
                held.skipped.extend(skipped);
                held.streams.insert(aside.tenant.clone(), aside);
            }
            Change::Released(tenant, PassedOver { skipped, .. }) => {
                held.skipped.extend(skipped);
                held.keys.retain(|_, holders| {
                    holders.remove(&tenant);
                    !holders.is_empty()
                });
                held.streams.remove(&tenant);
            }
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is of floating point")]
    fn replace(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        self.0.is_empty.store(held.streams.is_empty(), Ordering::Release);
        ::metrics::gauge!(metrics::PROJECTION_SET_ASIDE_STREAMS, "view" => self.0.view).set(held.streams.len() as f64);
    }

    fn look<T>(&self, look: impl FnOnce(&Held) -> Option<T>) -> Option<T> {
        if self.0.is_empty.load(Ordering::Acquire) {
            return None;
        }
        look(&self.0.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The tenant's stream, if it is set aside.
    pub(crate) fn of(&self, tenant: &TenantId) -> Option<SetAside> {
        self.look(|held| held.streams.get(tenant).cloned())
    }

    /// Is the tenant's stream set aside?
    pub(crate) fn holds(&self, tenant: &TenantId) -> bool {
        self.look(|held| held.streams.contains_key(tenant).then_some(())).is_some()
    }

    /// Has an operator skipped this commit, as far as the view has folded the operators' stream?
    pub(crate) fn has_skipped(&self, tenant: &TenantId, position: Position) -> bool {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        held.skipped.contains(&(tenant.clone(), position))
    }

    /// The stream that issued a key in a commit which was passed over.
    pub(crate) fn of_key(&self, id: &KeyId) -> Option<SetAside> {
        self.look(|held| held.keys.get(id)?.iter().find_map(|holder| held.streams.get(holder)).cloned())
    }

    /// All of them, in the order of their tenants.
    pub(crate) fn all(&self) -> Vec<SetAside> {
        self.look(|held| Some(held.streams.values().cloned().collect())).unwrap_or_default()
    }

    /// Refuses questions about a tenant whose stream is set aside.
    pub(crate) fn admit(&self, tenant: &TenantId) -> Result<(), QueryError> {
        match self.of(tenant) {
            Some(SetAside { position, .. }) => Err(QueryError::SetAside { view: self.0.view, position }),
            None => Ok(()),
        }
    }
}

/// What the file of a view says of its quarantine, in the order of the tenants.
pub(crate) fn all(connection: &Connection) -> rusqlite::Result<Vec<SetAside>> {
    let sql = "SELECT tenant, position, first_revision, reason, commits, behind FROM quarantine ORDER BY tenant";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |found| {
        let (revision, behind): (Option<i64>, Option<i64>) = (found.get(2)?, found.get(5)?);
        Ok(SetAside {
            tenant: row::parsed(found, 0)?,
            position: Position::new(row::unsigned(found, 1)?),
            first_revision: revision.and_then(|revision| u64::try_from(revision).ok()).map(Revision::new),
            reason: found.get::<_, String>(3)?.into(),
            commits: row::unsigned(found, 4)?,
            behind: behind.and_then(|position| u64::try_from(position).ok()).map(Position::new),
        })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests;
