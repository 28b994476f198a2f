//! What guests see of time: clocks of their own, which start at the acceptance and move by rule.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod guests;

use std::time::Duration;

use bytes::Bytes;
use guests::{job, job_of, run, start};
use tokio::time::Instant;
use wasmwiz_actors::executor::{Clocks, Job, Ran};
use wasmwiz_events::{
    execution::{Outcome, Seed},
    reproducibility::Reproducibility,
    settings::Sleep,
    time::Timestamp,
    transcript,
};

/// A module with the functions of time, `$write` and one page of memory.
fn guest(body: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $resolution (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $say (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  ;; Sleeps for so long by the monotonic clock.
  (func $sleep (param $ns i64)
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (local.get $ns))
    (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)) (then (unreachable))))
  ;; Says what a clock shows, as eight bytes.
  (func $tell (param $clock i32)
    (if (call $clock (local.get $clock) (i64.const 1) (i32.const 256)) (then (unreachable)))
    (call $say (i32.const 256) (i32.const 8)))
  (func (export "_start") {body}))"#
    )
}

/// The numbers that a guest has written.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

#[tokio::test]
async fn clocks_start_at_the_acceptance_and_move_by_reading_and_sleeping() {
    let source = guest(
        "(call $tell (i32.const 0)) (call $tell (i32.const 1)) (call $sleep (i64.const 5000000))
         (call $tell (i32.const 0)) (call $tell (i32.const 1))",
    );
    let (executors, begun) = (start(), Instant::now());
    let mut job = job();
    job.start_time = Timestamp::from_unix_ms(1_000);
    let ran = run(&executors, &source, job).await;
    assert_eq!(ran.outcome, Outcome::Succeeded, "{ran:?}");
    // Four readings, one look at the clock by the sleep, and the sleep.
    assert_eq!(numbers(&ran.stdout.bytes), [1_000_001_000, 2_000, 1_005_004_000, 5_005_000]);
    assert_eq!(ran.reproducibility, Reproducibility::VirtualTime);
    assert!(begun.elapsed() >= Duration::from_millis(5), "it slept in the host's time, too");
}

#[tokio::test]
async fn a_guest_that_waits_by_reading_the_clock_comes_to_an_end() {
    let source = guest(
        "(loop $more
           (if (call $clock (i32.const 1) (i64.const 1) (i32.const 256)) (then (unreachable)))
           (br_if $more (i64.lt_u (i64.load (i32.const 256)) (i64.const 100000000))))
         (call $say (i32.const 256) (i32.const 8))",
    );
    let ran = run(&start(), &source, job_of(60_000)).await;
    assert_eq!(numbers(&ran.stdout.bytes), [100_000_000], "{ran:?}");
}

#[tokio::test]
async fn clocks_of_the_processor_and_others_are_refused_and_the_resolution_is_a_reading() {
    let source = guest(
        "(if (i32.ne (call $clock (i32.const 2) (i64.const 1) (i32.const 256)) (i32.const 8)) (then (unreachable)))
         (if (i32.ne (call $clock (i32.const 3) (i64.const 1) (i32.const 256)) (i32.const 8)) (then (unreachable)))
         (if (i32.ne (call $clock (i32.const 4) (i64.const 1) (i32.const 256)) (i32.const 28)) (then (unreachable)))
         (if (call $resolution (i32.const 1) (i32.const 256)) (then (unreachable)))
         (call $say (i32.const 256) (i32.const 8))",
    );
    let ran = run(&start(), &source, job()).await;
    assert_eq!(numbers(&ran.stdout.bytes), [1_000], "{ran:?}");
    assert_eq!(ran.reproducibility, Reproducibility::Pure, "none of these is a reading");
    let outside = guest("(drop (call $clock (i32.const 0) (i64.const 1) (i32.const 65530)))");
    let ran = run(&start(), &outside, job()).await;
    assert_eq!(ran.outcome, Outcome::Trapped, "{ran:?}");
    assert!(ran.message.unwrap().contains("outside of its memory"));
}

