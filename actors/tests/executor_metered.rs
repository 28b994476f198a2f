//! Guests that are metered: fuel decides where they end, at the same instruction in every run.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod guests;

use bytes::Bytes;
use guests::{command, config, echo, job, run_prepared, spin, start, wasm};
use wasmwiz_actors::executor::{Asker, CodeId, Executors, Job, Prepared, Profile, Ran};
use wasmwiz_events::{digest::Digest, execution::Outcome, reproducibility::Reproducibility};

async fn prepare(executors: &Executors, wat: &str, profile: Profile) -> Prepared {
    let wasm = wasm(wat);
    let code = CodeId { digest: Digest::of(&wasm), profile };
    executors.prepare(Asker::Platform, code, wasm).await.unwrap()
}

fn given(fuel: u64) -> Job {
    Job { fuel: Some(fuel), stdin: Bytes::from_static(b"some input"), ..job() }
}

async fn metered(executors: &Executors, wat: &str, fuel: u64) -> Ran {
    let prepared = prepare(executors, wat, Profile::Metered).await;
    run_prepared(executors, &prepared, given(fuel)).await
}

#[tokio::test]
async fn a_guest_that_never_ends_is_out_of_fuel_and_anybody_can_run_that_again() {
    let executors = start();
    for fuel in [1, 1_000, 5_000_000] {
        let ran = metered(&executors, &spin(), fuel).await;
        assert_eq!((ran.outcome, ran.exit_code, ran.fuel), (Outcome::OutOfFuel, None, Some(fuel)));
        assert_eq!(ran.reproducibility, Reproducibility::Pure);
        let said = format!("the guest used up the {fuel} units of fuel it was given");
        assert_eq!(ran.message.as_deref(), Some(&*said));
    }
}

#[tokio::test]
async fn what_a_guest_wrote_before_its_fuel_was_used_up_is_kept_and_is_the_same_in_every_run() {
    let executors = start();
    let counts = command(
        "(loop $more
           (i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
           (call $say (i32.const 16) (i32.const 4))
           (br $more))",
    );
    let first = metered(&executors, &counts, 10_000).await;
    assert_eq!(first.outcome, Outcome::OutOfFuel);
    assert!(first.stdout.bytes.len() > 100 && !first.stdout.truncated, "{} bytes", first.stdout.bytes.len());
    for _ in 0..5 {
        let again = metered(&executors, &counts, 10_000).await;
        assert_eq!((again.outcome, &again.stdout, again.fuel), (first.outcome, &first.stdout, first.fuel));
    }
}

#[tokio::test]
async fn a_guest_with_enough_ends_as_without_and_used_what_it_used_whatever_it_was_given() {
    let executors = start();
    let used = metered(&executors, &echo(), 1_000_000).await;
    assert_eq!((used.outcome, &*used.stdout.bytes), (Outcome::Succeeded, &b"some input"[..]));
    let fuel = used.fuel.unwrap();
    assert!((10..1_000).contains(&fuel), "{fuel} for a handful of instructions");
    // To the last unit: one that has used up all is out of fuel, also where it came to its end.
    let enough = metered(&executors, &echo(), fuel + 1).await;
    assert_eq!((enough.outcome, enough.fuel), (Outcome::Succeeded, Some(fuel)));
    let all = metered(&executors, &echo(), fuel).await;
    assert_eq!((all.outcome, all.fuel, all.reproducibility), (Outcome::OutOfFuel, Some(fuel), Reproducibility::Pure));
    let straight = command(&"(drop (i32.add (i32.const 1) (i32.const 2)))".repeat(1_000));
    assert_eq!(metered(&executors, &straight, 500).await.outcome, Outcome::OutOfFuel, "no loop and no call in it");
}

