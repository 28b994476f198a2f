//! Payloads that are older than they are to be kept: they go, what is named stays, and a node may be killed at any moment of it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::sleep;
use wasmwiz_events::digest::Digest;
use wasmwiz_tests::{
    chance::Chance,
    cli,
    client::Client,
    guests,
    harness::{Launch, NodeProcess},
    tenants::register,
    wait::{self, SOON},
};

/// More than rides with a commit.
const LARGE: usize = 100_000;

/// A node that keeps nothing of these classes for longer than it has to.
fn forgetful(classes: &[&str]) -> anyhow::Result<Launch> {
    let launch = Launch::dev()?.variable("WASMWIZ_RETENTION__EVERY_SECONDS", "1");
    Ok(classes.iter().fold(launch, |launch, class| launch.variable(format!("WASMWIZ_RETENTION__{class}_DAYS"), "0")))
}

/// The names of all blobs.
fn blobs(data: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for folder in std::fs::read_dir(data.join("blobs/sha256"))? {
        for blob in std::fs::read_dir(folder?.path())? {
            found.insert(blob?.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

async fn stored(client: &Client) -> anyhow::Result<Value> {
    Ok(client.get_json("/v1/usage").await?["storage"].clone())
}

/// Runs the module that echoes, and gives the path of the record.
async fn echo(client: &Client, input: Vec<u8>) -> anyhow::Result<String> {
    let shown = client.post_bytes("/v1/modules/echo/executions", input).await?.is(200)?;
    Ok(format!("/v1/executions/{}", shown["id"].as_str().context("no id")?))
}

#[tokio::test]
async fn what_is_kept_no_longer_is_counted_back_and_its_record_says_that_it_is_gone() -> anyhow::Result<()> {
    let mut node = forgetful(&["INPUTS", "MODULES"])?.start().await?;
    let client = register(&node.operator()?, "Forgetful", "pro").await?.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let small = echo(&client, b"small".to_vec()).await?;
    let large = echo(&client, vec![b'x'; LARGE]).await?;
    // Of both executions the outputs stay.
    wait::until("the inputs are given back", SOON, async || {
        let now = stored(&client).await?;
        Ok((now["payload_bytes"] == 5 + LARGE).then_some(()))
    })
    .await?;
    wait::until("the small input is gone", SOON, async || {
        Ok((client.get(&format!("{small}/stdin")).await?.status == StatusCode::NOT_FOUND).then_some(()))
    })
    .await?;
    for (record, bytes) in [(&small, 5), (&large, LARGE)] {
        let stdout = client.get(&format!("{record}/stdout")).await?.expect(StatusCode::OK)?;
        ensure!(stdout.body.len() == bytes, "an output that is kept is not whole");
    }
    client.post_bytes(&format!("{small}/verify"), "").await?.refuses(404, "payload-gone")?;

    client.delete("/v1/modules/echo").await?.expect(StatusCode::NO_CONTENT)?;
    wait::until("the module is given back", SOON, async || {
        let now = stored(&client).await?;
        Ok((now["module_bytes"] == 0).then_some(()))
    })
    .await?;
    let released = client.get_json("/v1/audit?type=dev.wasmwiz.payloads.released.v1").await?;
    ensure!(released["items"].as_array().is_some_and(|items| items.len() >= 2), "{released}");
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    let verified = cli::verify(&node.data()).await?;
    ensure!(verified.code == Some(0), "the log is not whole: {verified:?}");
    let data = node.data().to_string_lossy().into_owned();
    let figures = cli::run(["usage", "recompute", "--check", "--data", &data]).await?;
    ensure!(figures.code == Some(0), "{figures:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_killed_while_it_removes_loses_nothing_that_is_named_and_leaves_nothing_else()
-> anyhow::Result<()> {
    let mut chance = Chance::printed()?;
    let mut node = forgetful(&["INPUTS", "OUTPUTS", "TRANSCRIPTS", "MODULES"])?.start().await?;
    let client = register(&node.operator()?, "Killed", "enterprise").await?.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    for cycle in 0..12_u8 {
        let client = client.at(&node.ready().url);
        for n in 0..4_u8 {
            echo(&client, [vec![cycle, n], vec![b'x'; LARGE]].concat()).await?;
        }
        sleep(Duration::from_millis(chance.within(500..2_500))).await;
        node.kill9().await?;
        node.restart().await?;
        // What is named is there: the module runs, and can be had.
        let client = client.at(&node.ready().url);
        client.get("/v1/modules/echo/versions/1/wasm").await?.expect(StatusCode::OK)?;
        echo(&client, b"again".to_vec()).await?;
    }
    // The last life has put nothing large, so that it removes all that earlier ones have put.
    node.kill9().await?;
    node.restart().await?;
    let client = client.at(&node.ready().url);
    let data = node.data();
    wait::until("nothing but modules is stored", SOON, async || {
        let now = stored(&client).await?;
        // The modules of the tenant that `dev` has made are there as well.
        let is_payload = |name: &String| {
            let path = data.join("blobs/sha256").join(name.get(..2).unwrap_or_default()).join(name);
            std::fs::metadata(path).is_ok_and(|found| found.len() == 2 + LARGE as u64)
        };
        Ok((now["payload_bytes"] == 0 && !blobs(&data)?.iter().any(is_payload)).then_some(()))
    })
    .await?;
    client.get("/v1/modules/echo/versions/1/wasm").await?.expect(StatusCode::OK)?;
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    ensure!(cli::verify(&node.data()).await?.code == Some(0), "the log is not whole");
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_killed_as_it_removes_a_blob_has_it_gone_after_the_next_sweep() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().canonicalize()?;
    // Nothing is removed in this life.
    let mut node = Launch::dev_on(&data)?.start().await?;
    let tenant = register(&node.operator()?, "Killed", "pro").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let record = echo(&tenant.client, vec![b'x'; LARGE]).await?;
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    drop(node);
    let name = Digest::of(&vec![b'x'; LARGE]).to_hex();
    let blob = data.join("blobs/sha256").join(name.get(..2).unwrap_or_default()).join(&name);
    ensure!(blob.exists(), "{} is not there", blob.display());

    let classes = ["INPUTS", "OUTPUTS"].map(|class| format!("WASMWIZ_RETENTION__{class}_DAYS"));
    let forgets = |launch: Launch| {
        let launch = classes.iter().fold(launch, |launch, class| launch.variable(class, "0"));
        // The node is ready before its first sweep.
        launch.variable("WASMWIZ_RETENTION__EVERY_SECONDS", "3")
    };
    let mut node = forgets(Launch::dev_on(&data)?).killed_at_removal(&blob).start().await?;
    ensure!(!node.ended().await?.success(), "the node was not killed");
    drop(node);

    let mut node = forgets(Launch::dev_on(&data)?).start().await?;
    let client = tenant.client.at(&node.ready().url);
    client.get("/v1/modules/echo/versions/1/wasm").await?.expect(StatusCode::OK)?;
    wait::until("the blob is gone", SOON, async || Ok((!blob.exists()).then_some(()))).await?;
    client.get(&format!("{record}/stdout")).await?.refuses(404, "payload-gone")?;
    ensure!(stored(&client).await?["payload_bytes"] == 0, "something is counted that is gone");
    ensure!(node.terminate().await?.success(), "the node did not end well: {}", node.stderr());
    ensure!(cli::verify(&data).await?.code == Some(0), "the log is not whole");
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_not_told_to_removes_nothing() -> anyhow::Result<()> {
    let node: NodeProcess = Launch::dev()?.variable("WASMWIZ_RETENTION__EVERY_SECONDS", "1").start().await?;
    let client = register(&node.operator()?, "Kept", "pro").await?.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let record = echo(&client, vec![b'x'; LARGE]).await?;
    client.delete("/v1/modules/echo").await?.expect(StatusCode::NO_CONTENT)?;
    let before = (blobs(&node.data())?, stored(&client).await?);
    sleep(Duration::from_secs(3)).await;
    ensure!((blobs(&node.data())?, stored(&client).await?) == before, "something was removed");
    client.get(&format!("{record}/stdin")).await?.expect(StatusCode::OK)?;
    client.post_bytes(&format!("{record}/verify"), "").await?.is(200)?;
    Ok(())
}
