//! Conditional requests: what a caller has is not sent again, and what it has not seen is not changed.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    tenants::issue,
};

use super::Setting;

async fn tag(client: &Client, path: &str) -> anyhow::Result<String> {
    let answer = client.get(path).await?;
    answer.is(200)?;
    let tag = answer.header("etag").with_context(|| format!("{path} has no ETag"))?.to_owned();
    ensure!(tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
    // Whoever has it is not sent it again, and is told its tag.
    let known = client.request(Method::GET, path).header("if-none-match", &tag);
    let known = client.send(known).await?;
    ensure!(known.status == 304 && known.body.is_empty() && known.header("etag") == Some(&*tag), "{path}: {known:?}");
    let other = client.send(client.request(Method::GET, path).header("if-none-match", "\"0\"")).await?;
    ensure!(other.is(200)? == answer.json::<serde_json::Value>()?, "{path}: {other:?}");
    Ok(tag)
}

async fn change(client: &Client, method: Method, path: &str, tag: &str, body: &str) -> anyhow::Result<Answer> {
    let request = client.request(method, path).header("if-match", tag).header("content-type", "application/json");
    client.send(if body.is_empty() { request } else { request.body(body.to_owned()) }).await
}

#[tokio::test]
async fn a_tenant_is_changed_only_as_it_was_seen() -> anyhow::Result<()> {
    let Setting { node: _node, operator, tenant, .. } = Setting::new().await?;
    let path = format!("/v1/tenants/{}", tenant.id);
    let first = tag(&operator, &path).await?;
    let renamed = change(&operator, Method::PATCH, &path, &first, r#"{"name":"Ajax"}"#).await?;
    renamed.is(200)?;
    let second = renamed.header("etag").context("no ETag")?.to_owned();
    ensure!(second != first && tag(&operator, &path).await? == second, "{second}");
    for (method, path, body) in [
        (Method::PATCH, path.clone(), r#"{"name":"Third"}"#),
        (Method::POST, format!("{path}/suspend"), ""),
        (Method::POST, format!("{path}/resume"), ""),
    ] {
        let stale = change(&operator, method, &path, &first, body).await?;
        stale.refuses(412, "precondition-failed").context(path)?;
    }
    ensure!(operator.get_json(&path).await?["name"] == "Ajax", "a stale change was made");
    // What the tenant does itself is no change of it.
    issue(&tenant.client, "one more", &["usage:read"]).await?;
    change(&operator, Method::POST, &format!("{path}/suspend"), &second, "").await?.is(200)?;
    change(&operator, Method::POST, &format!("{path}/resume"), "*", "").await?.is(200)?;
    for bad in ["17", "\"1\", \"2\"", "\"", "x"] {
        let refused = change(&operator, Method::PATCH, &path, bad, r#"{"name":"Third"}"#).await?;
        refused.refuses(400, "invalid-header").context(bad)?;
    }
    let weak = format!("W/{}", tag(&operator, &path).await?);
    change(&operator, Method::PATCH, &path, &weak, r#"{"name":"X"}"#).await?.refuses(412, "precondition-failed")?;
    Ok(())
}

#[tokio::test]
async fn a_key_is_changed_only_as_it_was_seen() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let key = issue(client, "deploy", &["executions:run"]).await?;
    let (path, rotate) = (format!("/v1/keys/{}", key.id), format!("/v1/keys/{}/rotate", key.id));
    let first = tag(client, &path).await?;
    // Using a key changes what is shown of it, and is no change of the key.
    let user = client.with_credential(&key.secret);
    user.execute("echo", "").await?;
    let used = tag(client, &path).await?;
    ensure!(used != first, "a cached answer would not show when the key was last used");
    let grace = json!({"grace_seconds": 60}).to_string();
    change(client, Method::POST, &rotate, &first, &grace).await?.is(200)?;
    for stale in [&first, &used] {
        change(client, Method::POST, &rotate, stale, &grace).await?.refuses(412, "precondition-failed")?;
        change(client, Method::DELETE, &path, stale, "").await?.refuses(412, "precondition-failed")?;
    }
    let last = tag(client, &path).await?;
    change(&stranger.client, Method::DELETE, &path, &last, "").await?.refuses(404, "key-not-found")?;
    let gone = change(client, Method::DELETE, &path, &last, "").await?;
    ensure!(gone.conforms()?.status == 204, "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn a_module_is_replaced_and_deleted_only_as_it_was_seen() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    let path = "/v1/modules/echo";
    let first = tag(client, path).await?;
    let put = async |tag: &str, wasm: Vec<u8>| {
        let request =
            client.request(Method::PUT, path).header("if-match", tag).header("content-type", "application/wasm");
        client.send(request.body(wasm)).await
    };
    put(&first, guests::EXIT7.wasm()?).await?.is(201)?;
    put(&first, guests::TRAP.wasm()?).await?.refuses(412, "precondition-failed")?;
    change(client, Method::DELETE, path, &first, "").await?.refuses(412, "precondition-failed")?;
    let second = tag(client, path).await?;
    let gone = change(client, Method::DELETE, path, &second, "").await?;
    ensure!(gone.conforms()?.status == 204, "{gone:?}");
    change(client, Method::DELETE, path, &second, "").await?.refuses(404, "module-not-found")?;
    put(&second, guests::ECHO.wasm()?).await?.refuses(412, "precondition-failed")?;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    ensure!(![first, second].contains(&tag(client, path).await?), "a tag names two states");
    Ok(())
}