#[tokio::test]
async fn of_a_guest_that_is_stopped_in_the_midst_of_something_nobody_knows_what_it_used() {
    let executors = start();
    let prepared = prepare(&executors, &spin(), Profile::Metered).await;
    let mut late = given(1_000_000_000_000);
    late.limits.wall_ms = 50;
    let late = run_prepared(&executors, &prepared, late).await;
    assert_eq!((late.outcome, late.fuel), (Outcome::DeadlineExceeded, None));
    assert_eq!(late.reproducibility, Reproducibility::Unverifiable);
    let traps = command(
        "(local $n i32) (local.set $n (i32.const 1000))
         (loop $more (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
         (drop (i32.div_u (i32.const 1) (local.get $n)))",
    );
    let trapped = metered(&executors, &traps, 1_000_000).await;
    assert_eq!((trapped.outcome, trapped.fuel), (Outcome::Trapped, None));
    // Waiting costs no fuel.
    let sleeps = command(
        "(i64.store (i32.const 24) (i64.const 30000000)) (i32.store (i32.const 16) (i32.const 1))
         (if (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)) (then (unreachable)))",
    );
    let slept = metered(&executors, &sleeps, 1_000).await;
    assert_eq!(slept.outcome, Outcome::Succeeded, "{slept:?}");
    assert!(slept.fuel.unwrap() < 100, "{slept:?}");
}

#[tokio::test]
async fn what_is_counted_is_the_same_when_a_guest_is_interrupted_and_when_others_run() {
    let executors = start();
    // Some hundred milliseconds, which is many turns.
    let works = command(
        "(local $n i32) (local.set $n (i32.const 20000000))
         (loop $more (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))",
    );
    let prepared = prepare(&executors, &works, Profile::Metered).await;
    let all = (0..6).map(|_| run_prepared(&executors, &prepared, given(1_000_000_000)));
    let used: Vec<_> =
        futures_util::future::join_all(all).await.into_iter().map(|ran| (ran.outcome, ran.fuel)).collect();
    assert!(used[0].1.unwrap() > 40_000_000, "{used:?}");
    assert!(used.iter().all(|each| *each == used[0]), "{used:?}");
}

#[tokio::test]
async fn a_guest_that_was_denied_memory_and_then_uses_up_its_fuel_is_out_of_fuel() {
    let executors = start();
    let wants = command("(drop (memory.grow (i32.const 60000))) (loop $again (br $again))");
    let ran = metered(&executors, &wants, 10_000).await;
    assert_eq!((ran.outcome, ran.fuel), (Outcome::OutOfFuel, Some(10_000)));
}

#[tokio::test]
async fn what_is_prepared_for_one_profile_does_not_run_in_the_other() {
    let executors = start();
    for (profile, fuel) in [(Profile::Plain, Some(1_000)), (Profile::Metered, None)] {
        let prepared = prepare(&executors, &echo(), profile).await;
        let ran = run_prepared(&executors, &prepared, Job { fuel, ..given(1) }).await;
        assert_eq!((ran.outcome, ran.fuel), (Outcome::Failed, None));
        assert_eq!(ran.reproducibility, Reproducibility::Unverifiable);
    }
}

#[tokio::test]
async fn the_two_profiles_of_a_module_are_kept_apart_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let artefacts_dir = Some(folder.path().join("artefacts"));
    let begin = || {
        let mut config = config();
        config.artefacts_dir.clone_from(&artefacts_dir);
        Executors::start(config).unwrap()
    };
    let executors = begin();
    assert_ne!(executors.fingerprint(Profile::Plain), executors.fingerprint(Profile::Metered));
    let plain = prepare(&executors, &echo(), Profile::Plain).await;
    let code = CodeId { profile: Profile::Metered, ..plain.id() };
    assert!(executors.prepared(code).await.is_none(), "only the plain one is compiled");
    prepare(&executors, &echo(), Profile::Metered).await;
    let ran = run_prepared(&executors, &plain, Job { fuel: None, ..given(1) }).await;
    assert_eq!((ran.outcome, ran.fuel), (Outcome::Succeeded, None));

    // Whoever starts again finds both.
    drop(executors);
    let executors = begin();
    for profile in [Profile::Plain, Profile::Metered] {
        let kept = executors.prepared(CodeId { profile, ..code }).await.unwrap();
        assert_eq!(kept.id().profile, profile);
    }
    let kept = executors.prepared(code).await.unwrap();
    assert_eq!(run_prepared(&executors, &kept, given(5)).await.outcome, Outcome::OutOfFuel);
}
