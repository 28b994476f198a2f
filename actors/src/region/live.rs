//! Handles of the entities that are in memory.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use ractor::ActorId;
use wasmwiz_events::{id::TenantId, shard::Shard};

use crate::{handle::Handle, metrics};

/// The entities of this node, by tenant.
#[derive(Debug, Default)]
pub(crate) struct Live {
    index: RwLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_tenant: HashMap<TenantId, Handle>,
    /// Supervision names the actor that stopped, not its tenant.
    by_actor: HashMap<ActorId, TenantId>,
}

impl Live {
    pub(super) fn get(&self, tenant: &TenantId) -> Option<Handle> {
        self.read().by_tenant.get(tenant).cloned()
    }

    pub(super) fn insert(&self, tenant: TenantId, handle: Handle) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.by_actor.insert(handle.actor_id(), tenant.clone());
        index.by_tenant.insert(tenant, handle);
        ::metrics::gauge!(metrics::ENTITIES).set(index.by_tenant.len() as f64);
    }

    /// Forgets an entity that has stopped, unless its tenant has a younger one already.
    pub(crate) fn forget(&self, actor: ActorId) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(tenant) = index.by_actor.remove(&actor) else { return };
        if index.by_tenant.get(&tenant).is_some_and(|handle| handle.actor_id() == actor) {
            index.by_tenant.remove(&tenant);
        }
        ::metrics::gauge!(metrics::ENTITIES).set(index.by_tenant.len() as f64);
    }

    pub(super) fn len(&self) -> usize {
        self.read().by_tenant.len()
    }

    /// Commands that wait for all entities, and for the one with the most.
    pub(super) fn waiting(&self) -> (usize, usize) {
        self.read()
            .by_tenant
            .values()
            .map(Handle::waiting)
            .fold((0, 0), |(sum, most), next| (sum + next, most.max(next)))
    }

    pub(super) fn all(&self) -> Vec<Handle> {
        self.read().by_tenant.values().cloned().collect()
    }

    pub(super) fn of(&self, shard: Shard) -> Vec<Handle> {
        self.read().by_tenant.values().filter(|handle| handle.shard() == shard).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}
