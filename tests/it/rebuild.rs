//! Views are folds of the log: deleting them loses nothing.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use wasmwiz_events::{
    log::{EventLog, sqlite::SqliteLog},
    revision::Position,
};
use wasmwiz_projections::{Views, views::Checksum};
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::NodeProcess,
    tenants::{Tenant, issue, register},
    wait,
};

/// How many views there are; each has its checksum.
const VIEWS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_that_were_deleted_come_back_row_by_row() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let tenant = live(&mut node).await?;
    let before = shown(&node, &tenant).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");

    let (data, views) = (node.data(), node.data().join("views"));
    let left = checksums(&data, Left::AtTheTail).await?;
    ensure!(left.len() == VIEWS, "there are {} views: {left:?}", left.len());
    fs::remove_dir_all(&views)?;
    let folded_again = checksums(&data, Left::Anywhere).await?;
    for (left, again) in left.iter().zip(&folded_again) {
        ensure!(left == again, "the node left {left:?}, and the log folds to {again:?}");
    }

    fs::remove_dir_all(&views)?;
    node.restart().await?;
    let after = shown(&node, &tenant).await?;
    for (path, before) in &before {
        let after = after.iter().find(|(other, _)| other == path).map(|(_, shown)| shown);
        ensure!(after == Some(before), "{path} showed {before}, and shows {after:?} after a rebuild");
    }
    Ok(())
}

/// Where the files must stand before anything is folded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    AtTheTail,
    Anywhere,
}

/// The checksums of the views of a node that does not run, folded to the end of its log.
async fn checksums(data: &Path, left: Left) -> anyhow::Result<Vec<Checksum>> {
    let log = Arc::new(SqliteLog::open(&data.join("log"), Default::default())?);
    let tail = log.tail().await?;
    if left == Left::AtTheTail {
        stand_at(&data.join("views"), tail)?;
    }
    let views = Views::open(&data.join("views"), Default::default(), Arc::clone(&log) as Arc<dyn EventLog>).await?;
    views.wait_for(tail, Duration::from_secs(20)).await?;
    let checksums = views.checksums().await?;
    views.shutdown().await;
    Ok(checksums)
}

/// A node that ended well has folded everything.
fn stand_at(views: &Path, tail: Position) -> anyhow::Result<()> {
    let mut files = 0;
    for entry in fs::read_dir(views)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "db") {
            continue;
        }
        files += 1;
        let file = rusqlite::Connection::open(&path)?;
        let position: i64 = file.query_row("SELECT position FROM checkpoint", [], |row| row.get(0))?;
        ensure!(position.unsigned_abs() == tail.get(), "{} stands at {position}, not {tail}", path.display());
    }
    ensure!(files == VIEWS, "there are {files} files of views");
    Ok(())
}

/// A history in which everything has happened that the API can make happen.
async fn live(node: &mut NodeProcess) -> anyhow::Result<Tenant> {
    let operator = node.operator()?;
    let tenant = register(&operator, "Mixed", "enterprise").await?;
    let other = register(&operator, "Other", "free").await?;
    let path = format!("/v1/tenants/{}", other.id);
    operator.patch_json(&path, &json!({"name": "Renamed", "tier": "pro"})).await?.expect(StatusCode::OK)?;
    for act in ["suspend", "resume", "suspend"] {
        let answer = operator.post_json(&format!("{path}/{act}"), &json!({})).await?;
        ensure!(answer.status.is_success(), "{act}: {}", answer.text());
    }

    let client = &tenant.client;
    let revoked = issue(client, "revoked", &["executions:run", "executions:read"]).await?;
    client.with_credential(&revoked.secret).execute("nothing", "").await.err().context("there is no such module")?;
    client.delete(&format!("/v1/keys/{}", revoked.id)).await?.expect(StatusCode::NO_CONTENT)?;
    issue(client, "reader", &["audit:read"]).await?;

    for guest in guests::ALL.iter().filter(|guest| **guest != guests::FOREIGN_IMPORT) {
        client.put_module(guest.name, guest.wasm()?).await?.expect(StatusCode::CREATED)?;
    }
    // Another version under the same name, a rejection, and a name that is gone.
    client.put_module("trap", guests::EXIT7.wasm()?).await?.expect(StatusCode::CREATED)?;
    client.put_module("foreign", guests::FOREIGN_IMPORT.wasm()?).await?.expect(StatusCode::UNPROCESSABLE_ENTITY)?;
    client.delete("/v1/modules/clock").await?.expect(StatusCode::NO_CONTENT)?;

    for (path, outcome) in [
        ("echo/executions", "succeeded"),
        ("exit7/executions", "exited"),
        ("trap/executions?version=1", "trapped"),
        ("endless-loop/executions?timeout_ms=50", "deadline_exceeded"),
        ("stdout-megabytes/executions?arg=a&arg=b", "succeeded"),
        ("stderr/executions", "succeeded"),
    ] {
        let ended = client.post_bytes(&format!("/v1/modules/{path}"), vec![b'x'; 100_000]).await?.is(200)?;
        ensure!(ended["outcome"] == outcome, "{path}: {ended}");
    }
    lose_one(node, &tenant).await
}

/// Kills the node while a guest sleeps, and waits until the execution is declared lost.
async fn lose_one(node: &mut NodeProcess, tenant: &Tenant) -> anyhow::Result<Tenant> {
    let client = tenant.client.clone();
    let sleeping = tokio::spawn(async move { client.execute("endless-sleep", "").await });
    let data = node.data();
    wait::until("an open execution", wait::SOON, async || {
        Ok((wasmwiz_tests::history::History::read(&data)?.open() == 1).then_some(()))
    })
    .await?;
    node.kill9().await?;
    ensure!(sleeping.await?.is_err(), "an endless sleep was answered");
    node.restart().await?;
    let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
    wait::until("a lost execution", wait::SOON, async || {
        let lost = client.get_json("/v1/executions?outcome=lost").await?;
        Ok((lost["items"].as_array().is_some_and(|items| items.len() == 1)).then_some(()))
    })
    .await?;
    Ok(Tenant { client, ..tenant.clone() })
}

/// What the API shows of the tenant.
async fn shown(node: &NodeProcess, tenant: &Tenant) -> anyhow::Result<Vec<(String, Value)>> {
    let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
    // Whatever the node has written when it started is folded first.
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(200)?;
    let mut shown = Vec::new();
    for path in [
        "keys",
        "modules",
        "modules/trap/versions",
        "executions?limit=200",
        "usage?by=key&to=2100-01-01T00:00:00Z&from=2001-01-01T00:00:00Z",
        "audit?limit=200",
    ] {
        let body = client.get(&format!("/v1/{path}")).await?.is(200)?;
        shown.push((path.to_owned(), body));
    }
    Ok(shown)
}
