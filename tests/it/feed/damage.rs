//! A log, a checkpoint or a stream that is not what it was: the feed sends what is missing again, or stops and says why.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use async_nats::jetstream;
use reqwest::StatusCode;
use rusqlite::{Connection, params};
use serde_json::Value;
use wasmwiz_tests::{
    guests,
    harness::NodeProcess,
    nats::{NatsServer, STREAM},
    tenants::register,
    wait,
};

use super::{fed, recorded, until_equal, until_feed};

/// Runs the echo guest so many times.
async fn run(node: &NodeProcess, times: usize) -> anyhow::Result<()> {
    for _ in 0..times {
        node.client()?.execute("echo", "hello").await?;
    }
    Ok(())
}

/// Waits until the checkpoint of a node is at the end of its log, and ends the node.
async fn end(node: &mut NodeProcess, server: &NatsServer) -> anyhow::Result<()> {
    until_equal(node, server).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    Ok(())
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, target) = (entry?, to.to_owned());
        let target = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?
        } else {
            fs::copy(entry.path(), target).map(drop)?
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_that_cannot_be_read_stops_the_feed_behind_all_before_it_and_is_said() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("")?;
    let mut node = fed(&server)?.start().await?;
    let broken = register(&node.operator()?, "Broken", "pro").await?;
    broken.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    run(&node, 5).await?;
    let whole = recorded(&node.data())?;
    // Its views have seen everything; what it reads from now on, it reads from the disk.
    ensure!(node.terminate().await?.success(), "the node did not end well");
    node.restart().await?;
    let file = Connection::open(node.data().join("log/events.db"))?;
    let position: i64 = file.query_row(
        "UPDATE commits SET body = ?2 WHERE position = (SELECT max(position) FROM commits WHERE tenant = ?1) \
         RETURNING position",
        params![broken.id, b"[]"],
        |row| row.get(0),
    )?;
    drop(file);

    server.start().await?;
    let failing = until_feed(&node, "failing", &format!("stopped at position {position}")).await?;
    ensure!(failing.to_string().contains("damaged"), "no reason: {failing}");
    let messages = server.messages().await?;
    let published: Vec<_> = messages.iter().map(|message| message.id.as_str()).collect();
    let of_broken = whole.get(&broken.id).context("no events")?;
    ensure!(published.contains(&of_broken[0].as_str()), "what lies before the damage was not published");
    ensure!(!published.contains(&of_broken[of_broken.len() - 1].as_str()), "what is damaged was published");
    let of_dev = whole.get("dev").context("no events")?;
    ensure!(!published.contains(&of_dev[of_dev.len() - 1].as_str()), "the feed went on behind the damage");
    // The others go on.
    run(&node, 1).await?;
    node.client()?.get("/readyz").await?.expect(StatusCode::OK)?;
    let metrics = node.admin()?.get("/metrics").await?.text();
    ensure!(metrics.contains("wasmwiz_feed_stopped_total 1"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_said_and_nothing_is_skipped() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let mut node = fed(&server)?.start().await?;
    end(&mut node, &server).await?;
    let file = node.data().join("feed.json");
    let mut checkpoint: Value = serde_json::from_slice(&fs::read(&file)?)?;
    checkpoint["commit"] = "00".repeat(32).into();
    fs::write(&file, checkpoint.to_string())?;

    node.restart().await?;
    until_feed(&node, "failing", "Delete feed.json").await?;
    // It stays so, although the log has long passed that position.
    run(&node, 3).await?;
    until_feed(&node, "failing", "Delete feed.json").await?;
    fs::remove_file(&file)?;
    until_equal(&node, &server).await.map(drop)
}

#[tokio::test]
async fn a_stream_that_is_deleted_gets_everything_again() -> anyhow::Result<()> {
    let server = NatsServer::started().await?;
    let node = fed(&server)?.start().await?;
    run(&node, 3).await?;
    until_equal(&node, &server).await?;
    let client = async_nats::connect(server.url()).await?;
    jetstream::new(client).delete_stream(STREAM).await?;
    run(&node, 1).await?;
    wait::until("the stream", wait::SOON, async || Ok(server.stream().await.ok())).await?;
    until_equal(&node, &server).await.map(drop)
}

#[tokio::test]
async fn a_server_that_lost_what_it_acknowledged_gets_it_again() -> anyhow::Result<()> {
    let mut server = NatsServer::started().await?;
    let mut node = fed(&server)?.start().await?;
    let (store, old) = (server.folder().join("store"), server.folder().join("old"));
    run(&node, 3).await?;
    until_equal(&node, &server).await?;
    server.kill9();
    copy(&store, &old)?;
    server.start().await?;
    run(&node, 5).await?;
    end(&mut node, &server).await?;

    // As after a power cut before the server had synced.
    server.kill9();
    fs::remove_dir_all(&store)?;
    fs::rename(&old, &store)?;
    server.start().await?;
    node.restart().await?;
    until_equal(&node, &server).await.map(drop)
}
