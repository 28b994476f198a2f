//! Modules that are slow to compile, each with another digest.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use wasmwiz_tests::greed::{lanes, numbered, slow_to_compile};

use super::*;

/// Modules that the greedy tenant uploads at once: one more than may be compiled and wait.
const AT_ONCE: usize = 6;

/// Functions of each: too much to look small.
const FUNCTIONS: usize = 60;

/// CPU time of one compilation, in seconds.
const CPU_SECONDS: &str = "2";

/// CPU time that a tenant has at once, in milliseconds: enough for all that the light one publishes.
const BURST_MS: &str = "3000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_that_are_slow_to_compile_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given a node that refuses to compile for longer than two seconds
    let launch = launch()?
        .variable("WASMWIZ_EXECUTOR__COMPILE__CPU_S", CPU_SECONDS)
        .variable("WASMWIZ_EXECUTOR__COMPILE__CPU_MS_BURST_PER_TENANT", BURST_MS);
    let scenario = Scenario::begin(launch).await?;
    let greedy = greedy(&scenario.node, 1, &[]).await?;
    let (bomb, echo) = (Bytes::from(slow_to_compile(FUNCTIONS)?), guests::ECHO.wasm()?);

    // When one tenant uploads what is slow to compile, and a light one new modules that are not
    let attack = Attack {
        name: "modules that are slow to compile",
        pool_bytes: BODIES_OF_TENANT_BYTES,
        told: "429 too-many-compilations",
    };
    let number = Arc::new(AtomicU32::new(0));
    let upload = || {
        let (client, bomb, number) = (greedy[0].client.clone(), bomb.clone(), Arc::clone(&number));
        lanes(&scenario.told, AT_ONCE, move |lane| {
            client.publication(&format!("bomb-{lane}"), numbered(&bomb, number.fetch_add(1, Ordering::Relaxed)))
        })
    };
    let endured = scenario.endures(attack, async |scenario| {
        let bombs = upload();
        let published = scenario.light_one_publishes(|number| numbered(&echo, number)).await;
        drop(bombs);
        published
    });
    let endured = endured.await?;

    // Then
    endured.left_neighbours_alone()
}
