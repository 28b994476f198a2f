//! Operators' keys: whose id one may have, and how one is listed, exchanged and revoked for good.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use reqwest::StatusCode;
use serde_json::json;
use wasmwiz_tests::{
    cli,
    client::Client,
    harness::{Launch, NodeProcess},
    tenants::{OPERATOR_KEY, register},
};

/// Its id.
const OPERATOR_ID: &str = "TestOperator";

const NODE: &str = "
    node.data_dir = \"{data}\"
    listen.api = \"127.0.0.1:0\"
    listen.admin = \"127.0.0.1:0\"
    shutdown.announce_ms = 0
";

/// Writes the node's configuration anew, with these lines.
fn configure(node: &NodeProcess, lines: &str) -> anyhow::Result<PathBuf> {
    let data = node.data();
    let file = data.parent().context("the data folder has no parent")?.join("node.toml");
    fs::write(&file, format!("{}{lines}\n", NODE.replace("{data}", &data.to_string_lossy())))?;
    Ok(file)
}

/// Has a command end by itself, and gives what it printed.
async fn printed(arguments: &[&str]) -> anyhow::Result<String> {
    let ended = cli::run(arguments).await?;
    ensure!(ended.code == Some(0), "{arguments:?}: {ended:?}");
    Ok(ended.stdout.trim().to_owned())
}

#[tokio::test]
async fn a_key_that_a_tenant_has_is_never_made_the_operators() -> anyhow::Result<()> {
    let mut node = Launch::node(NODE)?.start().await?;
    let tenant = register(&node.operator()?, "Acme", "free").await?;
    let own = node.ready().operator_token.clone().context("the node told no operator's key")?;
    node.terminate().await?;

    let file = configure(&node, &format!("auth.operator_key = \"{}\"", tenant.key.secret))?;
    let file = file.to_str().context("the path is not UTF-8")?;
    let refused = cli::run(["node", "--config", file]).await?;
    ensure!(refused.code == Some(1), "it starts with another tenant's key: {refused:?}");
    ensure!(refused.stderr.contains("auth.operator_key has the id of a key of tenant"), "{}", refused.stderr);

    // Nothing was written: without the setting all is as it was, also when the views are folded anew.
    configure(&node, "")?;
    fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;
    for secret in [&tenant.key.secret, &own] {
        let known = Client::new(&node.ready().url, Some(secret))?;
        known.get("/v1/keys").await?.is(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn an_operators_key_is_managed_by_operators_and_a_revoked_one_never_comes_back() -> anyhow::Result<()> {
    let own = format!("{NODE}\n    auth.operator_key = \"{OPERATOR_KEY}\"\n");
    let mut node = Launch::node(&own)?.start().await?;
    let first = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let listed = first.get("/v1/keys").await?.is(200)?;
    ensure!(listed["items"][0]["id"] == OPERATOR_ID, "{listed}");
    let new = json!({"name": "second", "scopes": ["operator"]});
    let second = first.post_json("/v1/keys", &new).await?.is(201)?;
    let second = second["secret"].as_str().context("no secret")?.to_owned();
    let rotated = first.post_json(&format!("/v1/keys/{OPERATOR_ID}/rotate"), &json!({"grace_seconds": 0})).await?;
    let rotated = rotated.is(200)?["secret"].as_str().context("no secret")?.to_owned();
    first.get("/v1/tenants").await?.refuses(401, "unauthenticated")?;
    first.with_credential(&rotated).get("/v1/tenants").await?.is(200)?;
    let second = first.with_credential(&second);
    second.delete(&format!("/v1/keys/{OPERATOR_ID}")).await?.expect(StatusCode::NO_CONTENT)?;
    first.with_credential(&rotated).get("/v1/tenants").await?.refuses(401, "unauthenticated")?;

    // While the node runs, its log is its own.
    let file = configure(&node, "")?;
    let file = file.to_str().context("the path is not UTF-8")?.to_owned();
    let held = cli::run(["operator", "issue", "--config", &file]).await?;
    ensure!(held.code == Some(1) && held.stderr.contains("wasmwiz key"), "{held:?}");
    node.terminate().await?;

    // Configured again, the revoked key is refused at the start.
    let again = configure(&node, &format!("auth.operator_key = \"{OPERATOR_KEY}\""))?;
    let refused = cli::run(["node", "--config", again.to_str().context("the path is not UTF-8")?]).await?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("was revoked"), "{refused:?}");

    // Without a node, the log itself is asked.
    let file = configure(&node, "")?;
    let file = file.to_str().context("the path is not UTF-8")?;
    let list = printed(&["operator", "list", "--config", file]).await?;
    let row = list.lines().find(|line| line.split_whitespace().next() == Some(OPERATOR_ID));
    ensure!(row.is_some_and(|row| row.contains(" revoked 20") && row.ends_with(" operator")), "{list}");
    let third = printed(&["operator", "issue", "--name", "third", "--config", file]).await?;
    let third_id = third.split('_').nth(1).context("no id")?;
    let fourth = printed(&["operator", "rotate", third_id, "--config", file]).await?;
    let json = printed(&["operator", "list", "--config", file, "--output", "json"]).await?;
    ensure!(json.lines().count() == 3 && json.contains("\"third\""), "{json}");
    node.restart().await?;
    let opened = |secret: &str| Client::new(&node.ready().url, Some(secret));
    opened(&third)?.get("/v1/tenants").await?.refuses(401, "unauthenticated")?;
    opened(&fourth)?.get("/v1/tenants").await?.is(200)?;
    node.terminate().await?;
    ensure!(cli::run(["operator", "revoke", third_id, "--config", file]).await?.code == Some(0), "not revoked");
    let unknown = cli::run(["operator", "revoke", "nobodysKey01", "--config", file]).await?;
    ensure!(unknown.code == Some(1), "{unknown:?}");
    node.restart().await?;
    Client::new(&node.ready().url, Some(&fourth))?.get("/v1/tenants").await?.refuses(401, "unauthenticated")?;
    Ok(())
}