#[tokio::test]
async fn what_its_end_depended_on_is_what_it_did() {
    let executors = start();
    for (what, body, wall_ms, class) in [
        ("nothing", "", 10_000, Reproducibility::Pure),
        ("a chosen end", "(call $exit (i32.const 3))", 10_000, Reproducibility::Pure),
        ("a trap", "unreachable", 10_000, Reproducibility::Pure),
        ("a reading", "(call $tell (i32.const 0)) unreachable", 10_000, Reproducibility::VirtualTime),
        ("a sleep", "(call $sleep (i64.const 1))", 10_000, Reproducibility::VirtualTime),
        ("the deadline", "(loop $more (br $more))", 50, Reproducibility::Unverifiable),
        ("the deadline asleep", "(call $sleep (i64.const -1))", 50, Reproducibility::Unverifiable),
    ] {
        let ran = run(&executors, &guest(body), job_of(wall_ms)).await;
        assert_eq!(ran.reproducibility, class, "{what}: {ran:?}");
    }
    let cancelled = job();
    cancelled.cancel.cancel();
    let ran = run(&executors, &guest("(loop $more (br $more))"), cancelled).await;
    assert_eq!(ran.reproducibility, Reproducibility::Unverifiable);
}

#[tokio::test]
async fn a_guest_that_the_node_had_too_little_for_is_not_said_to_be_reproducible() {
    let config = wasmwiz_actors::executor::ExecutorConfig { memory_budget_bytes: 2 << 20, ..guests::config() };
    let executors = wasmwiz_actors::executor::Executors::start(config).unwrap();
    // It goes on without, and succeeds: elsewhere it would have had more.
    let grows = guest("(drop (memory.grow (i32.const 100)))");
    let ran = run(&executors, &grows, job()).await;
    assert_eq!((ran.outcome, ran.reproducibility), (Outcome::Succeeded, Reproducibility::Unverifiable));
    // Its own limit is in the record.
    let mut own = job();
    own.limits.memory_bytes = 1 << 20;
    let ran = run(&executors, &grows, own).await;
    assert_eq!((ran.outcome, ran.reproducibility), (Outcome::Succeeded, Reproducibility::Pure));
}

#[tokio::test]
async fn the_same_record_gives_the_same_readings_alone_and_beside_others() {
    let source = guest(
        "(local $n i32)
         (loop $more
           (call $tell (i32.const 0)) (call $sleep (i64.const 300000)) (call $tell (i32.const 1))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 20))))",
    );
    let executors = start();
    let alone = run(&executors, &source, job()).await;
    let beside = (0..32).map(|_| run(&executors, &source, job()));
    for ran in futures_util::future::join_all(beside).await {
        assert_eq!((ran.outcome, &ran.stdout.bytes), (Outcome::Succeeded, &alone.stdout.bytes));
    }
    let mut other = job();
    (other.seed, other.stdin) = (Seed::new([9; 16]), Bytes::from_static(b"other"));
    assert_eq!(
        run(&executors, &source, other).await.stdout.bytes,
        alone.stdout.bytes,
        "time is neither seed nor input"
    );
}

#[tokio::test]
async fn a_sleep_that_is_skipped_ends_at_once_and_moves_the_guests_time_as_one_that_is_waited_for() {
    let tells = |sleep_ns: u64| {
        guest(&format!(
            "(call $tell (i32.const 0)) (call $sleep (i64.const {sleep_ns})) (call $tell (i32.const 0)) (call $tell (i32.const 1))"
        ))
    };
    let (executors, skips) = (start(), || Job { sleep: Sleep::Skip, ..job() });
    let waited = run(&executors, &tells(20_000_000), job()).await;
    let skipped = run(&executors, &tells(20_000_000), skips()).await;
    assert_eq!((skipped.outcome, &skipped.stdout), (Outcome::Succeeded, &waited.stdout));
    assert_eq!(skipped.reproducibility, Reproducibility::VirtualTime);
    // An hour, in less than the ten seconds that it may run.
    let hour = run(&executors, &tells(3_600_000_000_000), skips()).await;
    assert_eq!(hour.outcome, Outcome::Succeeded, "{hour:?}");
    let [before, after, _] = numbers(&hour.stdout.bytes)[..] else { panic!("{hour:?}") };
    assert_eq!(after - before, 3_600_000_000_000 + 2_000, "the sleep, and two looks at the clock");
}

