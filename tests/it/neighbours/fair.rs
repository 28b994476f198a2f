//! Ten tenants that are equally greedy get equally much: of places, memory, processor time and the compiler.
//!
//! How even it is, is Jain's index: R. Jain, D. Chiu, W. Hawe, "A quantitative measure of fairness and discrimination for resource
//! allocation in shared computer systems", 1984. It is 1 when all have the same, and 1/n when one of n has all.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use bytes::Bytes;
use reqwest::RequestBuilder;
use wasmwiz_tests::{
    client::Answer,
    greed::{REST, numbered},
};

use super::*;

/// Tenants.
const TENANTS: usize = 10;

/// The least index where it is measured, and where there are only a few turns.
const MEASURED_MIN: f64 = 0.95;
const BRIEF_MIN: f64 = 0.8;

/// How long a guest has its place or its memory, in milliseconds: many turns within what is measured.
const TURN_MS: u64 = 500;

/// Takes eight mebibytes, and sleeps.
const HOLDS_8_MIB: Guest = Guest {
    name: "holds-8-mib",
    text: r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.eq (memory.grow (i32.const 128)) (i32.const -1)) (then unreachable))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 0x3fffffffffffffff))
    (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#,
};

/// What the tenants want, and how it is counted what they got.
struct Want<R> {
    name: &'static str,
    modules: &'static [Guest],
    /// Requests of each at once.
    at_once: usize,
    request: R,
    /// What an answer says that its tenant got.
    got: fn(&Answer) -> f64,
}

impl<R: Fn(&Client) -> RequestBuilder + Clone + Send + Sync + 'static> Want<R> {
    /// Lets all want it for a while, and compares what they got.
    async fn runs(self, launch: Launch) -> anyhow::Result<()> {
        // Given
        let (size, node) = (Size::of_this_run()?, launch.start().await?);
        let tenants = greedy(&node, TENANTS, self.modules).await?;

        // When
        let enough = Arc::new(AtomicBool::new(false));
        let wanting = tenants.iter().map(|tenant| {
            let mut lanes = JoinSet::new();
            for _ in 0..self.at_once {
                lanes.spawn(lane(tenant.client.clone(), self.request.clone(), self.got, Arc::clone(&enough)));
            }
            lanes
        });
        let wanting: Vec<_> = wanting.collect();
        sleep(size.attacked).await;
        enough.store(true, Ordering::Relaxed);
        let mut shares = Vec::new();
        for lanes in wanting {
            shares.push(lanes.join_all().await.iter().sum::<f64>());
        }

        // Then
        let (index, least) = (jain(&shares), if size.is_measured { MEASURED_MIN } else { BRIEF_MIN });
        eprintln!("| {} | {TENANTS} tenants | Jain's index {index:.3} | {shares:.0?} |", self.name);
        ensure!(index >= least, "{} are shared with an index of {index:.3}, under {least}: {shares:?}", self.name);
        Ok(())
    }
}

/// Sends one request after the other until it is enough, and gives what all of them got.
async fn lane(
    client: Client,
    request: impl Fn(&Client) -> RequestBuilder,
    got: fn(&Answer) -> f64,
    enough: Arc<AtomicBool>,
) -> f64 {
    let mut all = 0.0;
    while !enough.load(Ordering::Relaxed) {
        match send(request(&client)).await {
            Ok(answer) if answer.status.is_success() => all += got(&answer),
            _ => sleep(REST).await,
        }
    }
    all
}

fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    sum * sum / (shares.len() as f64 * squares)
}

/// A number of what an execution used.
fn used(answer: &Answer, name: &str) -> f64 {
    let ended: Value = answer.json().unwrap_or_default();
    ended["usage"][name].as_f64().unwrap_or_default()
}

#[test]
fn the_index_is_one_when_all_have_the_same_and_one_part_when_one_has_all() {
    assert!((jain(&[3.0; 10]) - 1.0).abs() < 1e-9);
    assert!((jain(&[0.0, 0.0, 5.0, 0.0]) - 0.25).abs() < 1e-9);
    assert!(jain(&[0.0; 10]).is_nan());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_shared_evenly() -> anyhow::Result<()> {
    // Twice as many guests are wanted as there are places.
    let launch = launch()?.variable("WASMWIZ_EXECUTOR__GUESTS_MAX", "40");
    let want = Want {
        name: "places",
        modules: &[guests::ENDLESS_SLEEP],
        at_once: 8,
        request: |client: &Client| client.run_for(guests::ENDLESS_SLEEP.name, TURN_MS),
        got: |answer| used(answer, "wall_ms"),
    };
    want.runs(launch).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_shared_evenly() -> anyhow::Result<()> {
    // Twice as much is wanted as there is.
    let want = Want {
        name: "memory",
        modules: &[HOLDS_8_MIB],
        at_once: 6,
        request: |client: &Client| client.run_for(HOLDS_8_MIB.name, TURN_MS),
        got: |answer| used(answer, "peak_memory_bytes") / f64::from(1 << 20) * used(answer, "wall_ms"),
    };
    want.runs(launch()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processor_time_is_shared_evenly() -> anyhow::Result<()> {
    let want = Want {
        name: "processor time",
        modules: &[guests::ENDLESS_LOOP],
        at_once: 2,
        request: |client: &Client| client.run_for(guests::ENDLESS_LOOP.name, TIMEOUT_MS),
        got: |answer| used(answer, "cpu_ms"),
    };
    want.runs(launch()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_compiler_is_shared_evenly() -> anyhow::Result<()> {
    let (echo, number) = (Bytes::from(guests::ECHO.wasm()?), Arc::new(AtomicU32::new(0)));
    let want = Want {
        name: "the compiler",
        modules: &[],
        at_once: 2,
        request: move |client: &Client| {
            let number = number.fetch_add(1, Ordering::Relaxed);
            // Few names, each with many versions: a tenant may have only so many of either.
            client.publication(&format!("module-{}", number % 50), numbered(&echo, number))
        },
        got: |answer| if answer.status.as_u16() == 201 { 1.0 } else { 0.0 },
    };
    want.runs(launch()?).await
}
