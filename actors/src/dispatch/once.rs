//! Requests that may be sent again and are under way on this node: the same one is not begun a second time.
//!
//! The tenant's entity decides what is done once. But it is asked only when a module is compiled and has its slot; a flood
//! of retries would fill the slots and the compiler meanwhile. This turns them away before.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wasmwiz_events::{digest::Digest, id::TenantId, idempotency::Idempotency};

use super::DispatchError;
use crate::tenant::Refusal;

/// No more entries than there are requests under way.
type Begun = HashMap<(TenantId, Digest), Digest>;

/// The requests under way, by the idempotency keys they came with.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<Begun>>);

impl UnderWay {
    /// Begins a request, unless the same one is under way; it is over when what is given is dropped.
    pub(super) fn begin(&self, tenant: &TenantId, once: &Idempotency) -> Result<Turn, DispatchError> {
        let key = (tenant.clone(), once.key);
        match self.begun().entry(key.clone()) {
            Entry::Occupied(begun) if *begun.get() == once.request => Err(DispatchError::InProgress),
            Entry::Occupied(_) => Err(DispatchError::Ask(Refusal::IdempotencyKeyReused.into())),
            Entry::Vacant(free) => {
                free.insert(once.request);
                Ok(Turn { under_way: self.clone(), key })
            }
        }
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        // What it guards is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request is under way.
#[derive(Debug)]
pub(super) struct Turn {
    under_way: UnderWay,
    key: (TenantId, Digest),
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.begun().remove(&self.key);
    }
}
