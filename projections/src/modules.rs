//! What can be run: the modules of each tenant and their versions.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    commit::Recorded,
    digest::Digest,
    envelope::Envelope,
    event::Event,
    id::{ModuleName, TenantId},
    module::{Kind, Published},
    revision::Revision,
    settings::Settings,
    time::Timestamp,
};

use crate::{
    page::{Listed, Page},
    projection::{Fault, Projection},
    readers::{QueryError, Readers},
    row,
};

/// One version of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleRecord {
    /// The tenant's name for it.
    pub name: ModuleName,
    /// Its version; 1 is the first.
    pub version: u32,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size_bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Its imports as `module.name`.
    pub imports: Vec<String>,
    /// Its exports.
    pub exports: Vec<String>,
    /// How its executions run.
    pub settings: Settings,
    /// When it was published.
    pub created_at: Timestamp,
    /// The event that published it.
    pub revision: Revision,
    /// When its name was deleted; a version published later under the name is another one.
    pub deleted_at: Option<Timestamp>,
}

/// What a module has in a list beside its imports and exports, in bytes, about.
const LISTED_BYTES: u64 = 400;

impl ModuleRecord {
    /// What it has in a list, in bytes, about: texts with quotes, which are mostly nothing to escape in.
    fn listed_bytes(&self) -> u64 {
        let texts = self.imports.iter().chain(&self.exports).map(|text| text.len() as u64 + 3);
        texts.fold(LISTED_BYTES, u64::saturating_add)
    }
}

/// Where a list of modules goes on: names after this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleCursor {
    /// The last name of the page before.
    pub after: ModuleName,
}

/// Where a list of versions goes on: versions below this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionCursor {
    /// The last version of the page before.
    pub before: u32,
}

const SCHEMA: &str = "
CREATE TABLE modules (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    kind TEXT NOT NULL,
    imports TEXT NOT NULL,
    exports TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    deleted_at INTEGER,
    settings TEXT NOT NULL,
    PRIMARY KEY (tenant, name, version)
) WITHOUT ROWID;
-- The names that are live, and the latest version of each: a list reads one row a name, however many versions it has.
CREATE TABLE names (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    latest INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) WITHOUT ROWID;";

const MODULE: &str = "m.name, m.version, m.digest, m.size_bytes, m.kind, m.imports, m.exports, m.created_at, \
                      m.revision, m.deleted_at, m.settings";

/// Questions to the view.
#[derive(Debug, Clone)]
pub struct Modules {
    readers: Readers,
}

impl Modules {
    pub(crate) const fn new(readers: Readers) -> Self {
        Self { readers }
    }

    /// The latest version of each of the tenant's live names, in the order of the names.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn list(
        &self,
        tenant: &TenantId,
        page: Page<ModuleCursor>,
    ) -> Result<Listed<ModuleRecord, ModuleCursor>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |rows| list(rows, &whose, &page)).await
    }

    /// The latest version of a live name.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn get(&self, tenant: &TenantId, name: &ModuleName) -> Result<Option<ModuleRecord>, QueryError> {
        let (whose, name) = (tenant.clone(), name.clone());
        let sql = format!(
            "SELECT {MODULE} FROM names n JOIN modules m ON m.tenant = n.tenant AND m.name = n.name
             AND m.version = n.latest WHERE n.tenant = ?1 AND n.name = ?2"
        );
        self.readers
            .read_of(tenant, move |rows| {
                let mut found = rows.prepare_cached(&sql)?;
                found.query_row([whose.as_str(), name.as_str()], read_module).optional()
            })
            .await
    }

    /// The versions of a live name, the latest first; without those from before a deletion.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn versions(
        &self,
        tenant: &TenantId,
        name: &ModuleName,
        page: Page<VersionCursor>,
    ) -> Result<Listed<ModuleRecord, VersionCursor>, QueryError> {
        let (whose, name) = (tenant.clone(), name.clone());
        self.readers.read_of(tenant, move |rows| versions(rows, &whose, &name, &page)).await
    }

    /// One version, also when it is deleted: see [`ModuleRecord::deleted_at`].
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn get_version(
        &self,
        tenant: &TenantId,
        name: &ModuleName,
        version: u32,
    ) -> Result<Option<ModuleRecord>, QueryError> {
        let (whose, name) = (tenant.clone(), name.clone());
        let sql = format!("SELECT {MODULE} FROM modules m WHERE tenant = ?1 AND name = ?2 AND version = ?3");
        self.readers
            .read_of(tenant, move |rows| {
                let mut found = rows.prepare_cached(&sql)?;
                found.query_row(params![whose.as_str(), name.as_str(), version], read_module).optional()
            })
            .await
    }
}

fn list(
    rows: &Connection,
    tenant: &TenantId,
    page: &Page<ModuleCursor>,
) -> rusqlite::Result<Listed<ModuleRecord, ModuleCursor>> {
    let after = page.after.as_ref().map_or("", |cursor| cursor.after.as_str());
    let mut found = rows.prepare_cached(&format!(
        "SELECT {MODULE} FROM names n JOIN modules m ON m.tenant = n.tenant AND m.name = n.name
             AND m.version = n.latest WHERE n.tenant = ?1 AND n.name > ?2 ORDER BY n.name LIMIT ?3"
    ))?;
    let modules = found.query_map(params![tenant.as_str(), after, page.rows()], read_module)?;
    Listed::fill(modules, page, ModuleRecord::listed_bytes, |module| ModuleCursor { after: module.name.clone() })
}

