//! `Prefer: respond-async` on both doors: accepted, run later, looked at meanwhile.

use anyhow::{Context, ensure};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::Value;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    tenants::{Tenant, register},
    wait,
};

use super::super::Setting;

/// POST to a module with these preferences.
pub(super) async fn prefer(
    client: &Client,
    module: &str,
    query: &str,
    stdin: &str,
    prefer: &str,
) -> anyhow::Result<Answer> {
    let path = format!("/v1/modules/{module}/executions{query}");
    client.send(client.request(Method::POST, &path).header("prefer", prefer).body(stdin.to_owned())).await
}

/// Accepts one, and gives its path.
pub(super) async fn accepted(client: &Client, module: &str, query: &str) -> anyhow::Result<String> {
    let answer = prefer(client, module, query, "", "respond-async").await?;
    answer.is(202)?;
    Ok(answer.header("location").context("no Location")?.to_owned())
}

/// Waits until an execution shows this, and gives it.
pub(super) async fn until(client: &Client, path: &str, member: &str, value: &str) -> anyhow::Result<Value> {
    wait::until(&format!("{member} {value} of {path}"), wait::SOON, async || {
        let shown = client.get(path).await?.is(200)?;
        Ok((shown[member] == value).then_some(shown))
    })
    .await
}

/// A node with these settings, and a tenant with the guests that sleep and echo.
pub(super) async fn node(settings: &str) -> anyhow::Result<(NodeProcess, Tenant)> {
    let listen = "node.data_dir = \"{data}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n";
    let node = Launch::node(&format!("{listen}{settings}"))?.start().await?;
    let tenant = register(&node.operator()?, "Acme", "enterprise").await?;
    for guest in [guests::ENDLESS_SLEEP, guests::ECHO, guests::SPIN] {
        tenant.client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
    }
    Ok((node, tenant))
}

#[tokio::test]
async fn an_execution_is_accepted_and_runs_without_its_caller() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let answer = prefer(client, "echo", "?arg=x", "later", "respond-async").await?;
    let begun = answer.is(202)?;
    ensure!(begun["status"] == "queued" && begun["outcome"].is_null() && begun["finished_at"].is_null(), "{begun}");
    ensure!(begun["module"]["name"] == "echo" && begun["key_id"] == tenant.key.id, "{begun}");
    ensure!(answer.header("preference-applied") == Some("respond-async"), "{answer:?}");
    ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position: {answer:?}");
    let path = answer.header("location").context("no Location")?.to_owned();
    ensure!(path == format!("/v1/executions/{}", begun["id"].as_str().context("no id")?), "{path}");
    // It is shown at once, also to who does not send the position along.
    client.send(client.request(Method::GET, &path)).await?.is(200)?;
    stranger.client.get(&path).await?.refuses(404, "execution-not-found")?;
    let ended = until(client, &path, "status", "finished").await?;
    ensure!(ended["outcome"] == "succeeded" && ended["stdout"] == "later", "{ended}");
    ensure!(client.get(&format!("{path}/stdin")).await?.text() == "later", "another input is recorded");

    let form = Form::new().part("wasm", Part::bytes(guests::ECHO.wasm()?).file_name("m")).text("input", "up");
    let request = client.request(Method::POST, "/v1/executions").header("prefer", "respond-async").multipart(form);
    let answer = client.send(request).await?;
    answer.is(202)?;
    let path = answer.header("location").context("no Location")?.to_owned();
    ensure!(until(client, &path, "status", "finished").await?["stdout"] == "up", "the upload did not run");
    // What would be refused is refused before anything is accepted.
    prefer(client, "nothing", "", "", "respond-async").await?.refuses(404, "module-not-found")?;
    Ok(())
}

