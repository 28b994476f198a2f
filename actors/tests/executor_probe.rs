//! A guest cannot tell two runs of one record apart: what it can find out is the same alone and beside others, whatever ran in its
//! place before.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod guests;

use bytes::Bytes;
use futures_util::future::join_all;
use guests::{MIB, config, job_of, module, run_prepared, wasm};
use tokio_util::sync::CancellationToken;
use wasmwiz_actors::executor::{Asker, CodeId, ExecutorConfig, Executors, Job, MemoryReset, Prepared, Profile, Ran};
use wasmwiz_events::{digest::Digest, execution::Outcome, id::ExecutionId, reproducibility::Reproducibility};

const PROBE: &str = include_str!("../../tests/guests/probe.wat");

/// Those that run beside it.
const NEIGHBOURS: usize = 32;

/// Fuel that it does not use up.
const ENOUGH: u64 = 100_000_000;

/// Writes to all of its memory, for ever.
fn busy() -> String {
    module(
        "(memory (export \"memory\") 40)",
        "(local $at i32)
         (loop $more
           (i64.store (local.get $at) (i64.const -1))
           (local.set $at (i32.rem_u (i32.add (local.get $at) (i32.const 264)) (i32.const 2621432)))
           (br $more))",
    )
}

/// The record: the same in every run but for what no guest sees, its id and its wall time.
fn record(run: u128, profile: Profile) -> Job {
    let mut job = Job {
        execution_id: ExecutionId::new(uuid::Uuid::from_u128(run)),
        args: vec!["one".to_owned(), "zwei".to_owned()],
        stdin: Bytes::from_static(b"an input"),
        fuel: (profile == Profile::Metered).then_some(ENOUGH),
        ..job_of(10_000 + u64::try_from(run).unwrap())
    };
    job.limits.memory_bytes = 4 * MIB;
    job
}

async fn prepare(executors: &Executors, wat: &str, profile: Profile) -> Prepared {
    let wasm = wasm(wat);
    executors.prepare(Asker::Platform, CodeId { digest: Digest::of(&wasm), profile }, wasm).await.unwrap()
}

/// What somebody sees of a run from outside.
fn seen(ran: &Ran) -> (Outcome, Bytes, bool, u64, Option<String>, Reproducibility) {
    let Ran { outcome, stdout, peak_memory_bytes, message, reproducibility, .. } = ran;
    (*outcome, stdout.bytes.clone(), stdout.truncated, *peak_memory_bytes, message.clone(), *reproducibility)
}

/// The probe alone, beside others, and alone again in places that others have used.
async fn runs(memory_reset: MemoryReset, profile: Profile) -> Vec<Ran> {
    let executors = Executors::start(ExecutorConfig { memory_reset, ..config() }).unwrap();
    let probe = prepare(&executors, PROBE, profile).await;
    let busy = prepare(&executors, &busy(), Profile::Plain).await;
    let mut runs = vec![run_prepared(&executors, &probe, record(1, profile)).await];
    for run in 2..4 {
        let cancel = CancellationToken::new();
        // Longer than any machine takes for the probe: they run until they are cancelled.
        let neighbour = || run_prepared(&executors, &busy, Job { cancel: cancel.clone(), ..job_of(120_000) });
        let beside = async {
            let ran = run_prepared(&executors, &probe, record(run, profile)).await;
            cancel.cancel();
            ran
        };
        let (neighbours, beside) = tokio::join!(join_all((0..NEIGHBOURS).map(|_| neighbour())), beside);
        assert!(neighbours.iter().all(|ran| ran.outcome == Outcome::Cancelled), "they ran for as long: {neighbours:?}");
        runs.push(beside);
    }
    let after = (4..4 + NEIGHBOURS as u128).map(|run| run_prepared(&executors, &probe, record(run, profile)));
    runs.extend(join_all(after).await);
    runs
}

#[tokio::test]
async fn what_a_guest_finds_out_is_the_same_alone_and_beside_others_in_fresh_and_in_used_memory() {
    let mut hashes = Vec::new();
    for profile in [Profile::Plain, Profile::Metered] {
        let mut all = runs(MemoryReset::Zero, profile).await;
        all.extend(runs(MemoryReset::Scan, profile).await);
        let first = seen(&all[0]);
        // It trapped, and that it had asked for more than there was is what is said of that.
        assert_eq!((first.0, first.5), (Outcome::OutOfMemory, Reproducibility::VirtualTime), "{:?}", first.4);
        // The hash, and a byte for each call until its stack was used up.
        assert!(first.1.len() > 1_000 && !first.2, "{} bytes", first.1.len());
        for ran in &all {
            assert!(seen(ran) == first, "{profile:?}: {:?} bytes and {:?}", ran.stdout.bytes.len(), first.1.len());
        }
        hashes.push(first.1.slice(..8));
    }
    assert_eq!(hashes[0], hashes[1], "nor can it tell whether it is metered, but for how deep its stack is");
}

#[tokio::test]
async fn what_is_in_the_record_makes_a_difference() {
    let executors = Executors::start(config()).unwrap();
    let probe = prepare(&executors, PROBE, Profile::Plain).await;
    let run = |job| run_prepared(&executors, &probe, job);
    let hash = |ran: Ran| ran.stdout.bytes.slice(..8);
    let record = || record(1, Profile::Plain);
    let of_record = hash(run(record()).await);
    let mut with_less = record();
    with_less.limits.memory_bytes = 4 * MIB - (64 << 10);
    for other in [
        with_less,
        Job { args: vec![], ..record() },
        Job { program: "other".to_owned(), ..record() },
        Job { stdin: Bytes::from_static(b"another"), ..record() },
        Job { seed: wasmwiz_events::execution::Seed::new([8; 16]), ..record() },
        Job { start_time: record().start_time.plus_ms(1), ..record() },
    ] {
        let what = format!("{other:?}");
        assert_ne!(hash(run(other).await), of_record, "the probe does not see {what}");
    }
}
