//! Executors for tests, and the sources of their guests.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::executor::{Asker, Clocks, ExecutorConfig, Executors, Job, PrepareError, Prepared, Ran};
use wasmwiz_events::{
    digest::Digest,
    execution::{Limits, Seed},
    id::ExecutionId,
    settings::Sleep,
    time::Timestamp,
};

pub(crate) const MIB: u64 = 1 << 20;

/// Small, and quick to start.
pub(crate) fn config() -> ExecutorConfig {
    ExecutorConfig { threads: 2, guests_max: 48, watch_ms: 50, ..ExecutorConfig::default() }
}

pub(crate) fn start() -> Executors {
    Executors::start(config()).unwrap()
}

pub(crate) fn job() -> Job {
    Job {
        execution_id: ExecutionId::new(uuid::Uuid::from_u128(1)),
        program: "guest".into(),
        args: Vec::new(),
        stdin: Bytes::new(),
        limits: Limits {
            wall_ms: 10_000,
            memory_bytes: 64 * MIB,
            stdin_bytes: MIB,
            stdout_bytes: MIB,
            stderr_bytes: MIB,
        },
        seed: Seed::new([7; 16]),
        start_time: Timestamp::from_unix_ms(1_795_953_600_000),
        clocks: Clocks::Virtual,
        sleep: Sleep::Wait,
        fuel: None,
        cancel: CancellationToken::new(),
    }
}

pub(crate) fn job_of(wall_ms: u64) -> Job {
    let mut job = job();
    job.limits.wall_ms = wall_ms;
    job
}

pub(crate) fn wasm(wat: &str) -> Bytes {
    wat::parse_str(wat).unwrap().into()
}

pub(crate) async fn try_prepare(executors: &Executors, wasm: Bytes) -> Result<Prepared, PrepareError> {
    executors.prepare(Asker::Platform, Digest::of(&wasm), wasm).await
}

pub(crate) async fn prepare(executors: &Executors, wat: &str) -> Prepared {
    try_prepare(executors, wasm(wat)).await.unwrap()
}

pub(crate) async fn run_prepared(executors: &Executors, prepared: &Prepared, job: Job) -> Ran {
    let slot = executors.reserve().await.unwrap();
    executors.run(slot, prepared, job).await
}

pub(crate) async fn run(executors: &Executors, wat: &str, job: Job) -> Ran {
    let prepared = prepare(executors, wat).await;
    run_prepared(executors, &prepared, job).await
}

/// Waits until `condition` holds, for at most ten seconds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A command with `body` in `_start`, one page of memory, and the WASI functions most guests use.
pub(crate) fn command(body: &str) -> String {
    module("(memory (export \"memory\") 1)", body)
}

/// The same with other declarations (memory among them) than one page.
pub(crate) fn module(declarations: &str, body: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  {declarations}
  (func $say (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") {body}))"#
    )
}

/// Copies standard input to standard output, 4 KiB at a time.
pub(crate) fn echo() -> String {
    command(
        "(loop $more
           (i32.store (i32.const 0) (i32.const 1024))
           (i32.store (i32.const 4) (i32.const 4096))
           (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (call $exit (i32.const 1))))
           (if (i32.load (i32.const 8))
             (then (call $say (i32.const 1024) (i32.load (i32.const 8))) (br $more))))",
    )
}

/// Runs for ever.
pub(crate) fn spin() -> String {
    command("(loop $again (br $again))")
}
