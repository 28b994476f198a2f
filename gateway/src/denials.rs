//! Requests that were denied, counted by tenant and reason until they are written down: each a number, never an event.
//!
//! A denial is an answer 403 or 429 to a caller who is known, or that the tenant stores as much as it may: a credential that may not do what it
//! tries, or a tenant over its limits. What is counted is in memory: a node that dies forgets the last minute.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use wasmwiz_actors::{
    aggregate::Authority,
    disk_space::Level,
    handle::{AskError, Origin},
    ids::Ids,
    tenant::{Command, Refusal},
};
use wasmwiz_events::{id::TenantId, requests, time::Timestamp};

use crate::{gateway::Gateway, metrics, problem::Kind};

/// Tenants whose denials are counted at the same time, some hundred bytes each. Those of further ones are only a metric.
const TENANTS_MAX: usize = 10_000;

/// The denials of one tenant since they were last written down.
#[derive(Debug)]
struct Window {
    from: Timestamp,
    /// By the slug of the problem. There are few: each is of the catalogue.
    counts: BTreeMap<&'static str, u64>,
}

/// The denials of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<HashMap<TenantId, Window>>);

impl Denials {
    /// Counts a denial, if the problem is one.
    pub(crate) fn count(&self, tenant: &TenantId, kind: Kind, now: Timestamp) {
        let is_denied = matches!(kind.status(), StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
        if is_denied || kind == Kind::StorageQuotaExceeded {
            self.add(tenant, now, [(kind.slug(), 1)]);
        }
    }

    fn add(&self, tenant: &TenantId, from: Timestamp, counts: impl IntoIterator<Item = (&'static str, u64)>) {
        let mut windows = self.windows();
        if !windows.contains_key(tenant) {
            if windows.len() >= TENANTS_MAX {
                ::metrics::counter!(metrics::DENIALS_UNCOUNTED_TOTAL).increment(1);
                return;
            }
            windows.insert(tenant.clone(), Window { from, counts: BTreeMap::new() });
        }
        let Some(window) = windows.get_mut(tenant) else { return };
        window.from = window.from.min(from);
        for (slug, more) in counts {
            let count = window.counts.entry(slug).or_default();
            *count = count.saturating_add(more);
        }
    }

    fn take_all(&self) -> HashMap<TenantId, Window> {
        std::mem::take(&mut *self.windows())
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<TenantId, Window>> {
        // What it guards is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the tenants write down what was denied, for as long as it is polled.
pub async fn record_denials(gateway: Gateway) {
    loop {
        tokio::time::sleep(Duration::from_millis(gateway.config().denials_every_ms)).await;
        // They are counted on until there is room to write them down.
        if gateway.deps().dispatch.space().level() != Level::Least {
            record_all(&gateway).await;
        }
    }
}

/// One tenant after the other: nobody waits for it. What a tenant does not take is counted on.
async fn record_all(gateway: &Gateway) {
    for (tenant, window) in gateway.denials().take_all() {
        let counts = window.counts.iter().map(|(slug, count)| ((*slug).to_owned(), *count)).collect();
        let denied = requests::Denied { from: window.from, to: gateway.deps().clock.now(), counts };
        let (command, origin) = (Command::RecordDenials(denied), Origin::internal(Ids.command()));
        match gateway.ask(&tenant, command, Authority::System, origin).await {
            Ok(_) => continue,
            Err(AskError::Refused(Refusal::DenialsRecordedLately { .. }) | AskError::Busy { .. }) => {}
            // It may be recorded already: counted on, it would be there twice.
            Err(error) => {
                tracing::warn!(tenant.id = %tenant, %error, "denials are not written down");
                continue;
            }
        }
        gateway.denials().add(&tenant, window.from, window.counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: usize) -> TenantId {
        TenantId::new(&format!("t-{n}")).unwrap()
    }

    #[test]
    fn denials_are_counted_by_reason_and_nothing_else_is() {
        let denials = Denials::default();
        let at = Timestamp::from_unix_ms;
        for (kind, ms) in [
            (Kind::RateLimited, 7),
            (Kind::MissingScope, 5),
            (Kind::RateLimited, 9),
            (Kind::KeyNotFound, 1),
            (Kind::NodeBusy, 1),
            (Kind::NodeStorageFull, 1),
            (Kind::StorageQuotaExceeded, 8),
        ] {
            denials.count(&tenant(1), kind, at(ms));
        }
        let taken = denials.take_all();
        let window = &taken[&tenant(1)];
        let counted = [("missing-scope", 1), ("rate-limited", 2), ("storage-quota-exceeded", 1)];
        assert_eq!(window.counts, BTreeMap::from(counted));
        assert_eq!(window.from, at(5));
        assert!(denials.take_all().is_empty());
    }

    #[test]
    fn what_was_not_taken_is_counted_on() {
        let denials = Denials::default();
        let at = Timestamp::from_unix_ms;
        denials.count(&tenant(1), Kind::RateLimited, at(20));
        denials.add(&tenant(1), at(10), BTreeMap::from([("rate-limited", 4), ("missing-scope", 1)]));
        let taken = denials.take_all();
        assert_eq!(taken[&tenant(1)].counts, BTreeMap::from([("missing-scope", 1), ("rate-limited", 5)]));
        assert_eq!(taken[&tenant(1)].from, at(10));
    }

    #[test]
    fn memory_for_denials_is_bounded() {
        let denials = Denials::default();
        for n in 0..TENANTS_MAX + 5 {
            denials.count(&tenant(n), Kind::RateLimited, Timestamp::default());
        }
        denials.count(&tenant(0), Kind::RateLimited, Timestamp::default());
        let taken = denials.take_all();
        assert_eq!((taken.len(), taken[&tenant(0)].counts["rate-limited"]), (TENANTS_MAX, 2));
    }
}
