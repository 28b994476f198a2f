//! `/v1/tokens` and `/.well-known/jwks.json`: tokens for keys, and what verifies them.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use wasmwiz_tests::{cli, harness::NodeProcess, python, tenants::issue};

use super::Setting;

/// How long a client library may take: it makes a connection of its own.
const VERIFIED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_key_is_exchanged_for_a_token_of_the_published_key() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let answer = client.post_json("/v1/tokens", &json!({"scopes": ["modules:read"], "ttl_seconds": 60})).await?;
    let token = answer.is(200)?;
    ensure!(token["token_type"] == "Bearer" && token["expires_in"] == 60, "{token}");
    ensure!(token["scope"] == "modules:read" && answer.header("cache-control") == Some("no-store"), "{answer:?}");
    let text = token["access_token"].as_str().context("no token")?;

    let holder = client.with_credential(text);
    holder.get("/v1/modules").await?.is(200)?;
    holder.get("/v1/usage").await?.refuses(403, "missing-scope")?;
    holder.put_module("echo", "x").await?.refuses(403, "missing-scope")?;
    holder.post_json("/v1/tokens", &json!({})).await?.refuses(403, "key-required")?;
    // The tenant of a token is its key's: another's things are absent.
    let listed = holder.get("/v1/modules").await?.is(200)?;
    stranger.client.put_module("theirs", "(module)").await?;
    ensure!(!listed.to_string().contains("theirs"), "{listed}");
    holder.get("/v1/modules/theirs").await?.refuses(404, "module-not-found")?;

    let keys = client.anonymous().get("/.well-known/jwks.json").await?;
    let set = keys.is(200)?;
    ensure!(keys.header("cache-control") == Some("public, max-age=300"), "{keys:?}");
    ensure!(set["keys"].as_array().is_some_and(|keys| keys.len() == 1 && keys[0].get("d").is_none()), "{set}");
    client.anonymous().get("/.well-known/jwks.json?x=1").await?.refuses(400, "invalid-query")?;
    let post = client.send(client.request(Method::POST, "/.well-known/jwks.json")).await?;
    post.refuses(405, "method-not-allowed")?;
    Ok(())
}

#[tokio::test]
async fn a_request_for_a_token_is_checked() -> anyhow::Result<()> {
    let Setting { node: _node, operator, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    client.anonymous().post_json("/v1/tokens", &json!({})).await?.refuses(401, "unauthenticated")?;
    for bad in [
        json!({"scopes": []}),
        json!({"scopes": ["fly"]}),
        json!({"ttl_seconds": 0}),
        json!({"ttl_seconds": 3_601}),
        json!({"subject": "somebody"}),
    ] {
        let refused = client.post_json("/v1/tokens", &bad).await?.refuses(400, "invalid-body")?;
        ensure!(refused["errors"][0]["at"].is_string(), "{bad}: no place is named: {refused}");
    }
    let narrow = issue(client, "narrow", &["modules:read"]).await?;
    let narrow = client.with_credential(&narrow.secret);
    narrow.post_json("/v1/tokens", &json!({"scopes": ["usage:read"]})).await?.refuses(403, "wider-scopes")?;
    let given = narrow.post_json("/v1/tokens", &json!({})).await?.is(200)?;
    ensure!(given["scope"] == "modules:read", "{given}");
    let held = narrow.with_credential(given["access_token"].as_str().context("no token")?);

    let path = format!("/v1/tenants/{}", tenant.id);
    operator.post_json(&format!("{path}/suspend"), &json!({})).await?.is(200)?;
    client.post_json("/v1/tokens", &json!({})).await?.refuses(403, "tenant-suspended")?;
    held.get("/v1/modules").await?.refuses(403, "tenant-suspended")?;
    Ok(())
}

async fn mint(key: &str, sub: &str, ttl: &str) -> anyhow::Result<cli::Ended> {
    cli::run(["token", "mint", "--operator", "--sub", sub, "--ttl", ttl, "--key", key]).await
}

#[tokio::test]
async fn an_operator_mints_a_token_with_the_nodes_key_and_it_outlives_a_restart() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let key = node.data().join("token-keys/001.pem").to_string_lossy().into_owned();
    let minted = mint(&key, "ada", "10m").await?;
    ensure!(minted.code == Some(0), "{minted:?}");
    let token = minted.stdout.trim().to_owned();
    let registered = node.client()?.with_credential(&token);
    let tenant = registered.post_json("/v1/tenants", &json!({"name": "Acme", "tier": "pro"})).await?.is(201)?;
    let first = tenant["initial_key"]["secret"].as_str().context("no key")?;
    let audit = registered.with_credential(first).get("/v1/audit").await?.is(200)?;
    ensure!(audit["items"][0]["actor"] == "operator:ada", "{audit}");
    for (sub, ttl) in [("Ada", "10m"), ("ada", "100h"), ("ada", "10")] {
        ensure!(mint(&key, sub, ttl).await?.code != Some(0), "{sub} for {ttl} was minted");
    }

    node.restart().await?;
    node.client()?.with_credential(&token).get("/v1/tenants").await?.is(200)?;
    let other = node.data().join("other.pem").to_string_lossy().into_owned();
    let drawn = cli::run(["token", "keygen", "--out", &other]).await?;
    ensure!(drawn.code == Some(0) && drawn.stdout.trim().len() == 43, "{drawn:?}");
    ensure!(cli::run(["token", "keygen", "--out", &other]).await?.code == Some(1), "it was replaced");
    let foreign = mint(&other, "ada", "10m").await?;
    let foreign = node.client()?.with_credential(foreign.stdout.trim());
    foreign.get("/v1/tenants").await?.refuses(401, "unauthenticated")?;
    Ok(())
}

