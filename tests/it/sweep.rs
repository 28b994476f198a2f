//! The sweep for lost executions: it reaches every tenant whose history can be read, whatever has become of the others.

use std::path::Path;

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use rusqlite::{Connection, params};
use wasmwiz_events::{
    event::Event,
    log::sqlite::{Found, SqliteLog},
};
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    tenants::{Tenant, register},
    wait,
};

/// A configuration of a node with nothing special.
const NODE: &str = r#"
    node.data_dir = "{data}"
    listen.api = "127.0.0.1:0"
    listen.admin = "127.0.0.1:0"
"#;

/// Two tenants, in the order in which the sweep asks them, with an open execution each; their node was killed.
async fn killed(mut node: NodeProcess) -> anyhow::Result<(NodeProcess, [Tenant; 2])> {
    let operator = node.operator()?;
    let tenants =
        [register(&operator, "First", "enterprise").await?, register(&operator, "Second", "enterprise").await?];
    let mut sleeping = Vec::new();
    for (open, tenant) in tenants.iter().enumerate() {
        let sleeper = guests::ENDLESS_SLEEP;
        tenant.client.put_module(sleeper.name, sleeper.wasm()?).await?.expect(StatusCode::CREATED)?;
        let client = tenant.client.clone();
        sleeping.push(tokio::spawn(async move { client.execute(sleeper.name, "").await }));
        let data = node.data();
        wait::until("one more open execution", wait::SOON, async || {
            Ok((History::read(&data)?.open() == open + 1).then_some(()))
        })
        .await?;
    }
    node.kill9().await?;
    for sleeping in sleeping {
        ensure!(sleeping.await?.is_err(), "an endless sleep was answered");
    }
    Ok((node, tenants))
}

/// How many executions of a tenant the log declares lost; it is read although another tenant's history is broken.
fn lost(data: &Path, tenant: &Tenant) -> anyhow::Result<usize> {
    let mut lost = 0;
    for found in SqliteLog::open_read_only(&data.join("log"))?.rows() {
        let Found::Row(row) = found else { continue };
        let commit = row.commit.map_err(anyhow::Error::msg)?;
        if commit.tenant().as_str() == tenant.id
            && let Ok(events) = commit.events()
        {
            lost += events.iter().filter(|envelope| matches!(envelope.event, Event::ExecutionLost(_))).count();
        }
    }
    Ok(lost)
}

async fn until_lost(data: &Path, tenant: &Tenant) -> anyhow::Result<()> {
    let looking = wait::until("a lost execution", wait::SOON, async || Ok((lost(data, tenant)? == 1).then_some(())));
    looking.await.with_context(|| format!("of tenant {}", tenant.id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_cannot_be_read_back_keeps_no_other_from_its_lost_executions() -> anyhow::Result<()> {
    let (mut node, [broken, sound]) = killed(NodeProcess::dev().await?).await?;
    let file = node.data().join("log/events.db");
    let shift = |by: i64| -> anyhow::Result<()> {
        let sql = "UPDATE commits SET recorded_at = recorded_at + ?2 WHERE tenant = ?1 AND first_revision = 1";
        ensure!(Connection::open(&file)?.execute(sql, params![broken.id, by])? == 1, "no first commit");
        Ok(())
    };
    shift(1)?;
    node.restart().await?;
    until_lost(&node.data(), &sound).await?;
    let shown =
        Client::new(&node.ready().url, Some(&sound.key.secret))?.get_json("/v1/executions?outcome=lost").await?;
    ensure!(shown["items"].as_array().is_some_and(|items| items.len() == 1), "the lost one is not shown: {shown}");
    ensure!(lost(&node.data(), &broken)? == 0, "a broken history was written to");
    wait::until("a word on the broken tenant", wait::SOON, async || {
        let said = |line: &str| line.contains("is asked again") && line.contains(&broken.id);
        Ok(node.stderr().lines().any(said).then_some(()))
    })
    .await?;

    // It is asked again until it answers.
    shift(-1)?;
    until_lost(&node.data(), &broken).await?;
    let words = node.stderr().lines().filter(|line| line.contains("is asked again")).count();
    ensure!(words == 1, "the same reason was given {words} times");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_executions_are_found_behind_the_place_of_a_stream_that_is_set_aside() -> anyhow::Result<()> {
    let (mut node, [broken, sound]) = killed(Launch::node(NODE)?.start().await?).await?;
    // No view can fold it, and they begin anew: they know nothing of what the tenant ran.
    let sql = "UPDATE commits SET body = CAST('[' || substr(CAST(body AS TEXT), 3) AS BLOB)
               WHERE tenant = ?1 AND first_revision = 1";
    ensure!(Connection::open(node.data().join("log/events.db"))?.execute(sql, [&broken.id])? == 1, "no first commit");
    std::fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;
    until_lost(&node.data(), &sound).await
}
