//! A stream that is damaged is its own tenant's trouble, and nobody else's.

use std::path::Path;

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use rusqlite::{Connection, params};
use serde_json::json;
use wasmwiz_tests::{
    cli::User,
    client::Client,
    guests,
    harness::NodeProcess,
    tenants::{Tenant, issue, register},
    wait,
};

const OWN: [&str; 5] = ["/v1/keys", "/v1/modules", "/v1/executions", "/v1/usage", "/v1/audit"];

/// Changes the last byte of the body of a tenant's second commit, or changes it back. Gives where the log has the commit.
fn flip(data: &Path, tenant: &Tenant) -> anyhow::Result<i64> {
    let file = Connection::open(data.join("log/events.db"))?;
    let sql = "SELECT position, body FROM commits WHERE tenant = ?1 ORDER BY position LIMIT 1 OFFSET 1";
    let (position, mut body): (i64, Vec<u8>) =
        file.query_row(sql, [&tenant.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    *body.last_mut().context("a body has bytes")? ^= 1;
    file.execute("UPDATE commits SET body = ?2 WHERE position = ?1", params![position, body])?;
    Ok(position)
}

async fn refused(client: &Client, path: &str, position: i64) -> anyhow::Result<()> {
    let answer = client.get(path).await?;
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{path}: {} {}", answer.status, answer.text());
    ensure!(answer.header("retry-after").is_some(), "{path} does not say when to come back");
    let problem: serde_json::Value = answer.json()?;
    ensure!(problem["reason"] == "stream-set-aside", "{path}: {problem}");
    ensure!(problem["detail"].as_str().is_some_and(|it| it.contains(&format!("position {position}"))), "{problem}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_of_one_tenant_keeps_nobody_else_from_being_served() -> anyhow::Result<()> {
    // Given three tenants with a past, and a byte of one of them that was flipped while the node was away.
    let mut node = NodeProcess::dev().await?;
    let mut tenants = Vec::new();
    for name in ["Broken", "Sound", "Sound too"] {
        let tenant = register(&node.operator()?, name, "enterprise").await?;
        tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
        tenant.client.execute("echo", "before").await?;
        tenants.push(tenant);
    }
    let broken = tenants.first().context("the first one")?;
    let later = issue(&broken.client, "later", &["executions:read"]).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let position = flip(&node.data(), broken)?;

    // When the views are folded again.
    std::fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;

    // Then the others have all that they had, and go on.
    let url = node.ready().url.clone();
    for sound in tenants.iter().skip(1) {
        let client = Client::new(&url, Some(&sound.key.secret))?;
        ensure!(client.execute("echo", "after").await?.stdout == "after", "{} runs nothing", sound.id);
        for path in OWN {
            client.get(path).await?.expect(StatusCode::OK)?;
        }
        let ran = client.get_json("/v1/executions").await?;
        ensure!(ran["items"].as_array().is_some_and(|items| items.len() == 2), "{ran}");
    }
    // And of the one nothing is told that may not be true any more: not to its keys, whenever they were issued, not to operators.
    for key in [&broken.key.secret, &later.secret] {
        for path in OWN {
            refused(&Client::new(&url, Some(key))?, path, position).await?;
        }
    }
    let run = Client::new(&url, Some(&broken.key.secret))?.post_bytes("/v1/modules/echo/executions", "x").await?;
    ensure!(run.status == StatusCode::SERVICE_UNAVAILABLE, "{}", run.text());
    refused(&node.operator()?, &format!("/v1/tenants/{}", broken.id), position).await?;
    let renamed = node.operator()?.patch_json(&format!("/v1/tenants/{}", broken.id), &json!({"name": "Else"})).await?;
    ensure!(renamed.status == StatusCode::SERVICE_UNAVAILABLE, "{}", renamed.text());
    // And operators see it.
    let health = node.client()?.get_json("/health").await?;
    let said = health["checks"]["projections"]["message"].as_str().unwrap_or_default();
    ensure!(health["status"] == "ok" && said.contains("1 streams are set aside"), "{health}");
    let metrics = node.admin()?.get("/metrics").await?.text();
    for view in ["keys", "modules", "executions", "usage", "audit"] {
        let line = format!("wasmwiz_projection_set_aside_streams{{view=\"{view}\"}} 1");
        ensure!(metrics.lines().any(|it| it == line), "no {line} in {metrics}");
    }
    let lines = node.stderr();
    let told = |line: &str| line.contains("sets a stream aside") && line.contains(&broken.id);
    ensure!(lines.lines().filter(|line| told(line)).count() == 5, "a line of each view: {lines}");

    // When the byte is what it was, and the node starts again.
    ensure!(node.terminate().await?.success(), "the node did not end well");
    ensure!(flip(&node.data(), broken)? == position, "another commit");
    node.restart().await?;
    // Then the tenant has everything again, without any view being folded anew.
    let client = Client::new(&node.ready().url, Some(&broken.key.secret))?;
    wait::until("its tenant to be served", wait::SOON, async || {
        let mut served = true;
        for path in OWN {
            served &= client.get(path).await?.status == StatusCode::OK;
        }
        Ok(served.then_some(()))
    })
    .await?;
    let keys = client.get_json("/v1/keys").await?;
    ensure!(keys["items"].as_array().is_some_and(|items| items.len() == 2), "{keys}");
    ensure!(client.execute("echo", "again").await?.stdout == "again", "it runs nothing");
    Client::new(&node.ready().url, Some(&later.secret))?.get("/v1/executions").await?.expect(StatusCode::OK)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_is_set_aside_and_has_it_tried_again_without_a_restart() -> anyhow::Result<()> {
    // Given a damaged commit of one tenant that a node has met.
    let mut node = NodeProcess::dev().await?;
    let broken = register(&node.operator()?, "Broken", "enterprise").await?;
    broken.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let position = flip(&node.data(), &broken)?;
    std::fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;
    let (operator, url) = (node.operator()?, node.ready().url.clone());

    // When an operator looks.
    let token = node.ready().operator_token.clone().context("no operator")?;
    let by = User::new()?.variable("WASMWIZ_API_KEY", &token).variable("WASMWIZ_URL", &url);
    let shown = by.run(&["views", "--output", "json"]).await?;
    // Then each view says whose stream it is, where, and why.
    let views: serde_json::Value = serde_json::from_str(&shown.stdout).with_context(|| format!("{shown:?}"))?;
    let views = views["views"].as_array().context("no views")?;
    ensure!(shown.code == Some(1) && views.len() == 5, "{shown:?}");
    for view in views {
        let aside = &view["set_aside"][0];
        ensure!(aside["tenant"] == broken.id && aside["position"] == position, "{view}");
        ensure!(aside["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{view}");
    }
    let table = by.run(&["views"]).await?;
    ensure!(table.stdout.contains("set aside") && table.stdout.contains(&broken.id), "{table:?}");
    // And nobody else sees it.
    let other = register(&operator, "Other", "enterprise").await?;
    other.client.get("/v1/views").await?.refuses(403, "missing-scope")?;
    other.client.post_bytes("/v1/views/retry", "").await?.refuses(403, "missing-scope")?;

    // When it is tried again while it is as damaged, then nothing has changed.
    let still = operator.post_bytes("/v1/views/retry", "").await?.is(200)?;
    ensure!(still["views"][0]["set_aside"][0]["tenant"] == broken.id, "{still}");
    // When the byte is what it was, then the tenant is served again by the node that runs.
    ensure!(flip(&node.data(), &broken)? == position, "another commit");
    let healed = by.run(&["views", "retry", "--output", "json"]).await?;
    ensure!(healed.code == Some(0), "{healed:?}");
    let client = Client::new(&url, Some(&broken.key.secret))?;
    ensure!(client.execute("echo", "again").await?.stdout == "again", "it runs nothing");
    for path in OWN {
        client.get(path).await?.expect(StatusCode::OK)?;
    }
    Ok(())
}
