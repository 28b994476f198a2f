//! How long one guest takes from request to answer, everything of the executors included: 1 KiB in, 1 KiB out.
//!
//! `cargo run --release -p wasmwiz-actors --example raw_loop [runs]`

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::executor::{Asker, Clocks, ExecutorConfig, Executors, Job, Prepared};
use wasmwiz_events::{
    digest::Digest,
    execution::{Limits, Outcome, Seed},
    id::ExecutionId,
};

const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runs: u32 = std::env::args().nth(1).map_or(Ok(100_000), |runs| runs.parse())?;
    for threads in [1, 2] {
        let executors = Executors::start(ExecutorConfig { threads, ..ExecutorConfig::default() })?;
        let wasm = Bytes::from(wat::parse_str(ECHO)?);
        let prepared = executors.prepare(Asker::Platform, Digest::of(&wasm), wasm).await?;
        for concurrency in [1, 16, 64] {
            let started = Instant::now();
            let ends = stream::iter(0..runs).map(|run| one(&executors, &prepared, run)).buffer_unordered(concurrency);
            let (cpu, ended) = ends.fold((0, 0), |(cpu, ended), one| async move { (cpu + one, ended + 1) }).await;
            report(threads, concurrency, started.elapsed(), ended, cpu)?;
        }
    }
    Ok(())
}

async fn one(executors: &Executors, prepared: &Prepared, run: u32) -> u64 {
    let limits = Limits {
        wall_ms: 10_000,
        memory_bytes: 64 << 20,
        stdin_bytes: 1 << 20,
        stdout_bytes: 1 << 20,
        stderr_bytes: 1 << 20,
    };
    let job = Job {
        execution_id: ExecutionId::new(uuid::Uuid::from_u128(run.into())),
        program: "echo".into(),
        args: Vec::new(),
        stdin: Bytes::from_static(&[b'x'; 1024]),
        limits,
        seed: Seed::new([0; 16]),
        start_time: wasmwiz_events::time::Timestamp::from_unix_ms(0),
        clocks: Clocks::Virtual,
        sleep: Default::default(),
        fuel: None,
        cancel: CancellationToken::new(),
    };
    let Ok(slot) = executors.reserve().await else { return 0 };
    let ran = executors.run(slot, prepared, job).await;
    assert!(ran.outcome == Outcome::Succeeded && ran.stdout.bytes.len() == 1024, "{ran:?}");
    ran.cpu.as_micros()
}

fn report(threads: usize, concurrency: usize, took: Duration, ended: u32, cpu_us: u64) -> std::io::Result<()> {
    use std::io::Write;
    let each = took / ended.max(1);
    let cpu_each = Duration::from_micros(cpu_us) / ended.max(1);
    writeln!(
        std::io::stdout(),
        "{threads} threads, {concurrency:>2} at a time: {each:?} a run, {cpu_each:?} CPU in the guest, {:.0} runs/s",
        f64::from(ended) / took.as_secs_f64()
    )
}
