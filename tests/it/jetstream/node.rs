//! A node whose log is on JetStream: it serves, remembers, and its history is proven without it.

use anyhow::{Context, ensure};
use serde_json::Value;
use wasmwiz_tests::{
    cli,
    client::Client,
    guests,
    harness::Launch,
    nats::NatsServer,
    tenants::{Tenant, register},
};

/// Settings of a node whose log is on these servers.
fn settings(server: &NatsServer) -> String {
    format!(
        r#"
        node.data_dir = "{{data}}"
        listen.api = "127.0.0.1:0"
        listen.admin = "127.0.0.1:0"
        log.kind = "jetstream"
        log.jetstream.nats.url = "{}"
        log.jetstream.acknowledged = "unverified"
        "#,
        server.url()
    )
}

async fn bytes(tenant: &Tenant, execution: &str) -> anyhow::Result<(Value, String)> {
    let found = tenant.client.get_json(&format!("/v1/executions/{execution}")).await?;
    let stdout = tenant.client.get(&format!("/v1/executions/{execution}/stdout")).await?;
    Ok((found, stdout.text()))
}

#[tokio::test]
async fn a_node_remembers_on_jetstream_and_its_history_is_proven_without_it() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    let launch = Launch::node(&settings(&server))?;
    let config = launch.data().with_file_name("node.toml");
    let config = config.to_str().context("the folder's name is no text")?.to_owned();
    let mut node = launch.start().await?;
    let tenant = register(&node.operator()?, "Acme", "pro").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    // One that rides with its commit, and one that is a blob.
    let large = "x".repeat(600 << 10);
    let mut ids = Vec::new();
    for input in ["hello", large.as_str()] {
        let execution = tenant.client.execute("echo", input.to_owned()).await?;
        ensure!(execution.outcome.as_deref() == Some("succeeded"), "{execution:?}");
        let (_, stdout) = bytes(&tenant, &execution.id).await?;
        ensure!(stdout == input, "{} bytes came back", stdout.len());
        ids.push(execution.id);
    }
    tenant.client.get("/v1/usage").await?.is(200)?;
    ensure!(!node.data().join("log").exists() && !node.data().join("blobs").exists(), "it remembers beside JetStream");

    for rests in [false, true] {
        if rests {
            ensure!(node.terminate().await?.success(), "{}", node.stderr());
        }
        let verified = cli::run(["audit", "verify", "--config", &config]).await?;
        ensure!(verified.code == Some(0) && verified.stdout.contains("the history is intact"), "{verified:?}");
        let recomputed = cli::run(["usage", "recompute", "--check", "--config", &config]).await?;
        ensure!(
            recomputed.code == Some(0) && recomputed.stdout.contains("every figure is the log's"),
            "{recomputed:?}"
        );
    }
    let shown = cli::run(["audit", "show", "--config", &config, "--tenant", &tenant.id]).await?;
    ensure!(shown.code == Some(0) && shown.stdout.contains("dev.wasmwiz.execution.finished.v1"), "{shown:?}");

    node.restart().await?;
    let tenant = Tenant { client: Client::new(&node.ready().url, Some(&tenant.key.secret))?, ..tenant };
    let (found, stdout) = bytes(&tenant, ids.first().context("none")?).await?;
    ensure!(found["outcome"] == "succeeded" && stdout == "hello", "{found}");
    Ok(())
}

#[tokio::test]
async fn an_offline_command_does_not_make_the_log_that_it_does_not_find() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    let launch = Launch::node(&settings(&server))?;
    let config = launch.data().with_file_name("node.toml");
    let config = config.to_str().context("the folder's name is no text")?;
    let refused = cli::run(["audit", "verify", "--config", config]).await?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("WASMWIZ_LOG is gone"), "{refused:?}");
    Ok(())
}
