//! A disk that becomes full: what may wait is refused, what was accepted ends, and with room everything goes on.

use anyhow::{Context as _, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;
use wasmwiz_tests::{
    client::{Answer, Client, send},
    disk::SmallDisk,
    guests,
    harness::{Launch, NodeProcess},
    tenants::{issue, register},
    wait::{self, SOON},
};

mod filled;

const MIB: u64 = 1 << 20;

/// Size of the disk, in MiB: more than the node's own files and `LOW` take.
const DISK_MIB: u32 = 192;

/// The node's bounds and its reserve, in bytes.
const LOW: u64 = 96 * MIB;
const LEAST: u64 = 48 * MIB;
const RESERVE: u64 = 16 * MIB;

/// How long the guest may run that is under way when the disk becomes full, in milliseconds: longer than the test.
const GUEST_MS: u64 = 120_000;

async fn run(client: &Client) -> anyhow::Result<Answer> {
    client.post_bytes("/v1/modules/echo/executions", "hello").await
}

/// Waits until a request gets this status.
async fn until_answered(
    what: &str,
    status: u16,
    ask: impl AsyncFn() -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let asked = wait::until(what, SOON, async || {
        let answer = ask().await?;
        Ok((answer.status.as_u16() == status).then_some(answer))
    });
    asked.await
}

async fn gauge(node: &NodeProcess, name: &str) -> anyhow::Result<f64> {
    let metrics = node.admin()?.get("/metrics").await?.text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_ends_nothing_and_is_over_when_there_is_room() -> anyhow::Result<()> {
    let Some(disk) = SmallDisk::mounted(DISK_MIB)? else {
        eprintln!("skipped: a file system in memory may not be mounted here");
        return Ok(());
    };
    // Given a node on it with a tenant, a module, two keys, and a guest under way
    let data = disk.path().join("data");
    let mut node = Launch::dev_on(&data)?
        .variable("WASMWIZ_DISK__LOW_BYTES", LOW.to_string())
        .variable("WASMWIZ_DISK__LEAST_BYTES", LEAST.to_string())
        .variable("WASMWIZ_DISK__RESERVE_BYTES", RESERVE.to_string())
        .variable("WASMWIZ_DISK__WATCH_MS", "20")
        .start()
        .await?;
    let operator = node.operator()?;
    let tenant = register(&operator, "Writer", "enterprise").await?;
    let other = register(&operator, "Other", "free").await?;
    let client = tenant.client.clone();
    let echo = guests::ECHO.wasm()?;
    client.put_module("echo", echo.clone()).await?.is(201)?;
    client.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let spare = issue(&client, "spare", &["modules:read"]).await?;
    let key = issue(&client, "another", &["modules:read"]).await?;
    ensure!(gauge(&node, "wasmwiz_disk_level").await? == 0.0);
    let held = || {
        ["reserve", "reserve-for-a-start"].map(|name| std::fs::metadata(data.join(name)).map_or(0, |file| file.len()))
    };
    ensure!(held() == [RESERVE / 2; 2], "{:?}", held());
    let path = format!("/v1/modules/endless-sleep/executions?timeout_ms={GUEST_MS}");
    let waits = client.request(Method::POST, &path).header("prefer", "respond-async");
    let under_way = send(waits).await?.is(202)?;
    let under_way = format!("/v1/executions/{}", under_way["id"].as_str().context("no id")?);
    wait::until("the guest runs", SOON, async || {
        Ok((gauge(&node, "wasmwiz_executions_running").await? >= 1.0).then_some(()))
    })
    .await?;

    // When there is little room, modules and executions are refused, and events are not
    disk.fill_but(LOW - 8 * MIB)?;
    let refused = until_answered("executions are refused", 507, async || run(&client).await).await?;
    refused.refuses(507, "node-storage-full")?;
    ensure!(refused.header("retry-after") == Some("30"), "{refused:?}");
    client.put_module("another", echo.clone()).await?.refuses(507, "node-storage-full")?;
    client.get("/v1/modules/echo").await?.is(200)?;
    issue(&client, "while low", &["modules:read"]).await?;
    node.admin()?.get("/readyz").await?.is(200)?;
    let health = client.get("/health").await?.is(200)?;
    let said = health["checks"]["event_log"]["message"].as_str().unwrap_or_default();
    ensure!(said.contains("nearly full"), "{health}");

    // When there is none but the least, only what ends something is taken
    disk.make_room()?;
    disk.fill_but(LEAST - 8 * MIB)?;
    let new_key = json!({"name": "while full", "scopes": ["modules:read"]});
    let refused =
        until_answered("keys are refused", 507, async || client.post_json("/v1/keys", &new_key).await).await?;
    refused.refuses(507, "node-storage-full")?;
    ensure!(held() == [0, RESERVE / 2], "{:?}", held());
    client.delete(&format!("/v1/keys/{}", key.id)).await?.expect(StatusCode::NO_CONTENT)?;
    for change in ["suspend", "resume"] {
        operator.post_json(&format!("/v1/tenants/{}/{change}", other.id), &json!({"reason": "full"})).await?.is(200)?;
    }
    // What had begun goes on, and its end is recorded
    ensure!(gauge(&node, "wasmwiz_executions_running").await? >= 1.0, "a guest was ended");
    client.delete(&under_way).await?.is(200)?;
    wait::until("the end of the execution", SOON, async || {
        let shown = client.get(&under_way).await?.is(200)?;
        Ok((shown["outcome"] == "cancelled").then_some(()))
    })
    .await?;

    // When the process dies and nothing at all is left, the next one starts and is read
    node.kill9().await?;
    disk.fill_but(0)?;
    node.restart().await?;
    ensure!(held() == [0; 2], "{:?}", held());
    let client = client.at(&node.ready().url);
    client.get("/v1/modules/echo").await?.is(200)?;
    run(&client).await?.refuses(507, "node-storage-full")?;
    client.delete(&format!("/v1/keys/{}", spare.id)).await?.expect(StatusCode::NO_CONTENT)?;

    // When there is room again, everything goes on without a restart
    disk.make_room()?;
    until_answered("executions are run", 200, async || run(&client).await).await?;
    client.put_module("another", echo).await?.is(201)?;
    wait::until("the reserves are held again", SOON, async || Ok((held() == [RESERVE / 2; 2]).then_some(()))).await?;
    ensure!(gauge(&node, "wasmwiz_disk_level").await? == 0.0);
    Ok(())
}
