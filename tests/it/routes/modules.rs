//! `/v1/modules`: what can be run.

use anyhow::{Context, ensure};
use reqwest::Method;
use wasmwiz_events::digest::Digest;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
};

use super::{Setting, all_pages, asks_for, pages_are_checked};

#[tokio::test]
async fn a_module_is_published_in_versions_listed_fetched_and_deleted() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let (first, second) = (guests::GREETER.wasm()?, guests::EXIT7.wasm()?);

    let answer = client.put_module("mine", first.clone()).await?;
    let published = answer.is(201)?;
    ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position");
    ensure!(published["name"] == "mine" && published["version"] == 1 && published["kind"] == "core", "{published}");
    ensure!(published["digest"] == Digest::of(&first).to_string(), "{published}");
    ensure!(published["size_bytes"] == first.len(), "{published}");
    ensure!(published["imports"].as_array().is_some_and(|imports| imports.len() == 2), "{published}");
    ensure!(published["exports"].to_string().contains("_start"), "{published}");

    let again = client.put_module("mine", first.clone()).await?.is(200)?;
    ensure!(again["version"] == 1, "the same bytes are the same version: {again}");
    ensure!(client.put_module("mine", second.clone()).await?.is(201)?["version"] == 2, "no second version");

    let shown = client.get("/v1/modules/mine").await?.is(200)?;
    ensure!(shown["name"] == "mine" && shown.to_string().contains(&Digest::of(&second).to_string()), "{shown}");
    let versions = all_pages(client, "/v1/modules/mine/versions", 1).await?;
    ensure!(versions.len() == 2, "{versions:?}");
    let listed = all_pages(client, "/v1/modules", 1).await?;
    let names: Vec<_> = listed.iter().filter_map(|module| module["name"].as_str()).collect();
    ensure!(names.len() == 2 && names.contains(&"mine") && names.contains(&"echo"), "{names:?}");
    for (version, bytes) in [(1, &first), (2, &second)] {
        let fetched = client.get(&format!("/v1/modules/mine/versions/{version}/wasm")).await?;
        ensure!(fetched.conforms()?.status == 200 && fetched.body == *bytes, "version {version} has other bytes");
        ensure!(fetched.header("content-type") == Some("application/wasm"), "{:?}", fetched.headers);
    }
    ensure!(client.execute("mine", "").await?.exit_code == Some(7), "the latest version is not what runs");
    let old = client.post_bytes("/v1/modules/mine/executions?version=1", "Ada").await?.is(200)?;
    ensure!(old["stdout"] == "Hello, Ada!\n" && old["module"]["version"] == 1, "{old}");

    for path in ["/v1/modules/mine", "/v1/modules/mine/versions"] {
        stranger.client.get(path).await?.refuses(404, "module-not-found")?;
    }
    stranger.client.get("/v1/modules/mine/versions/1/wasm").await?.refuses(404, "version-not-found")?;
    stranger.client.delete("/v1/modules/mine").await?.refuses(404, "module-not-found")?;
    stranger.client.post_bytes("/v1/modules/mine/executions", "").await?.refuses(404, "module-not-found")?;

    let deleted = client.delete("/v1/modules/mine").await?;
    ensure!(deleted.conforms()?.status == 204, "{}", deleted.text());
    client.get("/v1/modules/mine").await?.refuses(404, "module-not-found")?;
    client.post_bytes("/v1/modules/mine/executions", "").await?.refuses(404, "module-not-found")?;
    ensure!(all_pages(client, "/v1/modules", 50).await?.len() == 1, "a deleted module is listed");
    // A version number never names other bytes.
    ensure!(client.put_module("mine", second).await?.is(201)?["version"] == 3, "a version number came back");
    Ok(())
}

#[tokio::test]
async fn modules_are_checked() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    for (scope, method, path) in [
        ("modules:read", Method::GET, "/v1/modules"),
        ("modules:read", Method::GET, "/v1/modules/echo"),
        ("modules:read", Method::GET, "/v1/modules/echo/versions"),
        ("modules:read", Method::GET, "/v1/modules/echo/versions/1/wasm"),
        ("modules:write", Method::DELETE, "/v1/modules/echo"),
        ("modules:write", Method::PUT, "/v1/modules/echo"),
    ] {
        asks_for(client, scope, method, path).await?;
    }
    for name in ["UPPER", "-x", "a%2fb", "a%20b", &"x".repeat(64)] {
        let answer = put(client, name, "application/wasm", guests::ECHO.wasm()?).await?;
        answer.refuses(400, "invalid-name").context(name.to_owned())?;
    }
    client.get("/v1/modules/nothing").await?.refuses(404, "module-not-found")?;
    client.get("/v1/modules/nothing/versions").await?.refuses(404, "module-not-found")?;
    client.delete("/v1/modules/nothing").await?.refuses(404, "module-not-found")?;
    for version in ["2", "0", "x", "99999999999"] {
        let path = format!("/v1/modules/echo/versions/{version}/wasm");
        client.get(&path).await?.refuses(404, "version-not-found")?;
    }
    put(client, "echo", "text/plain", guests::ECHO.wasm()?).await?.refuses(415, "unsupported-media-type")?;
    let empty = client.request(Method::PUT, "/v1/modules/echo").header("content-length", "0");
    client.send(empty).await?.refuses(400, "empty-body")?;
    pages_are_checked(client, "/v1/modules").await?;
    pages_are_checked(client, "/v1/modules/echo/versions").await
}

async fn put(client: &Client, name: &str, kind: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
    let request = client.request(Method::PUT, &format!("/v1/modules/{name}"));
    client.send(request.header("content-type", kind).body(body)).await
}
