//! Membership and placement by seeds: crashes, pauses, cuts, clocks that jump, messages that are lost, late or in another order.
//! Whatever happens, what must never be true is not; and faults in the shell that make it true are found.
//!
//! `WASMWIZ_TESTS_SIMULATION_SEEDS` says how many seeds, and `WASMWIZ_TESTS_SIMULATION_SEED` names the one to go through again.

use anyhow::{Context as _, ensure};
use wasmwiz_tests::simulation::{Found, Planted, Violation, asked_for, campaign, told};

/// How many seeds a planted fault may hide from.
const FOUND_WITHIN: u64 = 10_000;

/// With so many seeds, everything that is simulated has happened.
const MANY: u64 = 1_000;

#[test]
fn whatever_a_seed_has_happen_nobody_decides_beside_an_owner_and_every_shard_gets_one_again() -> anyhow::Result<()> {
    let report = campaign(asked_for()?, Planted::Nothing)?;
    eprintln!("{report:#?}");
    if report.seeds >= MANY {
        // Or it would show nothing: nodes lose leases, and there are three of them on average; shards move; changes of buckets and
        // appends meet those of others.
        let moves = 2 * report.leases > 7 * report.seeds && report.given > 10 * report.seeds;
        let meets = report.conflicts > 0 && report.appends > report.seeds && report.stale > 0;
        ensure!(moves && meets, "too little happens: {report:#?}");
    }
    Ok(())
}

/// What the smallest seed breaks that finds this fault.
fn found(planted: Planted) -> anyhow::Result<Found> {
    let found = campaign(0..FOUND_WITHIN, planted).err().with_context(|| format!("{planted:?} was not found"))?;
    eprintln!("{planted:?} is found by seed {}: {}", found.seed, found.violation);
    Ok(*found)
}

#[test]
fn a_lease_that_is_measured_by_the_wall_clock_is_found() -> anyhow::Result<()> {
    let found = found(Planted::WallClockLease)?;
    ensure!(matches!(found.violation, Violation::TwoOwners { .. } | Violation::NoOwner { .. }), "{found}");
    Ok(())
}

#[test]
fn an_assignment_that_does_not_compare_what_it_replaces_is_found() -> anyhow::Result<()> {
    let found = found(Planted::AssignmentWithoutCompare)?;
    ensure!(!matches!(found.violation, Violation::Circles { .. }), "{found}");
    Ok(())
}

#[test]
fn an_epoch_that_is_not_counted_up_is_found() -> anyhow::Result<()> {
    let found = found(Planted::EpochForgotten)?;
    ensure!(matches!(found.violation, Violation::EpochOfTwo { .. }), "{found}");
    Ok(())
}

#[test]
fn a_log_that_does_not_compare_its_end_is_found() -> anyhow::Result<()> {
    let found = found(Planted::AppendWithoutCompare)?;
    ensure!(matches!(found.violation, Violation::StaleAppend { .. }), "{found}");
    Ok(())
}

#[test]
fn a_seed_goes_the_same_way_every_time_and_another_goes_another() {
    for seed in 0..20 {
        let [first, again, other] = [seed, seed, seed + 20].map(|seed| told(seed, Planted::Nothing));
        assert_eq!(first, again, "seed {seed}");
        assert_ne!(first.1, other.1, "seed {seed}");
    }
}
