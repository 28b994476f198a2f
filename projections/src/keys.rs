//! Who may come in: tenants and their API keys.
//!
//! The gateway authenticates every request against this view, so what can open something is mirrored in memory: tenants,
//! and keys until they are revoked. Their number is bounded by the tenants' limits; that of revoked keys is not, so those are
//! rows alone. The mirror changes only after the transaction of the rows is committed. The view authenticates and
//! authorises reads; entities authorise commands.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    id::{KeyId, TenantId},
    key::Scopes,
    revision::{Position, Revision},
    tenant::Tier,
    time::Timestamp,
};

mod fold;
mod rows;

pub(crate) use fold::KeysProjection;

use crate::{
    page::{Listed, Page},
    quarantine::SetAside,
    readers::{QueryError, Readers},
};

/// May a tenant act?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Active,
    /// Not until it is resumed.
    Suspended {
        /// Why, in the operator's words.
        reason: Option<String>,
    },
}

/// A tenant, as its events say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRecord {
    /// Its id.
    pub id: TenantId,
    /// Its name, for people.
    pub name: String,
    /// Its class of limits.
    pub tier: Tier,
    /// May it act?
    pub standing: Standing,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// The commit that registered it.
    pub registered_position: Position,
    /// Revision of the last event that changed this record.
    pub revision: Revision,
}

/// The hash of a key's secret before its rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousHash {
    /// The hash.
    pub hash: Digest,
    /// Until when the old secret works.
    pub grace_until: Timestamp,
}

/// An API key, as its events say.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id: the public part.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What the tenant calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Hash of its secret.
    pub hash: Digest,
    /// Hash of the secret before the last rotation.
    pub previous: Option<PreviousHash>,
    /// When a secret last ended because another took its place as the one before.
    pub ended_at: Option<Timestamp>,
    /// When it was issued.
    pub created_at: Timestamp,
    /// The event that issued it.
    pub created_revision: Revision,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When an execution was last accepted for it.
    pub last_used_at: Option<Timestamp>,
    /// Revision of the last event that issued, rotated or revoked it.
    pub revision: Revision,
}

impl KeyRecord {
    /// Does it work at `now`: neither revoked nor expired?
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// The hashes that a secret may have at `now`: the current one, and the one before while its grace lasts.
    pub fn hashes_at(&self, now: Timestamp) -> impl Iterator<Item = &Digest> {
        let previous = self.previous.as_ref().filter(|previous| now < previous.grace_until);
        std::iter::once(&self.hash).chain(previous.map(|previous| &previous.hash))
    }

    /// From when on a token must have been given to count at `now`: from when a secret ended last. Without this a token that
    /// somebody got for a secret would outlive it, or come back with the grace of a later one.
    pub fn tokens_count_from(&self, now: Timestamp) -> Option<Timestamp> {
        let previous = self.previous.map(|previous| previous.grace_until).filter(|grace_until| *grace_until <= now);
        self.ended_at.max(previous)
    }
}

impl fmt::Debug for KeyRecord {
    /// Shows whose key it is, not its hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord").field("id", &self.id).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// A key that the log issues under an id that another key has or had. It opens nothing: the earlier one stays what it is.
/// No node writes such an event; a log of before they looked may hold one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefusedKey {
    /// The id.
    pub id: KeyId,
    /// The tenant to which it was issued in vain.
    pub tenant: TenantId,
    /// The event of that tenant's stream that issued it.
    pub revision: Revision,
}

/// Where a list of keys goes on: keys issued before this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCursor {
    /// The event that issued the last key of the page before.
    pub before: Revision,
}

/// Where a list of tenants goes on: tenants registered before this commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCursor {
    /// The commit that registered the last tenant of the page before.
    pub before: Position,
}

/// What the rows say, in memory. Without revoked keys.
#[derive(Debug, Default)]
pub(crate) struct Directory(RwLock<Mirror>);

#[derive(Debug, Default)]
struct Mirror {
    tenants: HashMap<TenantId, Arc<TenantRecord>>,
    keys: HashMap<KeyId, Arc<KeyRecord>>,
    refused: BTreeMap<(KeyId, TenantId), Revision>,
}

impl Directory {
    fn tenant(&self, id: &TenantId) -> Option<Arc<TenantRecord>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).tenants.get(id).cloned()
    }

    fn key(&self, id: &KeyId) -> Option<Arc<KeyRecord>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys.get(id).cloned()
    }

    fn replace_all(&self, tenants: Vec<TenantRecord>, keys: Vec<KeyRecord>, refused: Vec<RefusedKey>) {
        let mut mirror = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *mirror = Mirror::default();
        mirror.put(tenants.into_iter(), keys.into_iter());
        mirror.refuse(refused.into_iter());
    }

    fn is_refused(&self, tenant: &TenantId, id: &KeyId) -> bool {
        let mirror = self.0.read().unwrap_or_else(PoisonError::into_inner);
        mirror.refused.contains_key(&(id.clone(), tenant.clone()))
    }

    fn refuse(&self, refused: impl Iterator<Item = RefusedKey>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).refuse(refused);
    }

    fn put(&self, tenants: impl Iterator<Item = TenantRecord>, keys: impl Iterator<Item = KeyRecord>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).put(tenants, keys);
    }
}

