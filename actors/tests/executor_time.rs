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
use wasmwiz_events::{
    execution::{Outcome, Seed},
    reproducibility::Reproducibility,
    time::Timestamp,
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
