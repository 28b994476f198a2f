//! A tenant that has all that its tier allows: its state still fits into a snapshot.

use wasmwiz_events::{
    digest::Digest,
    envelope::{Cause, Envelope},
    event::Event,
    id::{CommandId, EventId, TenantId},
    idempotency::Idempotency,
    ledger::Head,
    revision::{Position, Revision},
    tenant::Tier,
};

use super::{Tenant, scenario::*};
use crate::{
    aggregate::Authority,
    codec::snapshot::{SNAPSHOT_MAX_BYTES, Snapshot},
    entity::{Places, Rehydrated},
    limits::Policy,
};

/// The longest name of a module, in characters.
const NAME_CHARS: usize = 63;

/// A tenant with as many keys, names, versions and remembered requests as its tier allows.
fn full(tier: Tier, policy: &Policy) -> Tenant {
    let id = TenantId::new("acme").unwrap();
    let mut tenant = Tenant::new(id.clone());
    let mut apply = |event: Event| tenant.apply(&event, even(NOON));
    apply(registered("Acme", tier));
    (0..policy.keys_max).for_each(|n| apply(key_issued(&format!("key{n:029}"))));
    let name = |n: u32| format!("{n:0NAME_CHARS$}");
    let (live, versions) = (policy.modules_max, policy.of(tier).module_versions);
    for n in live..policy.module_names_max {
        apply(published(&name(n)));
        apply(deleted(&name(n)));
    }
    for n in 0..versions {
        apply(published_as(&name(n % live), n / live + 1, &n.to_be_bytes()));
    }
    for n in 0..policy.idempotency_keys_max {
        let (uuid, digest) = (uuid::Uuid::from_u128(n.into()), Digest::of(&n.to_be_bytes()));
        let cause = Cause {
            command: CommandId::new(uuid),
            correlation: None,
            actor: Authority::System.actor(),
            traceparent: None,
            idempotency: Some(Idempotency { key: digest, request: digest }),
        };
        let (event, revision) = (resumed(), Revision::new(n.into()));
        let envelope = Envelope { id: EventId::new(uuid), tenant: id.clone(), revision, time: NOON, cause, event };
        tenant.fold(&envelope, even(NOON).steady);
    }
    tenant
}

#[test]
fn a_tenant_with_all_that_its_tier_allows_can_be_kept() {
    let policy = Policy::default();
    let tiers = [Tier::Free, Tier::Basic, Tier::Pro, Tier::Enterprise];
    let bytes = tiers.map(|tier| (tier, snapshot_bytes(&full(tier, &policy))));
    for (tier, bytes) in bytes {
        assert!(bytes <= SNAPSHOT_MAX_BYTES, "{}: {bytes} bytes", tier.as_str());
        // Without the digests of its versions it is no full tenant.
        let digests = 32 * policy.of(tier).module_versions as usize;
        assert!(bytes > digests, "{}: {bytes} bytes, of which its digests are {digests}", tier.as_str());
    }
}

fn snapshot_bytes(tenant: &Tenant) -> usize {
    let (tenant, head) = (tenant.clone(), Head::genesis(tenant.id()));
    let (position, places, kept) = (Position::START, Places::default(), Revision::NONE);
    Snapshot::of(&Rehydrated { tenant, head, position, places, kept, has_unknown: false }, even(NOON))
        .encode()
        .unwrap()
        .len()
}
