//! Shares of a pool, by example and for any order of taking and giving back.

use proptest::{collection::vec, prelude::*};

use super::*;

const MIB: u64 = 1 << 20;

const BOUNDS: Bounds =
    Bounds { node_bytes: 512 * MIB, tenant_bytes: 128 * MIB, connection_bytes: 96 * MIB, reserved_bytes: 16 * MIB };

fn holder(tenant: u64, connection: u64) -> Holder {
    let tenant = TenantId::new(&format!("t-{tenant}")).unwrap();
    Holder { tenant, connection: Some(ConnectionId(connection)) }
}

/// Takes mebibytes until there are no more, and gives how many there were.
fn all(ledger: &mut Ledger, holder: &Holder, purpose: Purpose) -> (u64, Full) {
    let mut taken = 0;
    loop {
        match ledger.take(holder, purpose, MIB) {
            Ok(()) => taken += 1,
            Err(full) => return (taken, full),
        }
    }
}

#[test]
fn a_tenant_has_its_share_over_several_connections() {
    let mut ledger = Ledger::new(BOUNDS);
    assert_eq!(all(&mut ledger, &holder(1, 1), Purpose::Work), (96, Full::Connection));
    assert_eq!(all(&mut ledger, &holder(1, 2), Purpose::Work), (32, Full::Tenant));
}

#[test]
fn a_connection_that_many_tenants_come_over_has_a_share_of_each() {
    let mut ledger = Ledger::new(BOUNDS);
    assert_eq!(all(&mut ledger, &holder(1, 7), Purpose::Work), (96, Full::Connection));
    assert_eq!(all(&mut ledger, &holder(2, 7), Purpose::Work), (96, Full::Connection));
}

#[test]
fn whoever_comes_after_greedy_tenants_finds_as_much_as_the_last_of_them_took() {
    let mut ledger = Ledger::new(BOUNDS);
    let mut last = u64::MAX;
    for tenant in 0..6 {
        let (taken, full) = all(&mut ledger, &holder(tenant, tenant), Purpose::Work);
        assert!(taken > 0 && taken <= last, "{tenant}: {taken} {full:?}");
        last = taken;
    }
    // 496 MiB without the reserve, 434 of them for the heavy.
    assert_eq!((ledger.used() / MIB, last), (96 + 96 + 96 + 73 + 36 + 18, 18));
}

#[test]
fn a_light_tenant_is_served_beside_any_number_of_greedy_ones() {
    let mut ledger = Ledger::new(BOUNDS);
    for tenant in 0..40 {
        all(&mut ledger, &holder(tenant, tenant), Purpose::Work);
    }
    assert_eq!(ledger.take(&holder(1, 2), Purpose::Work, 1), Err(Full::Node));
    assert_eq!(ledger.take(&holder(100, 1), Purpose::Work, 2 * MIB), Err(Full::Node));
    assert_eq!(ledger.take(&holder(100, 1), Purpose::Work, LIGHT_TENANT_BYTES), Ok(()));
}

#[test]
fn operators_and_control_reach_what_work_does_not() {
    let mut ledger = Ledger::new(BOUNDS);
    for tenant in 0..1_000 {
        all(&mut ledger, &holder(tenant, tenant), Purpose::Work);
    }
    assert_eq!(ledger.used(), BOUNDS.node_bytes - BOUNDS.reserved_bytes);
    assert_eq!(ledger.take(&holder(2_000, 1), Purpose::Work, 1), Err(Full::Node));
    // Also a tenant that has used its share up; and no tenant more than its part.
    assert_eq!(ledger.take(&holder(1, 1), Purpose::Control, CONTROL_TENANT_BYTES), Ok(()));
    assert_eq!(ledger.take(&holder(1, 1), Purpose::Control, 1), Err(Full::Tenant));
    for tenant in 2..1_000 {
        let _taken = ledger.take(&holder(tenant, 1), Purpose::Control, CONTROL_TENANT_BYTES);
    }
    assert_eq!(ledger.take(&holder(2_000, 1), Purpose::Control, MIB / 8), Err(Full::Node));
    assert_eq!(all(&mut ledger, &holder(3_000, 1), Purpose::Operation), (8, Full::Node));
}

#[test]
fn what_can_never_fit_is_told_apart() {
    let mut ledger = Ledger::new(BOUNDS);
    assert_eq!(ledger.take(&holder(1, 1), Purpose::Work, 97 * MIB), Err(Full::Always));
    assert!(ledger.fits(96 * MIB));
    let small = Ledger::new(Bounds { node_bytes: 128 * MIB, ..BOUNDS });
    assert!(small.fits(49 * MIB) && !small.fits(50 * MIB), "half of what is for the heavy");
}

proptest! {
    #[test]
    fn no_sum_ever_exceeds_its_bound_and_nothing_is_left_over(
        steps in vec((0..5_u64, 0..3_u64, 0..3_u8, 1..40 * MIB, any::<bool>()), 1..200),
        reserved_bytes in 0..64 * MIB,
    ) {
        let bounds = Bounds { node_bytes: 128 * MIB, tenant_bytes: 48 * MIB, connection_bytes: 32 * MIB, reserved_bytes };
        let (mut ledger, mut grants) = (Ledger::new(bounds), Vec::new());
        for (tenant, connection, purpose, bytes, gives) in steps {
            let purpose = [Purpose::Work, Purpose::Control, Purpose::Operation][usize::from(purpose)];
            if gives && !grants.is_empty() {
                let (holder, purpose, bytes): (Holder, _, _) = grants.swap_remove(usize::try_from(bytes).unwrap() % grants.len());
                ledger.give_back(&holder, purpose, bytes);
            } else if ledger.take(&holder(tenant, connection), purpose, bytes).is_ok() {
                grants.push((holder(tenant, connection), purpose, bytes));
            }
            let sum = |wanted: &dyn Fn(&Holder, Purpose) -> bool| -> u64 {
                grants.iter().filter(|(holder, purpose, _)| wanted(holder, *purpose)).map(|(_, _, bytes)| bytes).sum()
            };
            prop_assert_eq!(ledger.used(), sum(&|_, _| true));
            prop_assert!(ledger.used() <= bounds.node_bytes);
            prop_assert!(sum(&|_, purpose| purpose == Purpose::Work) <= bounds.node_bytes - reserved_bytes);
            for one in 0..5 {
                let of_tenant = holder(one, 0).tenant;
                let works = |whose: &Holder, purpose| purpose == Purpose::Work && whose.tenant == of_tenant;
                prop_assert!(sum(&works) <= bounds.tenant_bytes);
                prop_assert!(
                    sum(&|whose, purpose| purpose == Purpose::Control && whose.tenant == of_tenant) <= CONTROL_TENANT_BYTES
                        || sum(&|whose, purpose| purpose == Purpose::Operation && whose.tenant == of_tenant) > 0
                );
                for connection in (0..3).map(ConnectionId) {
                    let over = sum(&|whose, purpose| works(whose, purpose) && whose.connection == Some(connection));
                    prop_assert!(over <= bounds.connection_bytes);
                }
            }
        }
        for (holder, purpose, bytes) in grants {
            ledger.give_back(&holder, purpose, bytes);
        }
        prop_assert!(ledger.used() == 0 && ledger.tenants.is_empty());
    }
}