impl Mirror {
    fn refuse(&mut self, refused: impl Iterator<Item = RefusedKey>) {
        self.refused.extend(refused.map(|RefusedKey { id, tenant, revision }| ((id, tenant), revision)));
    }

    fn put(&mut self, tenants: impl Iterator<Item = TenantRecord>, keys: impl Iterator<Item = KeyRecord>) {
        self.tenants.extend(tenants.map(|tenant| (tenant.id.clone(), Arc::new(tenant))));
        for key in keys {
            if key.revoked_at.is_some() {
                self.keys.remove(&key.id);
            } else {
                self.keys.insert(key.id.clone(), Arc::new(key));
            }
        }
    }
}

/// Questions to the view.
#[derive(Debug, Clone)]
pub struct Keys {
    directory: Arc<Directory>,
    readers: Readers,
}

impl Keys {
    pub(crate) const fn new(directory: Arc<Directory>, readers: Readers) -> Self {
        Self { directory, readers }
    }

    /// The tenant's stream, if this view has set it aside: then what it says of the tenant and its keys is not true any more,
    /// and nobody may come in for it.
    pub fn set_aside(&self, tenant: &TenantId) -> Option<SetAside> {
        self.readers.quarantine().of(tenant)
    }

    /// The stream that issued a key after it was set aside: whether the key opens anything is not known.
    pub fn set_aside_with(&self, id: &KeyId) -> Option<SetAside> {
        self.readers.quarantine().of_key(id)
    }

    /// Has an operator skipped this commit of the tenant's, as far as this view has folded the log?
    pub fn has_skipped(&self, tenant: &TenantId, position: Position) -> bool {
        self.readers.quarantine().has_skipped(tenant, position)
    }

    /// The key with this id, of whatever tenant, for authentication: the caller names the tenant by the key. In memory, and
    /// `None` once it is revoked. Of a tenant whose stream is set aside it is the key as it was: see [`Keys::set_aside`].
    pub fn authenticate_lookup(&self, id: &KeyId) -> Option<Arc<KeyRecord>> {
        self.directory.key(id)
    }

    /// A tenant. In memory. One whose stream is set aside is the tenant as it was: see [`Keys::set_aside`].
    pub fn tenant(&self, id: &TenantId) -> Option<Arc<TenantRecord>> {
        self.directory.tenant(id)
    }

    /// The tenant that has or ever had the key with this id: what a key from outside is held against before it is issued.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn holder(&self, id: &KeyId) -> Result<Option<TenantId>, QueryError> {
        if let Some(aside) = self.set_aside_with(id) {
            self.readers.quarantine().admit(&aside.tenant)?;
        }
        let id = id.clone();
        self.readers.read(move |connection| rows::holder(connection, &id)).await
    }

    /// Keys that the log issues under ids which were taken. In memory: there are as many as somebody's mistakes.
    pub fn refused(&self) -> Vec<RefusedKey> {
        let mirror = self.directory.0.read().unwrap_or_else(PoisonError::into_inner);
        let refused = mirror.refused.iter();
        refused.map(|((id, tenant), at)| RefusedKey { id: id.clone(), tenant: tenant.clone(), revision: *at }).collect()
    }

    /// A key of this tenant: from memory, or from its row when it is revoked.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn get_key(&self, tenant: &TenantId, id: &KeyId) -> Result<Option<Arc<KeyRecord>>, QueryError> {
        self.readers.quarantine().admit(tenant)?;
        if let Some(key) = self.directory.key(id) {
            return Ok(Some(key).filter(|key| key.tenant == *tenant));
        }
        let (whose, id) = (tenant.clone(), id.clone());
        let row = self.readers.read_of(tenant, move |connection| rows::key(connection, &whose, &id)).await?;
        Ok(row.map(Arc::new))
    }

    /// The keys of a tenant, the last issued first; revoked and expired ones among them.
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn list_keys(
        &self,
        tenant: &TenantId,
        page: Page<KeyCursor>,
    ) -> Result<Listed<KeyRecord, KeyCursor>, QueryError> {
        let whose = tenant.clone();
        self.readers.read_of(tenant, move |connection| rows::list_keys(connection, &whose, &page)).await
    }

    /// All tenants, the last registered first. Those whose streams are set aside are as they were: see [`Keys::set_aside`].
    ///
    /// # Errors
    /// [`QueryError`] when the view cannot be read.
    pub async fn list_tenants(
        &self,
        page: Page<TenantCursor>,
    ) -> Result<Listed<TenantRecord, TenantCursor>, QueryError> {
        self.readers.read(move |connection| rows::list_tenants(connection, &page)).await
    }
}

#[cfg(test)]
mod tests;
