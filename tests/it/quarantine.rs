//! A stream that is damaged is its own tenant's trouble, and nobody else's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use wasmwiz_tests::{
    cli::{self, User},
    client::Client,
    damage::flip,
    guests,
    harness::NodeProcess,
    tenants::{Tenant, issue, register},
    wait,
};

const OWN: [&str; 5] = ["/v1/keys", "/v1/modules", "/v1/executions", "/v1/usage", "/v1/audit"];

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
    let position = flip(&node.data(), &broken.id)?;

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
    ensure!(flip(&node.data(), &broken.id)? == position, "another commit");
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

/// A node that has met a damaged commit: that of a tenant who has published a module, at this position.
async fn damaged() -> anyhow::Result<(NodeProcess, Tenant, i64)> {
    let mut node = NodeProcess::dev().await?;
    let broken = register(&node.operator()?, "Broken", "enterprise").await?;
    broken.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let position = flip(&node.data(), &broken.id)?;
    std::fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;
    Ok((node, broken, position))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_is_set_aside_and_has_it_tried_again_without_a_restart() -> anyhow::Result<()> {
    // Given a damaged commit of one tenant that a node has met.
    let (node, broken, position) = damaged().await?;
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
    ensure!(flip(&node.data(), &broken.id)? == position, "another commit");
    let healed = by.run(&["views", "retry", "--output", "json"]).await?;
    ensure!(healed.code == Some(0), "{healed:?}");
    let client = Client::new(&url, Some(&broken.key.secret))?;
    ensure!(client.execute("echo", "again").await?.stdout == "again", "it runs nothing");
    for path in OWN {
        client.get(path).await?.expect(StatusCode::OK)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_commit_of_a_stream_is_not_skipped() -> anyhow::Result<()> {
    // Given a tenant whose newest commit is damaged.
    let (mut node, broken, position) = damaged().await?;
    let client = broken.client.at(&node.ready().url);
    refused(&client, "/v1/keys", position).await?;

    // When an operator skips it, then that is refused, and the tenant stays closed.
    let wish = json!({"tenant": broken.id, "position": position, "reason": "a lost sector"});
    node.operator()?.post_json("/v1/views/skip", &wish).await?.refuses(409, "newest-commit")?;
    refused(&client, "/v1/keys", position).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let folder = node.data().to_string_lossy().into_owned();
    let shown = cli::run(["audit", "show", "--data", &folder, "--tenant", "system", "--output", "json"]).await?;
    ensure!(!shown.stdout.contains("dev.wasmwiz.commit.skipped.v1"), "{}", shown.stdout);
    Ok(())
}

/// What a tenant's keys are told of it, without what differs from one answer to the next.
async fn told(client: &Client) -> anyhow::Result<Vec<Value>> {
    let mut told = Vec::new();
    for path in ["/v1/modules", "/v1/executions", "/v1/audit", "/v1/audit/head"] {
        told.push(client.get(path).await?.is(200)?);
    }
    let usage = client.get("/v1/usage?from=2020-01-01T00:00:00Z&to=2090-01-01T00:00:00Z&by=module").await?.is(200)?;
    told.push(usage["items"].clone());
    Ok(told)
}

/// Asks for everything that tenants have, until it is told to stop; every answer has to be there.
async fn served_throughout(tenants: Vec<Client>, stop: Arc<AtomicBool>) -> anyhow::Result<usize> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for client in &tenants {
            for path in OWN {
                client.get(path).await?.expect(StatusCode::OK)?;
            }
            ensure!(client.execute("echo", "meanwhile").await?.stdout == "meanwhile", "it runs nothing");
        }
        rounds += 1;
    }
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_has_a_damaged_commit_passed_over_and_nobody_else_notices() -> anyhow::Result<()> {
    // Given a damaged commit of one tenant, and two others.
    let mut node = NodeProcess::dev().await?;
    let mut tenants = Vec::new();
    for name in ["Broken", "Sound", "Sound too"] {
        let tenant = register(&node.operator()?, name, "enterprise").await?;
        tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
        tenant.client.execute("echo", "before").await?;
        tenants.push(tenant);
    }
    let broken = tenants.remove(0);
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let position = flip(&node.data(), &broken.id)?;
    std::fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;
    let (operator, url, data) = (node.operator()?, node.ready().url.clone(), node.data());
    let client = broken.client.at(&url);
    let stop = Arc::new(AtomicBool::new(false));
    let others = tenants.iter().map(|tenant| tenant.client.at(&url)).collect();
    let others = tokio::spawn(served_throughout(others, Arc::clone(&stop)));
    for path in OWN {
        refused(&client, path, position).await?;
    }

    // When somebody skips who may not, or a commit that can be folded, then nothing changes.
    let skip = |tenant: &str, position: i64| json!({"tenant": tenant, "position": position, "reason": "a lost sector"});
    let wish = skip(&broken.id, position);
    let sound = tenants.first().context("no sound tenant")?;
    sound.client.at(&url).post_json("/v1/views/skip", &wish).await?.refuses(403, "missing-scope")?;
    for (wish, status, problem) in [
        (skip(&broken.id, position + 1), 409, "commit-not-set-aside"),
        (skip(&sound.id, position), 409, "commit-not-set-aside"),
        (skip("t-nobody", position), 404, "tenant-not-found"),
        (json!({"tenant": broken.id, "position": position, "reason": ""}), 400, "invalid-body"),
    ] {
        operator.post_json("/v1/views/skip", &wish).await?.refuses(status, problem)?;
    }
    refused(&client, "/v1/keys", position).await?;

    // When an operator skips it, twice.
    let token = node.ready().operator_token.clone().context("no operator")?;
    let by = User::new()?.variable("WASMWIZ_API_KEY", &token).variable("WASMWIZ_URL", &url);
    let at = position.to_string();
    let words = ["views", "skip", "--tenant", &broken.id, "--position", &at, "--reason", "no backup has it"];
    let skipped = by.run(&words).await?;
    ensure!(skipped.code == Some(0), "{skipped:?}");
    operator.post_json("/v1/views/skip", &wish).await?.is(200)?;
    // Then its tenant is told all but what the commit said: that a module was published.
    let told_now = told(&client).await?;
    ensure!(told_now[0]["items"] == json!([]), "{}", told_now[0]);
    ensure!(told_now[1]["items"].as_array().is_some_and(|items| items.len() == 1), "{}", told_now[1]);
    ensure!(client.get_json("/v1/keys").await?["items"].as_array().is_some_and(|keys| keys.len() == 1), "no key");
    // And its entity goes on from there.
    client.post_bytes("/v1/modules/echo/executions", "x").await?.refuses(404, "module-not-found")?;
    client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    ensure!(client.execute("echo", "again").await?.stdout == "again", "it runs nothing");
    stop.store(true, Ordering::Relaxed);
    ensure!(others.await?? > 0, "nobody else was served meanwhile");

    // When the views are built anew, then they say the same.
    let expected = told(&client).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    std::fs::remove_dir_all(data.join("views"))?;
    node.restart().await?;
    let client = broken.client.at(&node.ready().url);
    let again = wait::until("its views", wait::SOON, async || {
        Ok(if client.get("/v1/audit").await?.status == 200 { Some(told(&client).await?) } else { None })
    });
    let again = again.await?;
    ensure!(again == expected, "{again:?} where it was {expected:?}");
    ensure!(client.execute("echo", "once more").await?.stdout == "once more", "it runs nothing");

    // And the operators' history says once who it was; the commit is as broken as before.
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let folder = data.to_string_lossy().into_owned();
    let shown = cli::run(["audit", "show", "--data", &folder, "--tenant", "system", "--output", "json"]).await?;
    let events: Vec<Value> = shown.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let skips: Vec<_> = events.iter().filter(|event| event["type"] == "dev.wasmwiz.commit.skipped.v1").collect();
    let [skip] = &skips[..] else { anyhow::bail!("{} skips were recorded", skips.len()) };
    ensure!(skip["data"] == json!({"tenant": broken.id, "position": position, "reason": "no backup has it"}), "{skip}");
    let operator = skip["actor"].as_str().context("no actor")?;
    ensure!(operator.starts_with("operator:"), "{skip}");
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(1), "{verified:?}");
    let says = |line: &str| {
        line.contains(&broken.id) && line.contains(&format!("position {position}:")) && line.contains(operator)
    };
    ensure!(verified.stdout.lines().any(says), "{}", verified.stdout);
    Ok(())
}
