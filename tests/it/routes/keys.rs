//! `/v1/keys`: the credentials of a tenant.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;
use wasmwiz_tests::tenants::issue;

use super::{Setting, all_pages, asks_for, pages_are_checked};

mod rotate;
mod under_load;

#[tokio::test]
async fn a_key_is_issued_shown_without_its_secret_and_revoked_at_once() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let body = json!({"name": "nightly", "scopes": ["executions:run", "executions:read"]});
    let answer = client.post_json("/v1/keys", &body).await?;
    let issued = answer.is(201)?;
    ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position");
    let (id, secret) = (issued["id"].as_str().context("no id")?, issued["secret"].as_str().context("no secret")?);
    ensure!(issued["name"] == "nightly" && issued["scopes"] == body["scopes"], "{issued}");
    ensure!(issued["created_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{issued}");
    ensure!(issued.get("expires_at").is_some(), "{issued}");

    // It works at once, for what it may do.
    let nightly = client.with_credential(secret);
    ensure!(nightly.execute("echo", "abc").await?.stdout == "abc", "the new key runs nothing");
    nightly.get("/v1/keys").await?.refuses(403, "missing-scope")?;

    let path = format!("/v1/keys/{id}");
    let shown = client.get(&path).await?.is(200)?;
    ensure!(shown["id"] == id && shown["name"] == "nightly" && shown["revoked_at"].is_null(), "{shown}");
    let listed = all_pages(client, "/v1/keys", 1).await?;
    ensure!(listed.len() == 2, "the first key and this one: {listed:?}");
    for text in [shown.to_string(), format!("{listed:?}")] {
        ensure!(!text.contains(secret) && !text.contains("hash"), "a secret or its hash is shown: {text}");
    }

    // Another tenant's key is no key.
    stranger.client.get(&path).await?.refuses(404, "key-not-found")?;
    stranger.client.delete(&path).await?.refuses(404, "key-not-found")?;
    nightly.get("/v1/executions").await?.is(200)?;

    let revoked = client.delete(&path).await?;
    ensure!(revoked.conforms()?.status == 204 && revoked.body.is_empty(), "{revoked:?}");
    nightly.get("/v1/executions").await?.refuses(401, "unauthenticated")?;
    nightly.post_bytes("/v1/modules/echo/executions", "").await?.refuses(401, "unauthenticated")?;
    let shown = client.get(&path).await?.is(200)?;
    ensure!(shown["revoked_at"].is_string(), "{shown}");
    ensure!(client.delete(&path).await?.status == 204, "revoking twice is no failure");
    Ok(())
}

#[tokio::test]
async fn a_credential_that_opens_nothing_is_told_no_more_than_that() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    let revoked = issue(client, "revoked", &["keys:manage"]).await?;
    client.delete(&format!("/v1/keys/{}", revoked.id)).await?.is(204)?;
    // A key whose secret is another one's: right in form down to its checksum, and of a live id.
    let (live, other) = (issue(client, "one", &["keys:manage"]).await?, issue(client, "two", &["keys:manage"]).await?);
    let mixed = live.with_secret_of(&other)?;
    ensure!(live.with_secret_of(&live)? == live.secret, "the checksum is not the platform's");
    let expired_soon = json!({"name": "x", "scopes": ["keys:manage"], "expires_at": "2001-01-01T00:00:00Z"});
    client.post_json("/v1/keys", &expired_soon).await?.refuses(400, "invalid-body")?;

    let mut details = Vec::new();
    for credential in
        ["garbage", "ww_", &revoked.secret, &mixed, "ww_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
    {
        let answer = client.with_credential(credential).get("/v1/keys").await?;
        details.push(answer.refuses(401, "unauthenticated").context(credential.len())?["detail"].to_string());
    }
    let anonymous = client.anonymous();
    details.push(anonymous.get("/v1/keys").await?.refuses(401, "unauthenticated")?["detail"].to_string());
    for scheme in ["Basic dXNlcjpwYXNz", "Bearer", "bearer  ", "\u{7f}"] {
        let request = anonymous.request(Method::GET, "/v1/keys").header("authorization", scheme.as_bytes());
        let Ok(answer) = wasmwiz_tests::client::send(request).await else { continue };
        details.push(answer.refuses(401, "unauthenticated")?["detail"].to_string());
    }
    details.dedup();
    ensure!(details.len() == 1, "the reason is told to whoever guesses: {details:?}");
    Ok(())
}

#[tokio::test]
async fn keys_are_checked() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    let one = format!("/v1/keys/{}", tenant.key.id);
    for (method, path) in
        [(Method::GET, "/v1/keys"), (Method::POST, "/v1/keys"), (Method::GET, &one), (Method::DELETE, &one)]
    {
        asks_for(client, "keys:manage", method, path).await?;
    }
    for bad in [
        json!({"scopes": ["executions:run"]}),
        json!({"name": "x"}),
        json!({"name": "x", "scopes": []}),
        json!({"name": "x", "scopes": ["fly"]}),
        json!({"name": "x", "scopes": "executions:run"}),
        json!({"name": "x", "scopes": ["executions:run"], "expires_at": "tomorrow"}),
        json!({"name": "x", "scopes": ["executions:run"], "secret": "mine"}),
    ] {
        let refused = client.post_json("/v1/keys", &bad).await?.refuses(400, "invalid-body")?;
        ensure!(refused["errors"][0]["at"].is_string(), "{bad}: no place is named: {refused}");
    }
    client
        .post_json("/v1/keys", &json!({"name": "", "scopes": ["executions:run"]}))
        .await?
        .refuses(400, "invalid-name")?;
    // A credential never mints a wider one.
    let narrow = issue(client, "narrow", &["keys:manage"]).await?;
    let wider = json!({"name": "wider", "scopes": ["executions:run"]});
    client.with_credential(&narrow.secret).post_json("/v1/keys", &wider).await?.refuses(403, "wider-scopes")?;
    let operator = client.post_json("/v1/keys", &json!({"name": "x", "scopes": ["operator"]})).await?;
    ensure!([400, 403].contains(&operator.status.as_u16()), "a tenant minted an operator: {}", operator.text());
    for absent in ["/v1/keys/AAAAAAAAAAAA", "/v1/keys/no-such-key!", "/v1/keys/..%2f.."] {
        client.get(absent).await?.refuses(404, "key-not-found")?;
        client.delete(absent).await?.refuses(404, "key-not-found")?;
    }
    pages_are_checked(client, "/v1/keys").await
}
