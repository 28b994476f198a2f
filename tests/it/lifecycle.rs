//! How a node starts, stops, starts again, and refuses to start.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{
    chance::Chance,
    cli,
    client::Client,
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    load::Load,
    tenants::{OPERATOR_KEY, register},
    wait,
};

/// A configuration of a node with nothing special.
const NODE: &str = r#"
    node.data_dir = "{data}"
    listen.api = "127.0.0.1:0"
    listen.admin = "127.0.0.1:0"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_told_to_end_under_load_answers_what_it_accepted() -> anyhow::Result<()> {
    let config = format!("{NODE}\n    shutdown.announce_ms = 1500\n    auth.operator_key = \"{OPERATOR_KEY}\"\n");
    let mut node = Launch::node(&config)?.start().await?;
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let client = register(&operator, "Busy", "enterprise").await?.client;
    let echo = Bytes::from(guests::ECHO.wasm()?);
    client.put_module("echo", echo.clone()).await?.expect(StatusCode::CREATED)?;
    ensure!(operator.get("/readyz").await?.status == StatusCode::OK, "the node is not ready");
    let load = Load::begin(&client, &echo, 16, &mut Chance::printed()?);
    let data = node.data();
    wait::until("some load", wait::SOON, async || {
        Ok((History::read(&data)?.ended(Outcome::Succeeded) > 50).then_some(()))
    })
    .await?;
    node.signal(Signal::TERM)?;
    // It announces its end and still serves: load balancers look elsewhere before they have to.
    let unready = wait::until("the announcement", Duration::from_millis(1_400), async || {
        let answer = operator.get("/readyz").await?;
        Ok((answer.status != StatusCode::OK).then_some(answer))
    });
    ensure!(unready.await?.status == StatusCode::SERVICE_UNAVAILABLE, "readiness has another status");
    client.execute("echo", "served to the end").await?;
    ensure!(node.ended().await?.code() == Some(0), "the node ended with another status");
    let got = load.end().await?;
    let history = History::read(&node.data())?;
    history.each_ended_once()?;
    ensure!(history.ended(Outcome::Lost) == 0, "an execution was lost");
    // The one above is not counted by the load.
    let (answered, accepted) = (got.answered.len() + 1, history.executions.len());
    eprintln!("{answered} answered, {} refused, {} unanswered", got.refused.len(), got.unanswered);
    ensure!(answered == accepted, "{accepted} were accepted and {answered} answered");
    for refused in &got.refused {
        ensure!(refused.status == StatusCode::SERVICE_UNAVAILABLE, "refused with {}", refused.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_second_start_goes_on_with_the_history() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    let first_key = node.ready().api_key.clone().context("dev gives a key")?;
    let first_operator = node.ready().operator_token.clone().context("dev gives an operator's key")?;
    let execution = node.client()?.execute("greeter", "Ada").await?;
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    let before = History::read(&node.data())?;

    node.restart().await?;
    let ready: Value = serde_json::from_str(&node.ready_text()?)?;
    for member in ["url", "admin_url", "tenant", "api_key", "operator_token"] {
        ensure!(ready[member].as_str().is_some_and(|text| !text.is_empty()), "{member} is missing: {ready}");
    }
    ensure!(ready["pid"].as_u64().is_some_and(|pid| pid > 0) && ready["tenant"] == "dev", "{ready}");
    let second_key = node.ready().api_key.clone().context("dev gives a key")?;
    ensure!(second_key != first_key, "the same key was drawn twice");
    let url = node.ready().url.clone();
    for key in [&first_key, &second_key] {
        let shown = Client::new(&url, Some(key))?.execution(&execution.id).await?;
        ensure!(shown.stdout == "Hello, Ada!\n", "the execution has changed: {shown:?}");
    }
    Client::new(&url, Some(&first_operator))?.get("/v1/tenants").await?.is(200)?;

    let after = History::read(&node.data())?;
    ensure!(after.events > before.events, "the second start recorded nothing");
    for id in before.executions.keys() {
        ensure!(after.executions.contains_key(id), "{id} is gone");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why_and_what_to_do() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let dev = |data: PathBuf, listen: &str| {
        let launch = Launch::bare()?.argument("dev").argument("--listen").argument(listen);
        anyhow::Ok(launch.argument("--data").argument(data))
    };

    let held = dev(node.data(), "127.0.0.1:0")?.start_in_vain().await?;
    ensure!(held.code == Some(1), "a second node on the same folder: {held:?}");
    ensure!(held.stderr.contains("another process") && held.stderr.contains("data"), "{}", held.stderr);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let other = tempfile::tempdir()?;
    let taken = dev(other.path().join("data"), &address)?.start_in_vain().await?;
    ensure!(taken.code == Some(1), "a port in use: {taken:?}");
    ensure!(taken.stderr.contains(&address) && taken.stderr.contains("in use"), "{}", taken.stderr);

    for (wrong, named) in [
        ("listen.adress = \"127.0.0.1:0\"", "adress"),
        ("[tiers.free]\nexecutions_a_minute = 1", "executions_a_minute"),
        ("auth.pepper = \"short\"", "auth.pepper"),
        ("auth.operator_key = \"ww_nonsense\"", "auth.operator_key"),
        ("node.name = \"Not A Name\"", "name"),
        ("this is not TOML", "node.toml"),
    ] {
        let ended = Launch::node(&format!("{NODE}\n{wrong}\n"))?.start_in_vain().await?;
        ensure!(ended.code == Some(1), "{wrong}: {ended:?}");
        ensure!(ended.stderr.contains(named), "{wrong}: {}", ended.stderr);
        ensure!(!ended.stderr.contains("panicked"), "{wrong}: {}", ended.stderr);
    }

    let misused = cli::run(["dev", "--no-such-flag"]).await?;
    ensure!(misused.code == Some(2) && misused.stderr.contains("--no-such-flag"), "{misused:?}");
    let helped = cli::run(["--help"]).await?;
    ensure!(helped.code == Some(0) && helped.stdout.contains("dev"), "{helped:?}");
    let version = cli::run(["--version"]).await?;
    ensure!(version.code == Some(0) && version.stdout.starts_with("wasmwiz "), "{version:?}");

    // The node that holds the folder has noticed nothing.
    node.client()?.execute("greeter", "Ada").await?;
    Ok(())
}

#[tokio::test]
async fn a_configured_operator_key_works_and_no_secret_is_written_anywhere() -> anyhow::Result<()> {
    let pepper = "a pepper for this test alone, 0123456789";
    let auth = format!("auth.operator_key = \"{OPERATOR_KEY}\"\n    auth.pepper = \"{pepper}\"");
    let mut node = Launch::node(&format!("{NODE}\n    {auth}\n    telemetry.filter = \"trace\"\n"))?.start().await?;
    ensure!(node.ready().operator_token.is_none(), "a configured key is told to nobody");
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let tenant = register(&operator, "Careful", "enterprise").await?;
    let issued = wasmwiz_tests::tenants::issue(&tenant.client, "second", &["executions:read"]).await?;
    let client = &tenant.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    client.execute("echo", "a payload that is nobody's business").await?;
    client.with_credential(&issued.secret).get("/v1/executions").await?.is(200)?;
    client.with_credential(&flip_last(&issued.secret)).get("/v1/executions").await?.refuses(401, "unauthenticated")?;
    let metrics = node.admin()?.get("/metrics").await?.expect(StatusCode::OK)?.text();
    ensure!(metrics.contains("wasmwiz_"), "no metrics: {metrics}");
    // The same key at a second start, also when the views have to be folded again first.
    node.terminate().await?;
    fs::remove_dir_all(node.data().join("views"))?;
    node.restart().await?;
    Client::new(&node.ready().url, Some(OPERATOR_KEY))?.get("/v1/tenants").await?.is(200)?;
    let (stdout, stderr) = (node.stdout(), node.stderr());
    node.terminate().await?;

    let secrets = [OPERATOR_KEY, &tenant.key.secret, &issued.secret].map(secret_of);
    for secret in secrets.iter().map(String::as_str).chain([pepper]) {
        for (place, text) in [("stdout", &stdout), ("stderr", &stderr), ("/metrics", &metrics)] {
            ensure!(!text.contains(secret), "a secret is in {place}");
        }
        let files = files_with(&node.data(), secret.as_bytes())?;
        ensure!(files.is_empty(), "a secret is in {files:?}");
    }
    ensure!(!stderr.contains("nobody's business"), "a payload is in the log lines");
    // The search itself works: the public part of a key is in the log.
    ensure!(!files_with(&node.data(), issued.id.as_bytes())?.is_empty(), "the key's id is in no file");
    Ok(())
}

/// The files of views as they were, to be put back: then the views have to fold again what came since.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Waits until a node has said for the `times`-th time in its lives that it serves.
async fn until_it_serves(node: &NodeProcess, times: usize) -> anyhow::Result<()> {
    wait::until("a node that serves", wait::SOON, async || {
        Ok((node.stderr().matches("the node serves").count() == times).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_views_are_behind_starts_all_the_same_and_stops_in_order() -> anyhow::Result<()> {
    let config = format!("{NODE}\n    auth.operator_key = \"{OPERATOR_KEY}\"\n");
    let dev = Launch::dev()?.variable("WASMWIZ_TELEMETRY__FILTER", "info");
    for (launch, waits_for_views) in [(Launch::node(&config)?, false), (dev, true)] {
        let mut node = launch.start().await?;
        let (views, old) = (node.data().join("views"), node.data().join("old"));
        ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
        copy(&views, &old)?;
        node.restart().await?;
        let operator = match waits_for_views {
            true => node.operator()?,
            false => Client::new(&node.ready().url, Some(OPERATOR_KEY))?,
        };
        let tenant = register(&operator, "Late", "free").await?;
        ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
        fs::remove_dir_all(&views)?;
        fs::rename(&old, &views)?;
        let holder = rusqlite::Connection::open(views.join("keys.v4.db"))?;
        holder.execute_batch("BEGIN IMMEDIATE")?;

        // Told to end while it waits for its views, it ends in order.
        node.begin_again().await?;
        until_it_serves(&node, 3).await?;
        ensure!(node.terminate().await?.code() == Some(0), "a starting node ended with another status");
        ensure!(node.stderr().contains("the node has stopped"), "it did not stop in order: {}", node.stderr());

        if waits_for_views {
            node.begin_again().await?;
            until_it_serves(&node, 4).await?;
            holder.execute_batch("ROLLBACK")?;
            node.wait_until_ready().await?;
        } else {
            node.restart().await?;
            let client = Client::new(&node.ready().url, None)?;
            ensure!(client.get("/readyz").await?.status == StatusCode::SERVICE_UNAVAILABLE, "it is ready too early");
            holder.execute_batch("ROLLBACK")?;
        }
        let late = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
        let known = async || Ok((late.get("/v1/keys").await?.status == StatusCode::OK).then_some(()));
        wait::until("the key that was folded late", wait::SOON, known).await?;
    }
    Ok(())
}

/// The secret part of a key: what stands behind its id.
fn secret_of(key: &str) -> String {
    key.rsplit('_').next().unwrap_or(key).to_owned()
}

/// A key whose last character is another one.
fn flip_last(key: &str) -> String {
    let (rest, last) = key.split_at(key.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

/// The files below `folder` that hold `needle`.
fn files_with(folder: &Path, needle: &[u8]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle)?);
        } else if fs::read(&path)?.windows(needle.len()).any(|window| window == needle) {
            found.push(path);
        }
    }
    Ok(found)
}
