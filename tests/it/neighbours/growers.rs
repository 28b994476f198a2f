//! Guests that take all memory they are given, and sleep.

use wasmwiz_tests::greed::lanes;

use super::*;

/// What all guests may have here, in bytes.
const MEMORY_BYTES: u64 = 512 << 20;

/// Tenants, and guests that each wants at once: more than may wait for memory.
const TENANTS: usize = 2;
const GUESTS: usize = 8;

/// For how long each holds what it has, in milliseconds.
const HOLDS_MS: u64 = 2_000;

/// Grows its memory a mebibyte at a time, writes to all of it, until it is given no more, and then sleeps for ever.
const HOLDS: Guest = Guest {
    name: "holds",
    text: r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $page i32)
    (block $full
      (loop $more
        (local.set $page (memory.grow (i32.const 16)))
        (br_if $full (i32.eq (local.get $page) (i32.const -1)))
        (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 1) (i32.const 1048576))
        (br $more)))
    (loop $again
      (i32.store (i32.const 16) (i32.const 1))
      (i64.store (i32.const 24) (i64.const 0x3fffffffffffffff))
      (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (br $again))))"#,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_grow_and_sleep_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given tenants whose guests may each have more than there is
    let launch = launch()?.variable("WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES", MEMORY_BYTES.to_string());
    let scenario = Scenario::begin(launch).await?;
    let greedy = greedy(&scenario.node, TENANTS, &[HOLDS]).await?;

    // When they run as many as they can
    let attack = Attack { name: "guests that grow and sleep", pool_bytes: MEMORY_BYTES, told: "503 node-busy" };
    let run = |tenant: &Tenant| {
        let client = tenant.client.clone();
        lanes(&scenario.told, GUESTS, move |_| client.run_for(HOLDS.name, HOLDS_MS))
    };
    let endured = scenario.endures(attack, async |_| kept_up(greedy.iter().map(&run).collect()).await).await?;

    // Then
    endured.left_neighbours_alone()
}
