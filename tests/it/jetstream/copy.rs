//! A log that was begun on SQLite goes on on JetStream: the same history, with the same proofs.

use anyhow::{Context, ensure};
use serde_json::Value;
use wasmwiz_tests::{cli, client::Client, guests, harness::Launch, nats::NatsServer, tenants::register, wait};

const NODE: &str = "node.data_dir = \"{data}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n";

fn file(launch: &Launch) -> anyhow::Result<String> {
    let file = launch.data().with_file_name("node.toml");
    Ok(file.to_str().context("the folder's name is no text")?.to_owned())
}

#[tokio::test]
async fn a_log_of_sqlite_is_copied_to_jetstream_and_goes_on_there() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    let launch = Launch::node(NODE)?;
    let from = file(&launch)?;
    let mut old = launch.start().await?;
    let tenant = register(&old.operator()?, "Acme", "pro").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let large = "x".repeat(600 << 10);
    let before = tenant.client.execute("echo", large.clone()).await?;
    let head = tenant.client.get_json("/v1/audit/head").await?;
    let elsewhere = format!(
        "{NODE}log.kind = \"jetstream\"\nlog.jetstream.acknowledged = \"unverified\"\nlog.jetstream.nats.url = \"{}\"\n",
        server.url()
    );
    let launch = Launch::node(&elsewhere)?;
    let to = file(&launch)?;

    let beside = cli::run(["log", "copy", "--from", &from, "--to", &to]).await?;
    ensure!(beside.code == Some(1), "it was copied beside a running node: {beside:?}");
    ensure!(old.terminate().await?.success(), "{}", old.stderr());
    let copied = cli::run(["log", "copy", "--from", &from, "--to", &to, "--output", "json"]).await?;
    let report: Value = serde_json::from_str(&copied.stdout).with_context(|| format!("{copied:?}"))?;
    ensure!(copied.code == Some(0) && report["missing"] == 0 && report["present"] == 0, "{copied:?}");
    let twice = cli::run(["log", "copy", "--from", &from, "--to", &to]).await?;
    ensure!(twice.code == Some(1) && twice.stderr.contains("--resume"), "{twice:?}");
    let resumed = cli::run(["log", "copy", "--from", &from, "--to", &to, "--resume", "--output", "json"]).await?;
    let again: Value = serde_json::from_str(&resumed.stdout).with_context(|| format!("{resumed:?}"))?;
    ensure!(again["present"] == report["commits"], "{again} after {report}");
    let verified = cli::run(["audit", "verify", "--config", &to]).await?;
    ensure!(verified.code == Some(0) && verified.stdout.contains("the history is intact"), "{verified:?}");

    let new = launch.start().await?;
    let client = Client::new(&new.ready().url, Some(&tenant.key.secret))?;
    // Its views are folded anew.
    let seen = wait::until("the history in the new views", wait::SOON, async || {
        let answer = client.get("/v1/audit/head").await?;
        Ok((answer.status == 200).then_some(answer))
    });
    let again: Value = seen.await?.json()?;
    ensure!(again["revision"] == head["revision"] && again["hash"] == head["hash"], "{again} after {head}");
    let stdout = client.get(&format!("/v1/executions/{}/stdout", before.id)).await?;
    ensure!(stdout.text() == large, "the blob was not copied");
    ensure!(client.execute("echo", "more").await?.stdout == "more");
    Ok(())
}