#[tokio::test]
async fn a_guest_that_sleeps_for_ever_ends_in_time_also_where_nobody_waits_for_it() {
    let executors = start();
    let sleeps = guest("(loop $more (call $sleep (i64.const 1000000000)) (br $more))");
    let others = (0..4).map(|_| run(&executors, &sleeps, Job { sleep: Sleep::Skip, ..job_of(200) }));
    for ran in futures_util::future::join_all(others).await {
        assert_eq!((ran.outcome, ran.reproducibility), (Outcome::DeadlineExceeded, Reproducibility::Unverifiable));
    }
    // Nor does it keep its thread from others.
    assert_eq!(run(&executors, &guest(""), job()).await.outcome, Outcome::Succeeded);
}

/// A guest that was told of the host's clocks, told the same again.
fn again(ran: &Ran) -> Job {
    Job { clocks: Clocks::Recorded(ran.transcript.clone()), sleep: Sleep::Skip, ..job() }
}

fn host() -> Job {
    Job { clocks: Clocks::Host, ..job() }
}

#[tokio::test]
async fn what_the_hosts_clocks_said_is_kept_and_said_again_bit_for_bit() {
    let source = guest(
        "(local $n i32)
         (loop $more
           (call $tell (i32.const 0)) (call $sleep (i64.const 5000000)) (call $tell (i32.const 1))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 3))))",
    );
    let executors = start();
    let ran = run(&executors, &source, host()).await;
    assert_eq!((ran.outcome, ran.reproducibility), (Outcome::Succeeded, Reproducibility::Transcript), "{ran:?}");
    // Six readings, and a look at the clock by each sleep.
    assert_eq!(transcript::readings(ran.transcript.len()), 9);
    let told = numbers(&ran.stdout.bytes);
    assert!(told[5] >= 15_000_000, "it has slept: {told:?}");
    assert!(told[0] > 1_577_836_800_000_000_000 && told[4] - told[0] >= 10_000_000, "the host's date: {told:?}");
    for _ in 0..3 {
        let second = run(&executors, &source, again(&ran)).await;
        assert_eq!((second.outcome, &second.stdout), (ran.outcome, &ran.stdout));
        assert_eq!((second.reproducibility, &second.transcript), (ran.reproducibility, &ran.transcript));
    }
    // One that never looks at it depends on nothing.
    let blind = run(&executors, &guest("(call $exit (i32.const 3))"), host()).await;
    assert_eq!((blind.reproducibility, blind.transcript.len()), (Reproducibility::Pure, 0));
}

#[tokio::test]
async fn a_sleep_until_a_time_of_the_hosts_wall_clock_ends_then() {
    // Until 20 ms after now, by the wall clock.
    let source = guest(
        "(if (call $clock (i32.const 0) (i64.const 1) (i32.const 256)) (then (unreachable)))
         (i32.store (i32.const 80) (i32.const 0))
         (i64.store (i32.const 88) (i64.add (i64.load (i32.const 256)) (i64.const 20000000)))
         (i32.store16 (i32.const 104) (i32.const 1))
         (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)) (then (unreachable)))
         (call $say (i32.const 192) (i32.const 4))
         (call $tell (i32.const 1))",
    );
    let executors = start();
    let ran = run(&executors, &source, host()).await;
    assert_eq!(ran.stdout.bytes[..4], [1, 0, 0, 0], "one event: {ran:?}");
    assert!(numbers(&ran.stdout.bytes[4..])[0] >= 20_000_000, "{ran:?}");
    assert_eq!(run(&executors, &source, again(&ran)).await.stdout, ran.stdout);
}

#[tokio::test]
async fn of_more_readings_than_are_kept_none_are_and_the_guest_goes_on() {
    let reads = |times: usize| {
        guest(&format!(
            "(local $n i32)
             (loop $more
               (if (call $clock (i32.const 1) (i64.const 1) (i32.const 256)) (then (unreachable)))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const {times}))))"
        ))
    };
    let (executors, most) = (start(), transcript::MAX_BYTES / transcript::READING_BYTES);
    let full = run(&executors, &reads(most), host()).await;
    assert_eq!((full.outcome, full.reproducibility), (Outcome::Succeeded, Reproducibility::Transcript));
    assert_eq!(full.transcript.len(), transcript::MAX_BYTES);
    let over = run(&executors, &reads(most + 1), host()).await;
    assert_eq!((over.outcome, over.reproducibility), (Outcome::Succeeded, Reproducibility::Unverifiable));
    assert!(over.transcript.is_empty() && over.message.unwrap().contains("more often than is kept"));
    // No more is kept than it may write.
    let mut little = host();
    little.limits.stdout_bytes = 3 * transcript::READING_BYTES as u64;
    assert_eq!(run(&executors, &reads(3), little.clone()).await.reproducibility, Reproducibility::Transcript);
    assert_eq!(run(&executors, &reads(4), little).await.reproducibility, Reproducibility::Unverifiable);
    // A guest that asks for more than its record has is not the one that was recorded.
    let other = run(&executors, &reads(most + 1), again(&full)).await;
    assert_eq!(other.outcome, Outcome::Trapped, "{other:?}");
    assert!(other.asked_for_more && other.message.unwrap().contains("more often than its record has it"));
}

