//! Tenants and keys as rows.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use wasmwiz_events::{
    digest::Digest,
    id::{KeyId, TenantId},
    revision::{Position, Revision},
};

use super::{KeyCursor, KeyRecord, PreviousHash, RefusedKey, Standing, TenantCursor, TenantRecord};
use crate::{
    page::{Listed, Page},
    projection::Fault,
    row,
};

pub(super) const SCHEMA: &str = "
CREATE TABLE tenants (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    tier TEXT NOT NULL,
    suspended INTEGER NOT NULL,
    reason TEXT,
    registered_at INTEGER NOT NULL,
    registered_position INTEGER NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX tenants_by_registration ON tenants (registered_position);
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    hash BLOB NOT NULL,
    previous_hash BLOB,
    grace_until INTEGER,
    ended_at INTEGER,
    created_at INTEGER NOT NULL,
    created_revision INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX keys_by_tenant ON keys (tenant, created_revision);
CREATE TABLE refused (
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (id, tenant)
) WITHOUT ROWID;";

const TENANT: &str = "id, name, tier, suspended, reason, registered_at, registered_position, revision";
const KEY: &str = "id, tenant, name, scopes, hash, previous_hash, grace_until, created_at, created_revision, \
                   expires_at, revoked_at, last_used_at, revision, ended_at";

pub(super) fn write_tenant(transaction: &Transaction<'_>, tenant: &TenantRecord) -> Result<(), Fault> {
    let (suspended, reason) = match &tenant.standing {
        Standing::Active => (false, None),
        Standing::Suspended { reason } => (true, reason.as_deref()),
    };
    let sql = format!("INSERT OR REPLACE INTO tenants ({TENANT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    transaction.prepare_cached(&sql)?.execute(params![
        tenant.id.as_str(),
        tenant.name,
        tenant.tier.as_str(),
        suspended,
        reason,
        tenant.registered_at.unix_ms(),
        row::signed(tenant.registered_position.get()),
        row::signed(tenant.revision.get()),
    ])?;
    Ok(())
}

/// Writes a key. One of another tenant under the same id is never replaced, nor one that was revoked: the answer is false,
/// and nothing is written.
pub(super) fn write_key(transaction: &Transaction<'_>, key: &KeyRecord) -> Result<bool, Fault> {
    let sql = format!(
        "INSERT INTO keys ({KEY}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, scopes = excluded.scopes, hash = excluded.hash, \
         previous_hash = excluded.previous_hash, grace_until = excluded.grace_until, created_at = excluded.created_at, \
         created_revision = excluded.created_revision, expires_at = excluded.expires_at, \
         revoked_at = excluded.revoked_at, last_used_at = excluded.last_used_at, revision = excluded.revision, \
         ended_at = excluded.ended_at \
         WHERE keys.tenant = excluded.tenant AND keys.revoked_at IS NULL"
    );
    let written = transaction.prepare_cached(&sql)?.execute(params![
        key.id.as_str(),
        key.tenant.as_str(),
        key.name,
        serde_json::to_string(&key.scopes)?,
        key.hash.as_bytes(),
        key.previous.as_ref().map(|previous| previous.hash.as_bytes()),
        key.previous.map(|previous| previous.grace_until.unix_ms()),
        key.created_at.unix_ms(),
        row::signed(key.created_revision.get()),
        key.expires_at.map(|time| time.unix_ms()),
        key.revoked_at.map(|time| time.unix_ms()),
        key.last_used_at.map(|time| time.unix_ms()),
        row::signed(key.revision.get()),
        key.ended_at.map(|time| time.unix_ms()),
    ])?;
    Ok(written == 1)
}

/// Remembers that a tenant was refused a key, whose id another key has or had.
pub(super) fn write_refused(transaction: &Transaction<'_>, refused: &RefusedKey) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO refused (id, tenant, revision) VALUES (?1, ?2, ?3)";
    let RefusedKey { id, tenant, revision } = refused;
    transaction.prepare_cached(sql)?.execute(params![id.as_str(), tenant.as_str(), row::signed(revision.get())])?;
    Ok(())
}

/// The keys that tenants were refused.
pub(super) fn all_refused(rows: &Connection) -> rusqlite::Result<Vec<RefusedKey>> {
    let mut statement = rows.prepare_cached("SELECT id, tenant, revision FROM refused ORDER BY id, tenant")?;
    let refused = statement.query_map([], |found| {
        let revision = Revision::new(row::unsigned(found, 2)?);
        Ok(RefusedKey { id: row::parsed(found, 0)?, tenant: row::parsed(found, 1)?, revision })
    })?;
    refused.collect()
}

