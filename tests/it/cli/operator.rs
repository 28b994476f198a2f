//! What an operator does from the command line.

use anyhow::{Context, ensure};
use serde_json::Value;
use wasmwiz_tests::{cli::User, harness::NodeProcess};

use super::ends;

#[tokio::test]
async fn tenants_are_registered_changed_suspended_and_resumed() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let ready = node.ready();
    let operator = ready.operator_token.as_deref().context("the node gave no operator's key")?;
    let user = User::new()?.variable("WASMWIZ_URL", &ready.url).variable("WASMWIZ_API_KEY", operator);
    let created = ends(user.run(&["tenant", "create", "Acme", "--tier", "pro", "--output", "json"]).await?, 0)?;
    let created: Value = serde_json::from_str(&created)?;
    let id = created["id"].as_str().context("no id")?;
    let key = created["initial_key"]["secret"].as_str().context("no key")?;
    let tenant = User::new()?.variable("WASMWIZ_URL", &ready.url).variable("WASMWIZ_API_KEY", key);
    ends(tenant.run(&["module", "list"]).await?, 0)?;
    ensure!(tenant.run(&["tenant", "list"]).await?.code == Some(3), "a tenant lists tenants");

    let changed = ends(user.run(&["tenant", "change", id, "--name", "Acme Ltd", "--tier", "basic"]).await?, 0)?;
    ensure!(changed.contains("Acme Ltd") && changed.contains("basic"), "{changed}");
    let suspended = ends(user.run(&["tenant", "suspend", id, "--reason", "unpaid"]).await?, 0)?;
    ensure!(suspended.contains("unpaid"), "{suspended}");
    ensure!(tenant.run(&["module", "list"]).await?.code == Some(3), "a suspended tenant is let in");
    ends(user.run(&["tenant", "resume", id]).await?, 0)?;
    ends(tenant.run(&["module", "list"]).await?, 0)?;
    let listed = ends(user.run(&["tenant", "list"]).await?, 0)?;
    ensure!(listed.lines().any(|line| line.starts_with(id) && line.contains("active")), "{listed}");
    ends(user.run(&["tenant", "show", id]).await?, 0)?;

    ensure!(user.run(&["tenant", "show", "t-absent"]).await?.code == Some(4));
    ensure!(user.run(&["tenant", "change", id]).await?.code == Some(2), "nothing to change is wrong usage");
    ensure!(user.run(&["tenant", "create", "X", "--tier", "gold"]).await?.code == Some(5));
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_alone_is_shown_with_all_shards_and_found_in_order() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let ready = node.ready();
    let operator = ready.operator_token.as_deref().context("the node gave no operator's key")?;
    let user = User::new()?.variable("WASMWIZ_URL", &ready.url).variable("WASMWIZ_API_KEY", operator);
    let status = ends(user.run(&["cluster", "status"]).await?, 0)?;
    ensure!(status.contains("none: the node is alone") && !status.contains("MOVED AT"), "{status}");
    let listed = ends(user.run(&["cluster", "status", "--shards"]).await?, 0)?;
    ensure!(listed.lines().filter(|line| line.contains("  owned  ")).count() == 256, "{listed}");
    let shown: Value = serde_json::from_str(&ends(user.run(&["cluster", "status", "--output", "json"]).await?, 0)?)?;
    ensure!(shown["name"].is_null() && shown["lease_ms"].is_null() && shown["nodes"][0]["shards"] == 256, "{shown}");
    let found: Value = serde_json::from_str(&ends(user.run(&["doctor", "--output", "json"]).await?, 0)?)?;
    ensure!(found["grade"] == "ok", "{found}");
    let found = ends(user.run(&["doctor"]).await?, 0)?;
    ensure!(found.contains("is alone") && found.contains("each of 256 has one owner"), "{found}");
    Ok(())
}