/// Two readings of the clock.
const TWO_READINGS: &str = "(if (call $clock (i32.const 1) (i64.const 1) (i32.const 256)) (then (unreachable)))
     (if (call $clock (i32.const 0) (i64.const 1) (i32.const 256)) (then (unreachable)))";

#[tokio::test]
async fn why_nothing_is_kept_of_readings_is_said_beside_what_else_there_is_to_say() {
    let mut little = host();
    little.limits.stdout_bytes = transcript::READING_BYTES as u64;
    let exits = guest(&format!("{TWO_READINGS} (call $exit (i32.const 3))"));
    let ran = run(&start(), &exits, little).await;
    let message = ran.message.unwrap();
    assert!(message.contains("exited with code 3; ") && message.contains("more often than is kept"), "{message}");
    // There is room for the guest and for nothing beside it.
    let config = wasmwiz_actors::executor::ExecutorConfig { memory_budget_bytes: 64 << 10, ..guests::config() };
    let executors = wasmwiz_actors::executor::Executors::start(config).unwrap();
    let ran = run(&executors, &exits, host()).await;
    let message = ran.message.unwrap();
    assert_eq!((ran.outcome, ran.reproducibility), (Outcome::Exited, Reproducibility::Unverifiable), "{message}");
    assert!(message.contains("exited with code 3; ") && message.contains("held all the memory"), "{message}");
    // Where the host made its end there is a better reason.
    let mut late = host();
    (late.limits.stdout_bytes, late.limits.wall_ms) = (transcript::READING_BYTES as u64, 50);
    let ran = run(&start(), &guest(&format!("{TWO_READINGS} (loop $more (br $more))")), late).await;
    assert_eq!(ran.message.unwrap(), "the guest ran longer than 50 ms");
}

#[tokio::test]
async fn one_that_asks_for_more_than_its_record_has_is_found_out_also_where_its_end_looks_like_another() {
    let executors = start();
    let denied = guest(&format!("(drop (memory.grow (i32.const 2000))) {TWO_READINGS} unreachable"));
    let begins = guest(TWO_READINGS).replacen(
        r#"(func (export "_start")"#,
        r#"(start $begin) (func $begin (export "_start")"#,
        1,
    );
    for (source, looks_like) in [(denied, Outcome::OutOfMemory), (begins, Outcome::Failed)] {
        let ran = run(&executors, &source, host()).await;
        assert_eq!(ran.reproducibility, Reproducibility::Transcript, "{ran:?}");
        assert!(!run(&executors, &source, again(&ran)).await.asked_for_more);
        let cut = Clocks::Recorded(ran.transcript.slice(..transcript::READING_BYTES));
        let second = run(&executors, &source, Job { clocks: cut, ..again(&ran) }).await;
        assert_eq!((second.outcome, second.asked_for_more), (looks_like, true), "{second:?}");
    }
    // One that asks because this node has less for it is no other guest.
    let config = wasmwiz_actors::executor::ExecutorConfig { memory_budget_bytes: 2 << 20, ..guests::config() };
    let small = wasmwiz_actors::executor::Executors::start(config).unwrap();
    let asks = guest(&format!("(if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then {TWO_READINGS}))"));
    let ran = run(&executors, &asks, host()).await;
    assert_eq!(ran.reproducibility, Reproducibility::Pure, "{ran:?}");
    let second = run(&small, &asks, again(&ran)).await;
    assert_eq!((second.outcome, second.asked_for_more), (Outcome::Failed, false), "{second:?}");
}
