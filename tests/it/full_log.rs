//! A log that reaches its bound: what may wait is refused, what was accepted ends, and with a larger bound everything goes on.

use std::path::Path;

use anyhow::{Context as _, ensure};
use reqwest::{Method, StatusCode};
use wasmwiz_tests::{
    cli,
    client::{Answer, Client},
    guests,
    harness::{Launch, NodeProcess},
    tenants::{issue, register},
    wait::{self, SOON},
};

/// The bound of the log, in bytes: more than a node's first life takes.
const BOUND: u64 = 8 << 20;

/// What each execution is given, in bytes: it rides with its commit, and so does the same output.
const INPUT: usize = 60_000;

/// The most executions that fit into the bound.
const EXECUTIONS_MAX: u64 = BOUND / INPUT as u64;

async fn start(data: &Path, bound: u64) -> anyhow::Result<NodeProcess> {
    let launch = Launch::dev_on(data)?
        .variable("WASMWIZ_LOG__SQLITE__MAX_BYTES", bound.to_string())
        .variable("WASMWIZ_DISK__WATCH_MS", "20");
    launch.start().await
}

async fn run(client: &Client) -> anyhow::Result<Answer> {
    client.post_bytes("/v1/modules/echo/executions", vec![b'x'; INPUT]).await
}

async fn gauge(node: &NodeProcess, name: &str) -> anyhow::Result<f64> {
    let metrics = node.admin()?.get("/metrics").await?.text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

/// What the node says of its log.
async fn told(client: &Client) -> anyhow::Result<String> {
    let health = client.get("/health").await?.is(200)?;
    Ok(health["checks"]["event_log"]["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_at_its_bound_is_said_ends_nothing_and_is_over_when_it_has_another() -> anyhow::Result<()> {
    // Given a node whose log has a bound, and a guest under way.
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut node = start(&data, BOUND).await?;
    let tenant = register(&node.operator()?, "Writer", "enterprise").await?;
    let client = tenant.client.clone();
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    client.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let path = "/v1/modules/endless-sleep/executions?timeout_ms=120000";
    let waits = client.request(Method::POST, path).header("prefer", "respond-async");
    let open = client.send(waits).await?.is(202)?;
    let open = format!("/v1/executions/{}", open["id"].as_str().context("no id")?);
    wait::until("the guest runs", SOON, async || {
        Ok((gauge(&node, "wasmwiz_executions_running").await? >= 1.0).then_some(()))
    })
    .await?;

    // When executions are run until one is refused, then modules are too, and nothing else is.
    let mut runs = 0;
    let refused = loop {
        let answer = run(&client).await?;
        if answer.status != StatusCode::OK {
            break answer;
        }
        runs += 1;
        ensure!(runs < 2 * EXECUTIONS_MAX, "the bound has no effect");
    };
    refused.refuses(507, "node-storage-full")?;
    client.put_module("another", guests::EXIT7.wasm()?).await?.refuses(507, "node-storage-full")?;
    client.get("/v1/modules/echo").await?.is(200)?;
    let key = issue(&client, "at the bound", &["modules:read"]).await?;
    client.delete(&format!("/v1/keys/{}", key.id)).await?.expect(StatusCode::NO_CONTENT)?;
    node.admin()?.get("/readyz").await?.is(200)?;
    let said = told(&client).await?;
    ensure!(said.contains("the log") && said.contains("nearly full"), "{said}");
    let (used, bound) = (gauge(&node, "wasmwiz_log_used_bytes").await?, gauge(&node, "wasmwiz_log_max_bytes").await?);
    ensure!(used > bound && bound == BOUND as f64, "{used} of {bound} are used");
    ensure!(gauge(&node, "wasmwiz_disk_level").await? == 1.0, "it is another level");

    // What had begun goes on, and its end is recorded.
    client.delete(&open).await?.is(200)?;
    wait::until("the end of the execution", SOON, async || {
        let shown = client.get(&open).await?.is(200)?;
        Ok((shown["outcome"] == "cancelled").then_some(()))
    })
    .await?;

    // When the node is started with the same bound, it is read, and with a larger one everything goes on.
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    drop(node);
    for (bound, status) in [(BOUND, 507), (4 * BOUND, 200)] {
        let mut node = start(&data, bound).await?;
        let client = client.at(&node.ready().url);
        client.get(&open).await?.is(200)?;
        let answered = wait::until("the answer", SOON, async || {
            let answer = run(&client).await?;
            Ok((answer.status.as_u16() == status).then_some(answer))
        });
        answered.await.with_context(|| format!("with a bound of {bound}"))?;
        ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    }
    ensure!(cli::verify(&data).await?.code == Some(0), "the log is not whole");
    Ok(())
}