#[tokio::test]
async fn whoever_waits_a_while_is_answered_if_it_ends_meanwhile() -> anyhow::Result<()> {
    let (_node, tenant) = node("").await?;
    let client = &tenant.client;
    let answer = prefer(client, "echo", "", "soon", "respond-async, wait=20").await?;
    let ended = answer.is(200)?;
    ensure!(ended["outcome"] == "succeeded" && ended["stdout"] == "soon", "{ended}");
    ensure!(answer.header("preference-applied") == Some("respond-async, wait=20"), "{answer:?}");
    let location = answer.header("location").context("no Location")?;
    ensure!(client.get(location).await?.is(200)? == ended, "it is shown otherwise");
    let answer = prefer(client, "endless-sleep", "", "", "respond-async, wait=1").await?;
    let running = answer.is(202)?;
    ensure!(running["outcome"].is_null(), "{running}");
    // A longer wait than the gateway allows is cut, and a preference that means nothing is none.
    let answer = prefer(client, "echo", "", "", "respond-async, wait=86400").await?;
    ensure!(answer.header("preference-applied") == Some("respond-async, wait=30"), "{answer:?}");
    let answer = prefer(client, "echo", "", "now", "wait=20, return=minimal").await?;
    ensure!(answer.is(200)?["stdout"] == "now" && answer.header("preference-applied").is_none(), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn what_waits_and_runs_is_shown_and_bounded() -> anyhow::Result<()> {
    let settings =
        "[tiers.enterprise]\nexecutions_concurrent = 1\nexecutions_queued = 3\n[region.queue]\nexecutions_max = 4\n";
    let (node, tenant) = node(settings).await?;
    let client = &tenant.client;
    let running = accepted(client, "endless-sleep", "").await?;
    until(client, &running, "status", "running").await?;
    let (second, third) = (accepted(client, "echo", "").await?, accepted(client, "echo", "").await?);
    for path in [&second, &third] {
        ensure!(client.get(path).await?.is(200)?["status"] == "queued", "{path} does not wait");
    }
    let listed = client.get("/v1/executions").await?.is(200)?;
    let statuses: Vec<_> = listed["items"].as_array().into_iter().flatten().map(|item| &item["status"]).collect();
    ensure!(statuses == ["queued", "queued", "running"], "{listed}");
    client.get(&format!("{second}/stdout")).await?.refuses(409, "execution-running")?;
    // The tenant's line is full, and so is what may run.
    prefer(client, "echo", "", "", "respond-async").await?.refuses(429, "too-many-queued")?;
    client.post_bytes("/v1/modules/echo/executions", "").await?.refuses(429, "too-many-concurrent")?;
    // Another tenant has a line of its own, until the node's is full.
    let other = register(&node.operator()?, "Other", "enterprise").await?;
    other.client.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
    let theirs = accepted(&other.client, "endless-sleep", "").await?;
    until(&other.client, &theirs, "status", "running").await?;
    prefer(&other.client, "endless-sleep", "", "", "respond-async").await?.refuses(503, "node-busy")?;
    // Once the one that runs is out of the way, the others have their turn.
    client.delete(&running).await?.is(200)?;
    for path in [&second, &third] {
        ensure!(until(client, path, "status", "finished").await?["outcome"] == "succeeded", "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn what_waits_past_its_deadline_never_runs() -> anyhow::Result<()> {
    let settings = "[tiers.enterprise]\nexecutions_concurrent = 1\n[executor]\nguests_max = 1\n";
    let (_node, tenant) = node(settings).await?;
    let client = &tenant.client;
    let running = accepted(client, "endless-sleep", "").await?;
    until(client, &running, "status", "running").await?;
    let late = accepted(client, "echo", "?timeout_ms=50").await?;
    // Who waits for an answer is told that nothing ran for them.
    let waiting = client.post_bytes("/v1/modules/echo/executions?timeout_ms=100", "").await?;
    waiting.refuses(504, "deadline-passed")?;
    client.delete(&running).await?.is(200)?;
    let ended = until(client, &late, "status", "finished").await?;
    ensure!(ended["outcome"] == "deadline_exceeded" && ended["usage"]["wall_ms"] == 0.0, "{ended}");
    ensure!(ended["message"].as_str().is_some_and(|text| text.contains("turn")), "{ended}");
    Ok(())
}

#[tokio::test]
async fn the_same_request_sent_again_is_accepted_once() -> anyhow::Result<()> {
    let (node, tenant) = node("").await?;
    let client = &tenant.client;
    let send = async |key: &str, module: &str| {
        let path = format!("/v1/modules/{module}/executions");
        let request = client.request(Method::POST, &path).header("prefer", "respond-async");
        client.send(request.header("idempotency-key", key).body("again")).await
    };
    let first = send("sleeper", "endless-sleep").await?;
    let id = first.is(202)?["id"].clone();
    ensure!(first.header("idempotency-replayed").is_none(), "{first:?}");
    let again = send("sleeper", "endless-sleep").await?;
    let shown = again.is(202)?;
    ensure!(shown["id"] == id && shown["outcome"].is_null(), "{shown}");
    ensure!(again.header("idempotency-replayed") == Some("true"), "{again:?}");
    ensure!(again.header("preference-applied") == Some("respond-async"), "{again:?}");
    ensure!(again.header("location") == first.header("location"), "{again:?}");
    send("sleeper", "echo").await?.refuses(422, "idempotency-key-reused")?;
    // Once it has ended, its end is the answer.
    let path = first.header("location").context("no Location")?;
    client.delete(path).await?;
    until(client, path, "status", "finished").await?;
    let ended = send("sleeper", "endless-sleep").await?;
    let shown = ended.is(200)?;
    ensure!(shown["id"] == id && shown["outcome"] == "cancelled", "{shown}");
    ensure!(ended.header("idempotency-replayed") == Some("true"), "{ended:?}");
    History::read(&node.data())?.each_ended_once()
}