#[tokio::test]
async fn a_signing_key_is_exchanged_without_refusing_a_token_before_its_key_goes() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let folder = node.data().join("token-keys");
    let kids = async |node: &NodeProcess| {
        let set = node.client()?.anonymous().get("/.well-known/jwks.json").await?.is(200)?;
        let keys = set["keys"].as_array().context("no keys")?.iter();
        Ok::<_, anyhow::Error>(keys.filter_map(|key| key["kid"].as_str().map(str::to_owned)).collect::<Vec<_>>())
    };
    let token = async |node: &NodeProcess| {
        let given = node.client()?.post_json("/v1/tokens", &json!({})).await?.is(200)?;
        Ok::<_, anyhow::Error>(given["access_token"].as_str().context("no token")?.to_owned())
    };
    let (first, before) = (kids(&node).await?, token(&node).await?);
    let out = folder.join("002.pem").to_string_lossy().into_owned();
    let drawn = cli::run(["token", "keygen", "--out", &out]).await?;
    let second = drawn.stdout.trim().to_owned();

    // The last key by name signs, and the one before verifies.
    node.restart().await?;
    ensure!(kids(&node).await? == [vec![second.clone()], first].concat(), "not both keys are live");
    let after = token(&node).await?;
    for token in [&before, &after] {
        node.client()?.with_credential(token).get("/v1/modules").await?.is(200)?;
    }

    fs::remove_file(folder.join("001.pem"))?;
    node.restart().await?;
    ensure!(kids(&node).await? == [second], "a removed key is published");
    node.client()?.with_credential(&before).get("/v1/modules").await?.refuses(401, "unauthenticated")?;
    node.client()?.with_credential(&after).get("/v1/modules").await?.is(200)?;
    Ok(())
}

#[tokio::test]
async fn when_a_key_was_last_used_is_known_after_a_restart() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let reader = issue(&node.client()?, "reader", &["modules:read"]).await?;
    let path = format!("/v1/keys/{}", reader.id);
    let last_used = async |node: &NodeProcess| {
        let key = node.client()?.get(&path).await?.is(200)?;
        Ok::<_, anyhow::Error>(key["last_used_at"].clone())
    };
    ensure!(last_used(&node).await?.is_null(), "it was never used");
    node.client()?.with_credential(&reader.secret).get("/v1/modules").await?.is(200)?;
    let used = last_used(&node).await?;
    ensure!(used.is_string(), "it was used");
    node.restart().await?;
    ensure!(last_used(&node).await? == used, "a restart forgets it");
    Ok(())
}

#[tokio::test]
async fn a_client_library_verifies_the_platforms_tokens_by_its_published_keys() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;
    let mut tokens = Vec::new();
    for scope in ["modules:read", "executions:run"] {
        let given = client.post_json("/v1/tokens", &json!({"scopes": [scope]})).await?.is(200)?;
        tokens.push(given["access_token"].as_str().context("no token")?.to_owned());
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokens");
    fs::write(&file, tokens.join("\n"))?;
    let mut command = python::command()?;
    command.arg(python::root().join("tests/clients/verify.py")).stdin(fs::File::open(&file)?);
    command.env("URL", &node.ready().url).env("NO_PROXY", "*");
    let ended = python::run(&mut command, VERIFIED_WITHIN).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    ensure!(lines.len() == 3 && lines[2] == "a changed token is refused", "{ended:?}");
    let scopes: Vec<Value> = lines[..2]
        .iter()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["scope"].clone()))
        .collect::<anyhow::Result<_>>()?;
    ensure!(scopes == ["modules:read", "executions:run"], "{scopes:?}");
    Ok(())
}
