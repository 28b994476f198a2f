//! `/v1/keys/{key_id}/rotate`: a new secret for a key.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use wasmwiz_tests::{client::Client, tenants::issue, wait};

use super::super::{Setting, asks_for};

async fn rotated(client: &Client, id: &str, grace_seconds: u64) -> anyhow::Result<(String, Value)> {
    let body = json!({"grace_seconds": grace_seconds});
    let answer = client.post_json(&format!("/v1/keys/{id}/rotate"), &body).await?;
    let shown = answer.is(200)?;
    ensure!(answer.header("wasmwiz-position").is_some(), "a write without a position");
    ensure!(shown["id"] == id, "{shown}");
    let secret = shown["secret"].as_str().context("no secret")?.to_owned();
    Ok((secret, shown))
}

#[tokio::test]
async fn a_key_gets_a_new_secret_and_the_old_one_works_as_long_as_was_asked_for() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, .. } = Setting::new().await?;
    let client = &tenant.client;
    let key = issue(client, "deploy", &["executions:run", "keys:manage"]).await?;
    let works = |secret: &str| {
        let client = client.with_credential(secret);
        async move { Ok::<_, anyhow::Error>(client.get("/v1/keys").await?.status.as_u16()) }
    };
    // With a grace both work; after it the old one does not.
    let (second, shown) = rotated(client, &key.id, 2).await?;
    ensure!(shown["name"] == "deploy" && shown["scopes"] == json!(["executions:run", "keys:manage"]), "{shown}");
    ensure!(shown["rotated_at"].as_str() < shown["grace_until"].as_str(), "{shown}");
    ensure!(works(&key.secret).await? == 200 && works(&second).await? == 200, "one of two secrets does not work");
    ensure!(
        client.with_credential(&second).execute("echo", "abc").await?.stdout == "abc",
        "the new secret runs nothing"
    );
    wait::until("the end of the grace", wait::SOON, async || Ok((works(&key.secret).await? == 401).then_some(())))
        .await?;
    ensure!(works(&second).await? == 200, "the new secret ends with the old one's grace");
    // Without one the old secret is refused at once; and only the secret before is known at all.
    let (third, _) = rotated(client, &key.id, 0).await?;
    ensure!(works(&second).await? == 401 && works(&third).await? == 200, "the old secret works without a grace");
    let (fourth, _) = rotated(client, &key.id, 600).await?;
    let (fifth, _) = rotated(client, &key.id, 600).await?;
    ensure!(works(&third).await? == 401, "a secret works after two rotations");
    ensure!(works(&fourth).await? == 200 && works(&fifth).await? == 200, "a grace is cut off");
    // Revoking ends both, and a revoked key gets no new secret.
    client.delete(&format!("/v1/keys/{}", key.id)).await?.is(204)?;
    ensure!(works(&fourth).await? == 401 && works(&fifth).await? == 401, "a revoked key works");
    let path = format!("/v1/keys/{}/rotate", key.id);
    client.post_json(&path, &json!({"grace_seconds": 0})).await?.refuses(409, "key-not-live")?;
    let audit = client.get_json("/v1/audit?type=dev.wasmwiz.key.rotated.v1").await?;
    ensure!(audit["items"].as_array().map(Vec::len) == Some(4), "{audit}");
    for secret in [&second, &third, &fourth, &fifth] {
        ensure!(!audit.to_string().contains(secret.as_str()), "a secret is in the history");
    }
    Ok(())
}

#[tokio::test]
async fn a_rotation_outlives_a_restart() -> anyhow::Result<()> {
    let Setting { mut node, tenant, .. } = Setting::new().await?;
    let (second, _) = rotated(&tenant.client, &tenant.key.id, 600).await?;
    let (third, _) = rotated(&tenant.client.with_credential(&second), &tenant.key.id, 600).await?;
    node.kill9().await?;
    node.restart().await?;
    for (secret, status) in [(&tenant.key.secret, 401), (&second, 200), (&third, 200)] {
        let client = Client::new(&node.ready().url, Some(secret))?;
        let answer = wait::until("an answer", Duration::from_secs(20), async || {
            let answer = client.get("/v1/keys").await?;
            Ok((answer.status != 503).then_some(answer))
        });
        ensure!(answer.await?.status == status, "a secret is {status} no more");
    }
    Ok(())
}

#[tokio::test]
async fn rotations_are_checked() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let path = format!("/v1/keys/{}/rotate", tenant.key.id);
    asks_for(client, "keys:manage", Method::POST, &path).await?;
    let now = json!({"grace_seconds": 0});
    stranger.client.post_json(&path, &now).await?.refuses(404, "key-not-found")?;
    for absent in ["/v1/keys/AAAAAAAAAAAA/rotate", "/v1/keys/no-such-key!/rotate", "/v1/keys/short/rotate"] {
        client.post_json(absent, &now).await?.refuses(404, "key-not-found").context(absent)?;
    }
    for bad in
        [json!({}), json!({"grace_seconds": -1}), json!({"grace_seconds": "x"}), json!({"grace_seconds": 604_801})]
    {
        let refused = client.post_json(&path, &bad).await?.refuses(400, "invalid-body")?;
        ensure!(refused["errors"][0]["at"] == "/grace_seconds", "{bad}: {refused}");
    }
    client.post_json(&path, &json!({"grace_seconds": 0, "x": 1})).await?.refuses(400, "invalid-body")?;
    // Whoever gets the new secret gets all that the key may do.
    let narrow = client.with_credential(&issue(client, "narrow", &["keys:manage"]).await?.secret);
    narrow.post_json(&path, &now).await?.refuses(403, "wider-scopes")?;
    // A secret is shown once, also when the same request is sent again.
    let send = || {
        client.send(
            client.request(Method::POST, &path).header("idempotency-key", "once").json(&json!({"grace_seconds": 60})),
        )
    };
    let mut first = send().await?.is(200)?;
    let again = send().await?;
    ensure!(again.header("idempotency-replayed") == Some("true"), "{again:?}");
    first["secret"] = Value::Null;
    ensure!(again.is(200)? == first, "{first} and then {}", again.text());
    Ok(())
}
