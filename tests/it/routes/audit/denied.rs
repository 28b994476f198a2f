//! Denied requests in the history: counted by reason, one event however many there were.

use anyhow::{Context, ensure};
use reqwest::Method;
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::Launch,
    tenants::{OPERATOR_KEY, issue, register},
    wait,
};

/// Denials are looked at ten times a second instead of once a minute.
const NODE: &str = r#"
    node.data_dir = "{data}"
    listen.api = "127.0.0.1:0"
    listen.admin = "127.0.0.1:0"
    gateway.denials_every_ms = 100
"#;

#[tokio::test]
async fn a_flood_of_denials_is_one_event_with_their_number() -> anyhow::Result<()> {
    let config = format!("{NODE}\n    auth.operator_key = \"{OPERATOR_KEY}\"\n");
    let node = Launch::node(&config)?.start().await?;
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let (acme, other) = (register(&operator, "Acme", "free").await?, register(&operator, "Other", "free").await?);
    acme.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let narrow = acme.client.with_credential(&issue(&acme.client, "narrow", &["usage:read"]).await?.secret);
    narrow.get("/v1/keys").await?.refuses(403, "missing-scope")?;
    let denied = "/v1/audit?type=dev.wasmwiz.requests.denied.v1";
    let first = wait::until("the first event", wait::SOON, async || {
        let listed = acme.client.get_json(denied).await?;
        Ok(listed["items"].as_array().context("no items")?.first().cloned())
    })
    .await?;
    ensure!(first["actor"] == "system" && first["subject"] == format!("requests/{}", acme.id), "{first}");
    ensure!(first["data"]["counts"] == serde_json::json!({"missing-scope": 1}), "{first}");
    ensure!(first["data"]["from"].as_str() <= first["data"]["to"].as_str(), "{first}");
    // However many more there are within the minute, they wait for the next event.
    for _ in 0..50 {
        narrow.get("/v1/keys").await?.refuses(403, "missing-scope")?;
    }
    let mut limited = 0;
    while limited < 20 {
        let answer = acme.client.post_bytes("/v1/modules/echo/executions", "").await?;
        limited += usize::from(answer.status == 429);
    }
    let looked = acme.client.request(Method::GET, denied);
    let listed = acme.client.send(looked).await?.is(200)?;
    ensure!(listed["items"].as_array().map(Vec::len) == Some(1), "a flood of events: {listed}");
    // What is absent or malformed is no denial, and another tenant's are its own.
    other.client.get("/v1/keys/AAAAAAAAAAAA").await?.refuses(404, "key-not-found")?;
    let listed = other.client.get_json(denied).await?;
    ensure!(listed["items"].as_array().is_some_and(Vec::is_empty), "{listed}");
    Ok(())
}
