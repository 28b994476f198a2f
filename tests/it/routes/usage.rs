//! `/v1/usage`: what it cost.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use wasmwiz_tests::guests;

use super::{Setting, all_pages, asks_for, pages_are_checked};

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

    for item in client.get("/v1/usage?by=module").await?.is(200)?["items"].as_array().context("no items")? {
        let percentile = |name: &str| item[name].as_f64().with_context(|| format!("no {name}: {item}"));
        let (p50, p99) = (percentile("wall_ms_p50")?, percentile("wall_ms_p99")?);
        ensure!(0.0 < p50 && p50 <= p99 && p99 <= sum(item, "wall_ms") * 65.0 / 64.0, "{item}");
    }

    asks_for(client, "usage:read", Method::GET, "/v1/usage").await?;
    let ancient = client.get("/v1/usage?to=0000-01-01T00:00:00Z").await?.is(200)?;
    ensure!(ancient["from"] == ancient["to"], "{ancient}");
    let backwards = client.get("/v1/usage?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z").await?;
    ensure!(backwards.refuses(400, "invalid-query")?["errors"][0]["at"] == "query:from", "{}", backwards.text());
    for bad in ["by=moon", "from=x", "to=x", "to=-009999-01-02T01:59:59Z", "from=-000001-01-01T00:00:00Z", "colour=red"]
    {
        client.get(&format!("/v1/usage?{bad}")).await?.refuses(400, "invalid-query").context(bad)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_report_comes_in_pages_and_as_a_table() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    for name in ["a-1", "b-2", "c-3"] {
        client.put_module(name, guests::ECHO.wasm()?).await?.is(201)?;
        client.execute(name, "12345").await?;
    }
    let path = "/v1/usage?by=module";
    let names: Vec<_> = all_pages(client, path, 2).await?.iter().map(|item| item["bucket"].clone()).collect();
    ensure!(names == ["a-1", "b-2", "c-3"], "{names:?}");
    let first = client.get(&format!("{path}&limit=2")).await?.is(200)?;
    ensure!(first["truncated"] == true && first["next_cursor"].is_string(), "{first}");
    let next = format!("{path}&limit=2&cursor={}", first["next_cursor"].as_str().unwrap_or_default());
    let second = client.get(&next).await?.is(200)?;
    ensure!(second["to"] == first["to"] && second["from"] == first["from"], "the pages are about two times: {second}");
    stranger.client.get(&next).await?.refuses(400, "malformed-cursor")?;
    client.get(&next.replace("module", "key")).await?.refuses(400, "malformed-cursor")?;
    pages_are_checked(client, "/v1/usage").await?;

    let table = client.request(Method::GET, &format!("{path}&limit=2")).header("accept", "text/csv");
    let table = client.send(table).await?;
    ensure!(table.status == 200, "{table:?}");
    table.conforms()?;
    ensure!(table.header("content-type") == Some("text/csv; charset=utf-8; header=present"), "{table:?}");
    ensure!(table.header("link").is_some_and(|link| link.contains("rel=\"next\"")), "{table:?}");
    ensure!(table.header("vary").is_some_and(|vary| vary.contains("accept")), "{table:?}");
    let text = table.text();
    let lines: Vec<_> = text.split("\r\n").collect();
    ensure!(lines.len() == 4 && lines[3].is_empty(), "{text}");
    ensure!(lines[0].starts_with("bucket,executions,succeeded,") && lines[1].starts_with("a-1,1,1,0,"), "{text}");
    for not_csv in ["application/json", "text/csv;q=0", "text/csvx, application/json;q=0.1"] {
        let answer = client.request(Method::GET, path).header("accept", not_csv);
        ensure!(client.send(answer).await?.is(200)?["items"].is_array(), "{not_csv} is answered with a table");
    }
    let neither = client.request(Method::GET, path).header("accept", "text/csvx");
    client.send(neither).await?.refuses(406, "not-acceptable")?;
    let bad = client.request(Method::GET, "/v1/usage?by=moon").header("accept", "text/csv");
    client.send(bad).await?.refuses(400, "invalid-query")?;
    Ok(())
}
