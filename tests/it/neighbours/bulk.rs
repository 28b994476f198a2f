//! Large operations on memory, and calls of the host with millions of buffers: neither gives way within itself.

use super::*;

/// What all guests may have here, in bytes: what runs at once fits into the share of one tenant.
const MEMORY_BYTES: u64 = 1 << 30;

/// Guests at once.
const AT_ONCE: usize = 4;

/// Fills 128 MiB, again and again.
const FILLS: Guest = Guest {
    name: "fills",
    text: r#"(module
  (memory (export "memory") 2048)
  (func (export "_start")
    (loop $again
      (memory.fill (i32.const 0) (i32.const 1) (i32.const 134217728))
      (br $again))))"#,
};

/// Writes four million buffers without a byte in them to standard output, again and again.
const EMPTY_BUFFERS: Guest = Guest {
    name: "empty-buffers",
    text: r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 512)
  (func (export "_start")
    (loop $again
      (drop (call $fd_write (i32.const 1) (i32.const 64) (i32.const 4000000) (i32.const 0)))
      (br $again))))"#,
};

async fn leave_neighbours_alone(name: &'static str, guest: Guest) -> anyhow::Result<()> {
    // Given a tenant with such a guest
    let launch = launch()?.variable("WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES", MEMORY_BYTES.to_string());
    let scenario = Scenario::begin(launch).await?;
    let greedy = greedy(&scenario.node, 1, &[guest]).await?;

    // When it runs some of them at a time, until they are stopped
    let attack = Attack { name, pool_bytes: MEMORY_BYTES, told: "200 deadline_exceeded" };
    let client = &greedy[0].client;
    let endured =
        scenario.endures(attack, async |scenario| scenario.runs_until_stopped(client, guest, AT_ONCE).await).await?;

    // Then
    endured.left_neighbours_alone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_operations_on_memory_leave_neighbours_alone() -> anyhow::Result<()> {
    leave_neighbours_alone("large operations on memory", FILLS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_millions_of_buffers_leave_neighbours_alone() -> anyhow::Result<()> {
    leave_neighbours_alone("calls with millions of buffers", EMPTY_BUFFERS).await
}
