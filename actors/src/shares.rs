//! A tenant's share of something that the node has few of: how many turns it has at once, and how many more may wait for one.
//!
//! The node's own line is first come, first served. A tenant waits here first, so that it never has more than its turns in
//! that line, however much it asks for. The compiler is shared so, the places for taking modules in, and the gateway's pages of lists.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmwiz_events::id::TenantId;

/// The shares of all tenants that have something in it now.
pub struct Shares {
    at_once: usize,
    inside_max: usize,
    lines: Mutex<HashMap<TenantId, Line>>,
}

struct Line {
    turns: Arc<Semaphore>,
    /// Those who wait or have a turn. Without any the line is forgotten.
    inside: usize,
}

/// The tenant has as many in its line as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many those are.
    pub limit: usize,
}

impl Shares {
    /// Shares of `at_once` turns each, one at least, for which `waiting_max` more may wait.
    pub fn new(at_once: usize, waiting_max: usize) -> Arc<Self> {
        let at_once = at_once.max(1);
        let inside_max = at_once.saturating_add(waiting_max);
        Arc::new(Self { at_once, inside_max, lines: Mutex::default() })
    }

    /// A place in the tenant's line. One `admitted` is not turned away: how many there are is bounded elsewhere.
    ///
    /// # Errors
    /// [`Full`]; never for one that is `admitted`.
    pub fn enter(self: &Arc<Self>, tenant: &TenantId, admitted: bool) -> Result<Place, Full> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let at_once = self.at_once;
        let line =
            lines.entry(tenant.clone()).or_insert_with(|| Line { turns: Arc::new(Semaphore::new(at_once)), inside: 0 });
        if !admitted && line.inside >= self.inside_max {
            return Err(Full { limit: self.inside_max });
        }
        line.inside += 1;
        Ok(Place { turns: Arc::clone(&line.turns), tenant: tenant.clone(), shares: Arc::clone(self) })
    }

    fn leave(&self, tenant: &TenantId) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(tenant) {
            line.inside = line.inside.saturating_sub(1);
            if line.inside == 0 {
                lines.remove(tenant);
            }
        }
    }
}

/// A place in a tenant's line. Dropped, it is free.
pub struct Place {
    turns: Arc<Semaphore>,
    tenant: TenantId,
    shares: Arc<Shares>,
}

impl Place {
    /// How many places the tenant's line has.
    pub fn limit(&self) -> usize {
        self.shares.inside_max
    }

    /// Waits for one of the tenant's turns, first come, first served. Always one, in the end.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it: always one.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.leave(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    fn shares() -> Arc<Shares> {
        Shares::new(1, 1)
    }

    #[test]
    fn a_tenant_over_its_share_is_turned_away_and_another_is_not() {
        let shares = shares();
        let (first, _second) = (shares.enter(&tenant("acme"), false).unwrap(), shares.enter(&tenant("acme"), false));
        assert_eq!(shares.enter(&tenant("acme"), false).err(), Some(Full { limit: 2 }));
        assert!(shares.enter(&tenant("ajax"), false).is_ok());
        assert!(shares.enter(&tenant("acme"), true).is_ok(), "what is admitted is not turned away");
        drop(first);
        assert!(shares.enter(&tenant("acme"), false).is_ok());
    }

    #[test]
    fn a_tenant_takes_turns_with_itself() {
        let shares = shares();
        let [first, second] = [0, 1].map(|_| shares.enter(&tenant("acme"), false).unwrap());
        let turn = first.turn().now_or_never().flatten().unwrap();
        assert!(second.turn().now_or_never().is_none());
        drop(turn);
        assert!(second.turn().now_or_never().flatten().is_some());
    }

    #[test]
    fn a_line_without_anybody_is_forgotten() {
        let shares = shares();
        drop(shares.enter(&tenant("acme"), false));
        assert!(shares.lines.lock().unwrap().is_empty());
    }
}