/// The tenant that has or had the key, if there is one.
pub(super) fn holder(rows: &Connection, id: &KeyId) -> rusqlite::Result<Option<TenantId>> {
    let mut statement = rows.prepare_cached("SELECT tenant FROM keys WHERE id = ?1")?;
    statement.query_row(params![id.as_str()], |found| row::parsed(found, 0)).optional()
}

pub(super) fn all_tenants(rows: &Connection) -> rusqlite::Result<Vec<TenantRecord>> {
    rows.prepare(&format!("SELECT {TENANT} FROM tenants"))?.query_map([], read_tenant)?.collect()
}

/// The keys that can still open something.
pub(super) fn live_keys(rows: &Connection) -> rusqlite::Result<Vec<KeyRecord>> {
    rows.prepare(&format!("SELECT {KEY} FROM keys WHERE revoked_at IS NULL"))?.query_map([], read_key)?.collect()
}

/// One key of a tenant.
pub(super) fn key(rows: &Connection, tenant: &TenantId, id: &KeyId) -> rusqlite::Result<Option<KeyRecord>> {
    rows.prepare_cached(&format!("SELECT {KEY} FROM keys WHERE id = ?1 AND tenant = ?2"))?
        .query_row(params![id.as_str(), tenant.as_str()], read_key)
        .optional()
}

pub(super) fn list_tenants(
    rows: &Connection,
    page: &Page<TenantCursor>,
) -> rusqlite::Result<Listed<TenantRecord, TenantCursor>> {
    let before = page.after.map_or(i64::MAX, |cursor| row::signed(cursor.before.get()));
    let tenants = rows
        .prepare_cached(&format!(
            "SELECT {TENANT} FROM tenants WHERE registered_position < ?1 ORDER BY registered_position DESC LIMIT ?2"
        ))?
        .query_map(params![before, page.rows()], read_tenant)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Listed::cut(tenants, page, |tenant| TenantCursor { before: tenant.registered_position }))
}

pub(super) fn list_keys(
    rows: &Connection,
    tenant: &TenantId,
    page: &Page<KeyCursor>,
) -> rusqlite::Result<Listed<KeyRecord, KeyCursor>> {
    let before = page.after.map_or(i64::MAX, |cursor| row::signed(cursor.before.get()));
    let keys = rows
        .prepare_cached(&format!(
            "SELECT {KEY} FROM keys WHERE tenant = ?1 AND created_revision < ?2 ORDER BY created_revision DESC LIMIT ?3"
        ))?
        .query_map(params![tenant.as_str(), before, page.rows()], read_key)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Listed::cut(keys, page, |key| KeyCursor { before: key.created_revision }))
}

fn read_tenant(found: &Row<'_>) -> rusqlite::Result<TenantRecord> {
    let standing = if found.get(3)? { Standing::Suspended { reason: found.get(4)? } } else { Standing::Active };
    Ok(TenantRecord {
        id: row::parsed(found, 0)?,
        name: found.get(1)?,
        tier: row::parsed(found, 2)?,
        standing,
        registered_at: row::time(found, 5)?,
        registered_position: Position::new(row::unsigned(found, 6)?),
        revision: Revision::new(row::unsigned(found, 7)?),
    })
}

fn read_key(found: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let previous = match (found.get::<_, Option<[u8; 32]>>(5)?, row::optional_time(found, 6)?) {
        (Some(hash), Some(grace_until)) => Some(PreviousHash { hash: Digest::from_bytes(hash), grace_until }),
        _ => None,
    };
    Ok(KeyRecord {
        id: row::parsed(found, 0)?,
        tenant: row::parsed(found, 1)?,
        name: found.get(2)?,
        scopes: row::json(found, 3)?,
        hash: Digest::from_bytes(found.get(4)?),
        previous,
        ended_at: row::optional_time(found, 13)?,
        created_at: row::time(found, 7)?,
        created_revision: Revision::new(row::unsigned(found, 8)?),
        expires_at: row::optional_time(found, 9)?,
        revoked_at: row::optional_time(found, 10)?,
        last_used_at: row::optional_time(found, 11)?,
        revision: Revision::new(row::unsigned(found, 12)?),
    })
}
