//! What each tenant stores, counted as its entity counts it: a module when a version of it is published and no live version has the
//! same bytes, one that comes along with an execution where its acceptance says so, and the inputs and outputs of executions. What is
//! released is taken off as its event says.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use wasmwiz_events::{
    digest::Digest,
    execution::{Accepted, Finished},
    id::{ModuleName, TenantId},
    module::Published,
    retention::{Class, Released},
};

use crate::{
    dictionary::{Local, Texts},
    projection::Fault,
    row,
};

/// What a tenant stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Storage {
    /// Bytes of modules.
    pub module_bytes: u64,
    /// Bytes of inputs and outputs of executions, and of what their guests read from the host's clocks.
    pub payload_bytes: u64,
}

impl Storage {
    /// Bytes of everything.
    pub const fn bytes(&self) -> u64 {
        self.module_bytes.saturating_add(self.payload_bytes)
    }

    const fn add(&mut self, more: &Self) {
        self.module_bytes = self.module_bytes.saturating_add(more.module_bytes);
        self.payload_bytes = self.payload_bytes.saturating_add(more.payload_bytes);
    }

    const fn take(&mut self, gone: &Self) {
        self.module_bytes = self.module_bytes.saturating_sub(gone.module_bytes);
        self.payload_bytes = self.payload_bytes.saturating_sub(gone.payload_bytes);
    }

    /// From two columns, the first of them `first`.
    pub(super) fn read(found: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self { module_bytes: row::unsigned(found, first)?, payload_bytes: row::unsigned(found, first + 1)? })
    }
}

/// A change of which versions are live. They are rare beside executions, so they are written one by one, in their order.
#[derive(Debug)]
enum Change {
    Published { name: ModuleName, version: u32, digest: Digest, size_bytes: u64 },
    Deleted(ModuleName),
}

/// What a batch adds.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    sums: HashMap<Local, Storage>,
    changes: Vec<(Local, Change)>,
    /// What is released. Its bytes came before it, in this batch or an earlier one.
    gone: HashMap<Local, Storage>,
}

impl Gathered {
    pub(super) fn published(&mut self, tenant: Local, published: &Published) {
        let Published { name, version, digest, size_bytes, .. } = published;
        let (name, version, digest, size_bytes) = (name.clone(), *version, *digest, *size_bytes);
        self.changes.push((tenant, Change::Published { name, version, digest, size_bytes }));
    }

    pub(super) fn deleted(&mut self, tenant: Local, name: &ModuleName) {
        self.changes.push((tenant, Change::Deleted(name.clone())));
    }

    pub(super) fn accepted(&mut self, tenant: Local, accepted: &Accepted) {
        let more = Storage {
            module_bytes: accepted.uploaded_bytes.unwrap_or_default(),
            payload_bytes: accepted.stdin.size_bytes,
        };
        self.sums.entry(tenant).or_default().add(&more);
    }

    pub(super) fn finished(&mut self, tenant: Local, finished: &Finished) {
        let more = Storage { module_bytes: 0, payload_bytes: finished.stored_bytes() };
        self.sums.entry(tenant).or_default().add(&more);
    }

    pub(super) fn released(&mut self, tenant: Local, released: &Released) {
        let gone = match released.class {
            Class::Modules => Storage { module_bytes: released.bytes, payload_bytes: 0 },
            Class::Inputs | Class::Outputs | Class::Transcripts => {
                Storage { module_bytes: 0, payload_bytes: released.bytes }
            }
        };
        self.gone.entry(tenant).or_default().add(&gone);
    }

    pub(super) fn flush(&self, transaction: &Transaction<'_>, tenants: &Texts) -> Result<(), Fault> {
        for (tenant, sum) in &self.sums {
            add(transaction, tenants.number(*tenant)?, sum)?;
        }
        for (tenant, change) in &self.changes {
            let tenant = tenants.number(*tenant)?;
            match change {
                Change::Published { name, version, digest, size_bytes } => {
                    let is_stored = publish(transaction, tenant, name, *version, *digest)?;
                    let module_bytes = if is_stored { 0 } else { *size_bytes };
                    add(transaction, tenant, &Storage { module_bytes, payload_bytes: 0 })?;
                }
                Change::Deleted(name) => delete(transaction, tenant, name)?,
            }
        }
        for (tenant, gone) in &self.gone {
            take(transaction, tenants.number(*tenant)?, gone)?;
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.sums.clear();
        self.changes.clear();
        self.gone.clear();
    }
}

fn add(transaction: &Transaction<'_>, tenant: i64, more: &Storage) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO storage VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET
                module_bytes = module_bytes + excluded.module_bytes,
                payload_bytes = payload_bytes + excluded.payload_bytes",
        )?
        .execute(params![tenant, row::signed(more.module_bytes), row::signed(more.payload_bytes)])?;
    Ok(())
}

fn take(transaction: &Transaction<'_>, tenant: i64, gone: &Storage) -> rusqlite::Result<()> {
    let mut stored = transaction
        .prepare_cached("SELECT module_bytes, payload_bytes FROM storage WHERE tenant = ?1")?
        .query_row([tenant], |found| Storage::read(found, 0))
        .optional()?
        .unwrap_or_default();
    stored.take(gone);
    transaction.prepare_cached("INSERT OR REPLACE INTO storage VALUES (?1, ?2, ?3)")?.execute(params![
        tenant,
        row::signed(stored.module_bytes),
        row::signed(stored.payload_bytes)
    ])?;
    Ok(())
}

/// Makes a version live, and says whether one was that has the same bytes.
fn publish(
    transaction: &Transaction<'_>,
    tenant: i64,
    name: &ModuleName,
    version: u32,
    digest: Digest,
) -> rusqlite::Result<bool> {
    let is_stored = transaction
        .prepare_cached("SELECT 1 FROM versions WHERE tenant = ?1 AND digest = ?2 LIMIT 1")?
        .exists(params![tenant, digest.as_bytes()])?;
    transaction.prepare_cached("INSERT OR REPLACE INTO versions VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        tenant,
        name.as_str(),
        version,
        digest.as_bytes()
    ])?;
    Ok(is_stored)
}

fn delete(transaction: &Transaction<'_>, tenant: i64, name: &ModuleName) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM versions WHERE tenant = ?1 AND name = ?2")?
        .execute(params![tenant, name.as_str()])?;
    Ok(())
}

/// What a tenant stores; nothing, if nothing is known of it.
pub(super) fn of(rows: &Connection, tenant: &TenantId) -> rusqlite::Result<Storage> {
    let found = rows
        .prepare_cached(
            "SELECT s.module_bytes, s.payload_bytes FROM storage s JOIN tenants t ON t.n = s.tenant WHERE t.label = ?1",
        )?
        .query_row([tenant.as_str()], |found| Storage::read(found, 0))
        .optional()?;
    Ok(found.unwrap_or_default())
}
