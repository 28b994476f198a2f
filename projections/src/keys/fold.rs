//! How tenants and keys follow from events.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, Transaction};
use wasmwiz_events::{
    commit::Recorded,
    envelope::Envelope,
    event::Event,
    id::{KeyId, TenantId},
    key,
    revision::Revision,
    tenant,
};

use super::{Directory, KeyRecord, PreviousHash, RefusedKey, Standing, TenantRecord, rows};
use crate::projection::{Fault, Projection};

/// The fold of the view. Its memory between batches is the directory itself.
///
/// A revoked key is final: what the log says of it later changes nothing. So whether it was revoked in this batch, or long
/// ago and is no longer in memory, is the same. Likewise an id belongs to the key that had it first: what the log says of a
/// later one is kept as a refused key and changes nothing, so that nobody's mistake locks everybody out.
#[derive(Debug, Default)]
pub(crate) struct KeysProjection {
    directory: Arc<Directory>,
    tenants: HashMap<TenantId, TenantRecord>,
    keys: HashMap<KeyId, KeyRecord>,
    /// Keys that changed and are not in memory: their rows must say that they are revoked.
    final_keys: Vec<(TenantId, KeyId)>,
    /// Keys of this batch whose ids were taken.
    refused: Vec<RefusedKey>,
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

    fn issue(&mut self, event: &Envelope, issued: &key::Issued) {
        let earlier = self.keys.get(&issued.key_id).map(|key| (key.tenant.clone(), key.revoked_at.is_some()));
        let earlier = earlier.or_else(|| self.directory.key(&issued.key_id).map(|key| (key.tenant.clone(), false)));
        // One that was revoked in an earlier batch is a row alone: the flush notices it.
        if earlier.is_some_and(|(holder, revoked)| revoked || holder != event.tenant) {
            return self.refuse(issued.key_id.clone(), event.tenant.clone(), event.revision);
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
    }

    fn refuse(&mut self, id: KeyId, tenant: TenantId, revision: Revision) {
        self.refused.push(RefusedKey { id, tenant, revision });
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
    const VERSION: u32 = 4;
    const SCHEMA: &'static str = rows::SCHEMA;
    const KNOWS_KEYS: bool = true;

    fn load(&mut self, connection: &Connection) -> Result<(), Fault> {
        let (tenants, keys) = (rows::all_tenants(connection)?, rows::live_keys(connection)?);
        let refused = rows::all_refused(connection)?;
        refused.iter().for_each(report);
        self.directory.replace_all(tenants, keys, refused);
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
                Event::KeyIssued(issued) => self.issue(event, issued),
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
        for tenant in self.tenants.values() {
            rows::write_tenant(transaction, tenant)?;
        }
        let mut taken = Vec::new();
        for key in self.keys.values() {
            if !rows::write_key(transaction, key)? {
                taken.push(RefusedKey {
                    id: key.id.clone(),
                    tenant: key.tenant.clone(),
                    revision: key.created_revision,
                });
            }
        }
        for refused in taken {
            self.keys.remove(&refused.id);
            self.refused.push(refused);
        }
        for refused in &self.refused {
            rows::write_refused(transaction, refused)?;
        }
        for (tenant, id) in &self.final_keys {
            let is_refused = self.refused.iter().any(|refused| refused.id == *id && refused.tenant == *tenant)
                || self.directory.is_refused(tenant, id);
            if !is_refused && rows::key(transaction, tenant, id)?.is_none_or(|key| key.revoked_at.is_none()) {
                return Err(Fault::Absent(format!("key {id}")));
            }
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.final_keys.clear();
        self.refused.iter().for_each(report);
        self.directory.refuse(self.refused.drain(..));
        if !self.tenants.is_empty() || !self.keys.is_empty() {
            self.directory.put(self.tenants.drain().map(|(_, tenant)| tenant), self.keys.drain().map(|(_, key)| key));
        }
    }

    fn discard(&mut self) {
        self.tenants.clear();
        self.keys.clear();
        self.final_keys.clear();
        self.refused.clear();
    }
}

/// Says what an operator should know: it is somebody's mistake, or somebody's attempt.
fn report(refused: &RefusedKey) {
    let RefusedKey { id, tenant, revision } = refused;
    tracing::error!(
        key.id = %id, tenant.id = %tenant, %revision,
        "a key was issued under an id that another key has or had; it opens nothing, the earlier one stays what it is"
    );
}
