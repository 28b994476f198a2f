//! What a tenant stores is bounded by its tier: it is told so, nothing that was accepted is kept from its end, and all that is stored
//! stays to be read.

use anyhow::{Context as _, ensure};
use reqwest::{
    Method, StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use wasmwiz_tests::{
    cli,
    client::{Answer, Client},
    guests::{self, Guest},
    harness::{Launch, NodeProcess},
    tenants::{Tenant, issue, register},
    wait::{self, SOON},
};

/// The most bytes of each stream of an execution, and of a module. No guest here reads the host's clocks.
const STREAM: u64 = 10_000;
const MODULE: u64 = 100_000;

/// The most that a tenant may store.
const LIMIT: u64 = 200_000;

/// A node whose free tenants may store little, and one of them with the module that echoes.
async fn small() -> anyhow::Result<(NodeProcess, Tenant)> {
    let bounds = [
        ("STORAGE_BYTES", LIMIT),
        ("MODULE_BYTES", MODULE),
        ("STDIN_BYTES", STREAM),
        ("STDOUT_BYTES", STREAM),
        ("STDERR_BYTES", STREAM),
        ("EXECUTIONS_PER_MINUTE", 0),
        ("EXECUTIONS_PER_DAY", 0),
        ("WRITES_PER_MINUTE", 0),
    ];
    let launch = bounds.into_iter().fold(Launch::dev()?, |launch, (name, value)| {
        launch.variable(format!("WASMWIZ_TIERS__FREE__{name}"), value.to_string())
    });
    let node = launch.start().await?;
    let tenant = register(&node.operator()?, "Small", "free").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    Ok((node, tenant))
}

/// A module of more than so many bytes.
fn of_at_least(bytes: u64) -> anyhow::Result<Vec<u8>> {
    let data = "x".repeat(usize::try_from(bytes)?);
    let text =
        format!(r#"(module (memory (export "memory") 2) (data (i32.const 0) "{data}") (func (export "_start")))"#);
    Guest { name: "large", text: text.leak() }.wasm()
}

/// Runs the module that echoes on as much as it may be given.
async fn run(client: &Client) -> anyhow::Result<Answer> {
    client.post_bytes("/v1/modules/echo/executions", vec![b'x'; usize::try_from(STREAM)?]).await
}

async fn upload(client: &Client, wasm: Vec<u8>) -> anyhow::Result<Answer> {
    let form = Form::new().part("wasm", Part::bytes(wasm).file_name("one.wasm"));
    client.send(client.request(Method::POST, "/v1/executions").multipart(form)).await
}

async fn stored(client: &Client) -> anyhow::Result<Value> {
    let usage = client.get("/v1/usage").await?.is(200)?;
    Ok(usage["storage"].clone())
}

#[tokio::test]
async fn a_tenant_that_stores_as_much_as_it_may_is_told_so_and_goes_on_reading() -> anyhow::Result<()> {
    let (mut node, tenant) = small().await?;
    let (client, operator, echo) = (tenant.client.clone(), node.operator()?, guests::ECHO.wasm()?);
    let module_bytes = echo.len() as u64;

    // Each execution stores its input and its output, and has room for all that it may write before it is accepted.
    let mut runs = 0;
    let refused = loop {
        let answer = run(&client).await?;
        if answer.status != StatusCode::OK {
            break answer;
        }
        runs += 1;
        ensure!(runs < 100, "nothing bounds what is stored");
    };
    let problem = refused.refuses(507, "storage-quota-exceeded")?;
    ensure!(refused.header("retry-after").is_none(), "waiting does not help: {refused:?}");
    let payload_bytes = runs * 2 * STREAM;
    let bytes = module_bytes + payload_bytes;
    let fits = |bytes| bytes + 3 * STREAM <= LIMIT;
    ensure!(fits(bytes - 2 * STREAM) && !fits(bytes), "{runs} executions were accepted: {problem}");
    let expected =
        json!({"bytes": bytes, "module_bytes": module_bytes, "payload_bytes": payload_bytes, "limit_bytes": LIMIT});
    let now = stored(&client).await?;
    ensure!(now == expected, "{now}");

    // What comes along is refused before it is kept, as is a module; what stores nothing is not.
    upload(&client, guests::EXIT7.wasm()?).await?.refuses(507, "storage-quota-exceeded")?;
    client.put_module("large", of_at_least(LIMIT - bytes)?).await?.refuses(507, "storage-quota-exceeded")?;
    client.put_module("alias", echo.clone()).await?.is(201)?;
    issue(&client, "another", &["modules:read"]).await?;
    client.get("/v1/modules/echo/versions/1/wasm").await?.expect(StatusCode::OK)?;
    client.delete("/v1/modules/alias").await?.expect(StatusCode::NO_CONTENT)?;
    let now = stored(&client).await?;
    ensure!(now == expected, "{now}");

    // After a restart it is as much, and every figure is the log's.
    node.restart().await?;
    let (client, operator) = (client.at(&node.ready().url), operator.at(&node.ready().url));
    run(&client).await?.refuses(507, "storage-quota-exceeded")?;

    // Another tier, and everything goes on. Uploads are stored once, too.
    let path = format!("/v1/tenants/{}", tenant.id);
    operator.patch_json(&path, &json!({"tier": "enterprise"})).await?.is(200)?;
    for _ in 0..2 {
        upload(&client, guests::EXIT7.wasm()?).await?.is(200)?;
    }
    // The bytes of a version that is live are stored already.
    upload(&client, echo).await?.is(200)?;
    let now = stored(&client).await?;
    let module_bytes = module_bytes + guests::EXIT7.wasm()?.len() as u64;
    ensure!(now["module_bytes"] == module_bytes && now["limit_bytes"].is_null(), "{now}");

    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    let data = node.data().to_string_lossy().into_owned();
    let figures = cli::run(["usage", "recompute", "--check", "--data", &data]).await?;
    ensure!(figures.code == Some(0), "{figures:?}");
    ensure!(cli::verify(&node.data()).await?.code == Some(0), "the log is not whole");
    Ok(())
}

#[tokio::test]
async fn what_was_accepted_ends_however_little_its_tenant_may_store_by_then() -> anyhow::Result<()> {
    let (node, tenant) = small().await?;
    let (client, operator) = (&tenant.client, node.operator()?);
    let path = format!("/v1/tenants/{}", tenant.id);
    operator.patch_json(&path, &json!({"tier": "enterprise"})).await?.is(200)?;
    client.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let waits = client.request(Method::POST, "/v1/modules/endless-sleep/executions").header("prefer", "respond-async");
    let open = client.send(waits).await?.is(202)?;
    let open = format!("/v1/executions/{}", open["id"].as_str().context("no id")?);
    wait::until("the guest runs", SOON, async || {
        let shown = client.get(&open).await?.is(200)?;
        Ok((shown["status"] == "running").then_some(()))
    })
    .await?;

    // With what it may write by its own limits, the tenant is far over those of the smaller tier.
    operator.patch_json(&path, &json!({"tier": "free"})).await?.is(200)?;
    let refused = run(client).await?;
    refused.refuses(507, "storage-quota-exceeded")?;
    ensure!(refused.header("retry-after").is_some(), "it has room once the other has ended: {refused:?}");
    client.delete(&open).await?.is(200)?;
    wait::until("its end", SOON, async || {
        let shown = client.get(&open).await?.is(200)?;
        Ok((shown["outcome"] == "cancelled").then_some(()))
    })
    .await?;
    // Nothing is kept free any more for what it may have written.
    run(client).await?.is(200)?;
    Ok(())
}
