//! How tenants and keys follow from events.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, Transaction};
use wasmwiz_events::{
    commit::Recorded,
    envelope::Envelope,
    event::Event,
    id::{KeyId, TenantId},
    key, tenant,
};

use super::{Directory, KeyRecord, PreviousHash, Standing, TenantRecord, rows};
use crate::projection::{Fault, Projection};

/// The fold of the view. Its memory between batches is the directory itself.
///
/// A revoked key is final: what the log says of it later changes nothing. So whether it was revoked in this batch, or long
/// ago and is no longer in memory, is the same.
#[derive(Debug, Default)]
pub(crate) struct KeysProjection {
    directory: Arc<Directory>,
    tenants: HashMap<TenantId, TenantRecord>,
    keys: HashMap<KeyId, KeyRecord>,
    /// Keys that changed and are not in memory: their rows must say that they are revoked.
    final_keys: Vec<(TenantId, KeyId)>,
}

impl KeysProjection {
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// The tenant as of this batch, to be changed.
    fn tenant(&mut self, id: &TenantId) -> Result<&mut TenantRecord, Fault> {
        if !self.tenants.contains_key(id)
            && let Some(tenant) = self.directory.tenant(id)
        {
            self.tenants.insert(id.clone(), (*tenant).clone());
        }
        self.tenants.get_mut(id).ok_or_else(|| Fault::Absent(format!("tenant {id}")))
    }

    /// The live key as of this batch, to be changed.
    fn live_key(&mut self, tenant: &TenantId, id: &KeyId) -> Option<&mut KeyRecord> {
        if !self.keys.contains_key(id)
            && let Some(key) = self.directory.key(id)
        {
            self.keys.insert(id.clone(), (*key).clone());
        }
        self.keys.get_mut(id).filter(|key| key.tenant == *tenant && key.revoked_at.is_none())
    }

    fn change_key(&mut self, event: &Envelope, id: &KeyId, change: impl FnOnce(&mut KeyRecord)) {
        match self.live_key(&event.tenant, id) {
            Some(key) => {
                key.revision = event.revision;
                change(key);
            }
            None => self.final_keys.push((event.tenant.clone(), id.clone())),
        }
    }

    fn register(&mut self, recorded: &Recorded, event: &Envelope, registered: &tenant::Registered) {
        self.tenants.insert(
            event.tenant.clone(),
            TenantRecord {
                id: event.tenant.clone(),
                name: registered.name.clone(),
                tier: registered.tier,
                standing: Standing::Active,
                registered_at: event.time,
                registered_position: recorded.position,
                revision: event.revision,
            },
        );
    }

    fn change(&mut self, event: &Envelope, change: impl FnOnce(&mut TenantRecord)) -> Result<(), Fault> {
        let tenant = self.tenant(&event.tenant)?;
        tenant.revision = event.revision;
        change(tenant);
        Ok(())
    }

    fn issue(&mut self, event: &Envelope, issued: &key::Issued) -> Result<(), Fault> {
        let holder = self.keys.get(&issued.key_id).map(|key| key.tenant.clone());
        let holder = holder.or_else(|| self.directory.key(&issued.key_id).map(|key| key.tenant.clone()));
        // Ids are drawn at random; were two alike, the later one must not lock out, or let in, the earlier one's holder.
        if holder.is_some_and(|holder| holder != event.tenant) {
            return Err(Fault::Taken(format!("key {}", issued.key_id)));
        }
        self.keys.insert(
            issued.key_id.clone(),
            KeyRecord {
                id: issued.key_id.clone(),
                tenant: event.tenant.clone(),
                name: issued.name.clone(),
                scopes: issued.scopes,
                hash: issued.hash,
                previous: None,
                ended_at: None,
                created_at: event.time,
                created_revision: event.revision,
                expires_at: issued.expires_at,
                revoked_at: None,
                last_used_at: None,
                revision: event.revision,
            },
        );
        Ok(())
    }

    fn rotate(&mut self, event: &Envelope, rotated: &key::Rotated) {
        self.change_key(event, &rotated.key_id, |key| {
            // One old secret is known at a time: that of a grace which still lasts ends here.
            key.ended_at = key.ended_at.max(key.previous.map(|previous| previous.grace_until.min(event.time)));
            key.previous = Some(PreviousHash { hash: key.hash, grace_until: rotated.grace_until });
            key.hash = rotated.hash;
        });
    }

    fn revoke(&mut self, event: &Envelope, revoked: &key::Revoked) {
        self.change_key(event, &revoked.key_id, |key| key.revoked_at = Some(event.time));
    }
}

impl Projection for KeysProjection {
    const NAME: &'static str = "keys";
    const VERSION: u32 = 2;
    const SCHEMA: &'static str = rows::SCHEMA;

    fn load(&mut self, connection: &Connection) -> Result<(), Fault> {
        self.directory.replace_all(rows::all_tenants(connection)?, rows::live_keys(connection)?);
        Ok(())
    }

    fn fold(&mut self, recorded: &Recorded, events: &[Envelope]) -> Result<(), Fault> {
        for event in events {
            match &event.event {
                Event::TenantRegistered(registered) => self.register(recorded, event, registered),
                Event::TenantRenamed(renamed) => {
                    self.change(event, |tenant| tenant.name.clone_from(&renamed.name))?;
                }
                Event::TenantTierChanged(changed) => self.change(event, |tenant| tenant.tier = changed.tier)?,
                Event::TenantSuspended(suspended) => self.change(event, |tenant| {
                    tenant.standing = Standing::Suspended { reason: suspended.reason.clone() };
                })?,
                Event::TenantResumed(_) => self.change(event, |tenant| tenant.standing = Standing::Active)?,
                Event::KeyIssued(issued) => self.issue(event, issued)?,
                Event::KeyRotated(rotated) => self.rotate(event, rotated),
                Event::KeyRevoked(revoked) => self.revoke(event, revoked),
                Event::ExecutionAccepted(accepted) => {
                    // A token may run modules too; then the id names no key, and nothing was used.
                    if let Some(key) = self.live_key(&event.tenant, &accepted.key_id) {
                        key.last_used_at = Some(event.time);
                    }
                }
                Event::ModulePublished(_)
                | Event::ModuleRejected(_)
                | Event::ModuleDeleted(_)
                | Event::ExecutionStarted(_)
                | Event::ExecutionFinished(_)
                | Event::ExecutionLost(_)
                | Event::RequestsDenied(_)
                | Event::Unknown(_) => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        for tenant in self.tenants.values() {
            rows::write_tenant(transaction, tenant)?;
        }
        for key in self.keys.values() {
            rows::write_key(transaction, key)?;
        }
        for (tenant, id) in &self.final_keys {
            if rows::key(transaction, tenant, id)?.is_none_or(|key| key.revoked_at.is_none()) {
                return Err(Fault::Absent(format!("key {id}")));
            }
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.final_keys.clear();
        if !self.tenants.is_empty() || !self.keys.is_empty() {
            self.directory.put(self.tenants.drain().map(|(_, tenant)| tenant), self.keys.drain().map(|(_, key)| key));
        }
    }

    fn discard(&mut self) {
        self.tenants.clear();
        self.keys.clear();
        self.final_keys.clear();
    }
}
