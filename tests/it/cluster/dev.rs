//! `wasmwiz dev --nodes`: a cluster to try out, in one command.

use std::fs;

use anyhow::{Context as _, ensure};
use wasmwiz_tests::{guests, harness::Launch, python, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_to_try_out_answers_and_stops_its_nodes_in_order() -> anyhow::Result<()> {
    let nats = python::root().join(".tools/bin/nats-server");
    let launch = Launch::dev()?.argument("--nodes").argument("3").argument("--nats-server").argument(nats);
    // The line in which a node says that it has stopped is no warning.
    let mut cluster = launch.variable("WASMWIZ_TELEMETRY__FILTER", "info").start().await?;
    let client = cluster.client()?;
    wait::until("the first node to be ready", wait::SOON, async || {
        let health = client.get("/health").await?;
        Ok((health.status == 200 && health.text().contains("is synced by nats-1, nats-2, nats-3")).then_some(()))
    })
    .await?;
    client.put_module("mine", guests::EXIT7.wasm()?).await?.is(201)?;
    let ran = client.execute("mine", "").await?;
    ensure!(ran.exit_code == Some(7), "{ran:?}");

    let ended = cluster.terminate().await?;
    ensure!(ended.code() == Some(0), "{ended:?}: {}", cluster.stderr());
    ensure!(!cluster.stderr().contains("told again"), "one signal counts as two: {}", cluster.stderr());
    for number in 1..=3 {
        let log = cluster.data().join(format!("node-{number}/node.log"));
        let lines = fs::read_to_string(&log).with_context(|| format!("{} cannot be read", log.display()))?;
        ensure!(lines.contains("the node has stopped"), "node {number} was killed: {lines}");
    }
    Ok(())
}