fn versions(
    rows: &Connection,
    tenant: &TenantId,
    name: &ModuleName,
    page: &Page<VersionCursor>,
) -> rusqlite::Result<Listed<ModuleRecord, VersionCursor>> {
    let before = page.after.map_or(i64::MAX, |cursor| i64::from(cursor.before));
    let mut found = rows.prepare_cached(&format!(
        "SELECT {MODULE} FROM modules m WHERE tenant = ?1 AND name = ?2 AND version < ?3 AND deleted_at IS NULL
             ORDER BY version DESC LIMIT ?4"
    ))?;
    let modules = found.query_map(params![tenant.as_str(), name.as_str(), before, page.rows()], read_module)?;
    Listed::fill(modules, page, ModuleRecord::listed_bytes, |module| VersionCursor { before: module.version })
}

fn read_module(found: &Row<'_>) -> rusqlite::Result<ModuleRecord> {
    let kind = if found.get_ref(4)?.as_str()? == Kind::Component.as_str() { Kind::Component } else { Kind::Core };
    Ok(ModuleRecord {
        name: row::parsed(found, 0)?,
        version: found.get(1)?,
        digest: Digest::from_bytes(found.get(2)?),
        size_bytes: row::unsigned(found, 3)?,
        kind,
        imports: row::json(found, 5)?,
        exports: row::json(found, 6)?,
        created_at: row::time(found, 7)?,
        revision: Revision::new(row::unsigned(found, 8)?),
        deleted_at: row::optional_time(found, 9)?,
        settings: row::json(found, 10)?,
    })
}

/// A change of the rows. Publishing is rare beside running, so changes are written one by one, in their order.
#[derive(Debug)]
enum Change {
    Published(TenantId, Timestamp, Revision, Arc<Published>),
    Deleted(TenantId, Timestamp, ModuleName),
}

/// The fold of the view.
#[derive(Debug, Default)]
pub(crate) struct ModulesProjection {
    changes: Vec<Change>,
}

impl Projection for ModulesProjection {
    const NAME: &'static str = "modules";
    const VERSION: u32 = 3;
    const SCHEMA: &'static str = SCHEMA;

    fn fold(&mut self, _recorded: &Recorded, events: &[Envelope]) -> Result<(), Fault> {
        for Envelope { tenant, time, revision, event, .. } in events {
            match event {
                Event::ModulePublished(published) => {
                    let published = Arc::new(published.clone());
                    self.changes.push(Change::Published(tenant.clone(), *time, *revision, published));
                }
                Event::ModuleDeleted(deleted) => {
                    self.changes.push(Change::Deleted(tenant.clone(), *time, deleted.name.clone()));
                }
                Event::TenantRegistered(_)
                | Event::TenantRenamed(_)
                | Event::TenantTierChanged(_)
                | Event::TenantSuspended(_)
                | Event::TenantResumed(_)
                | Event::KeyIssued(_)
                | Event::KeyRotated(_)
                | Event::KeyRevoked(_)
                | Event::ModuleRejected(_)
                | Event::ExecutionAccepted(_)
                | Event::ExecutionStarted(_)
                | Event::ExecutionFinished(_)
                | Event::ExecutionLost(_)
                | Event::ExecutionVerified(_)
                | Event::RequestsDenied(_)
                | Event::CommitSkipped(_)
                | Event::PayloadsReleased(_)
                | Event::Unknown(_) => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        self.changes.iter().try_for_each(|change| match change {
            Change::Published(tenant, at, revision, published) => {
                publish(transaction, tenant, *at, *revision, published)
            }
            Change::Deleted(tenant, at, name) => delete(transaction, tenant, *at, name),
        })
    }

    fn committed(&mut self) {
        self.changes.clear();
    }

    fn discard(&mut self) {
        self.changes.clear();
    }
}

fn publish(
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    at: Timestamp,
    revision: Revision,
    published: &Published,
) -> Result<(), Fault> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO modules VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, ?11)")?
        .execute(params![
            tenant.as_str(),
            published.name.as_str(),
            published.version,
            published.digest.as_bytes(),
            row::signed(published.size_bytes),
            published.kind.as_str(),
            serde_json::to_string(&published.imports)?,
            serde_json::to_string(&published.exports)?,
            at.unix_ms(),
            row::signed(revision.get()),
            serde_json::to_string(&published.settings)?,
        ])?;
    transaction.prepare_cached("INSERT OR REPLACE INTO names VALUES (?1, ?2, ?3)")?.execute(params![
        tenant.as_str(),
        published.name.as_str(),
        published.version
    ])?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, tenant: &TenantId, at: Timestamp, name: &ModuleName) -> Result<(), Fault> {
    transaction
        .prepare_cached("UPDATE modules SET deleted_at = ?3 WHERE tenant = ?1 AND name = ?2 AND deleted_at IS NULL")?
        .execute(params![tenant.as_str(), name.as_str(), at.unix_ms()])?;
    transaction
        .prepare_cached("DELETE FROM names WHERE tenant = ?1 AND name = ?2")?
        .execute([tenant.as_str(), name.as_str()])?;
    Ok(())
}

#[cfg(test)]
mod tests;
