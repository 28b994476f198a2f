//! `/v1/usage`: what it cost.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use wasmwiz_tests::guests;

use super::{Setting, asks_for};

/// Adds a number up, wherever it stands in the answer.
fn sum(value: &Value, member: &str) -> f64 {
    match value {
        Value::Object(object) => {
            let here = object.get(member).and_then(Value::as_f64).unwrap_or_default();
            here + object.iter().filter(|(name, _)| *name != member).map(|(_, value)| sum(value, member)).sum::<f64>()
        }
        Value::Array(items) => items.iter().map(|item| sum(item, member)).sum(),
        _ => 0.0,
    }
}

#[tokio::test]
async fn what_a_tenant_used_is_counted_once_and_for_it_alone() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    client.put_module("exit7", guests::EXIT7.wasm()?).await?.is(201)?;
    client.execute("echo", "12345").await?;
    client.execute("echo", "1234567890").await?;
    client.execute("exit7", "").await?;
    for by in ["hour", "day", "key", "module"] {
        let usage = client.get(&format!("/v1/usage?by={by}")).await?.is(200)?;
        for (member, expected) in [("succeeded", 2.0), ("exited", 1.0), ("executions", 3.0), ("stdin_bytes", 15.0)] {
            ensure!((sum(&usage, member) - expected).abs() < 0.5, "by {by}: {member} is not {expected}: {usage}");
        }
    }
    let nothing = stranger.client.get("/v1/usage").await?.is(200)?;
    ensure!(sum(&nothing, "succeeded") < 0.5, "a stranger pays: {nothing}");
    let before = client.get("/v1/usage?to=2001-01-01T00:00:00Z").await?.is(200)?;
    ensure!(sum(&before, "succeeded") < 0.5, "{before}");

    asks_for(client, "usage:read", Method::GET, "/v1/usage").await?;
    let ancient = client.get("/v1/usage?to=0000-01-01T00:00:00Z").await?.is(200)?;
    ensure!(ancient["from"] == ancient["to"], "{ancient}");
    for bad in ["by=moon", "from=x", "to=x", "to=-009999-01-02T01:59:59Z", "from=-000001-01-01T00:00:00Z", "colour=red"]
    {
        client.get(&format!("/v1/usage?{bad}")).await?.refuses(400, "invalid-query").context(bad)?;
    }
    Ok(())
}
