//! A log that was begun on SQLite goes on on JetStream, and the other way: the same history, with the same proofs.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, time::Instant};
use wasmwiz_events::log::{conformance::Stream, jetstream::JetstreamLog, sqlite::SqliteLog};
use wasmwiz_tests::{
    chance::setting,
    cli::{self, Ended},
    client::Client,
    guests,
    harness::{self, Launch},
    nats::NatsServer,
    python,
    tenants::register,
    wait,
};

use super::{config, write};

/// How many commits are copied there and back, if the variable does not say otherwise.
const COMMITS: (&str, u64) = ("WASMWIZ_TESTS_COPY_COMMITS", 600);

/// Tenants that they are of.
const TENANTS: u64 = 12;

/// Commits of which a copy is broken off: it takes long enough to be met on its way.
const BROKEN_OFF: u64 = 3_000;

/// How often a copy may end before it is met.
const MISSED_MAX: u32 = 5;

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

/// A log on JetStream with so many commits of several tenants, in no order but that of each tenant.
async fn filled(server: &NatsServer, commits: u64) -> anyhow::Result<()> {
    let log = JetstreamLog::open(config(server.url(), 1)).await?;
    let each = usize::try_from(commits / TENANTS)?;
    try_join_all((0..TENANTS).map(|_| write(&log, Stream::fresh(), each))).await?;
    log.close();
    Ok(())
}

/// A folder with configurations by their names.
struct Files(TempDir);

impl Files {
    fn of(server: &NatsServer) -> anyhow::Result<Self> {
        let (folder, url) = (tempfile::tempdir()?, server.url());
        let jetstream = format!("log.kind = \"jetstream\"\nlog.jetstream.nats.url = \"{url}\"\n");
        let other = "log.jetstream.stream = \"BACK\"\nlog.jetstream.bucket = \"BACK_BLOBS\"\n\
                     log.jetstream.subject_prefix = \"back\"\n";
        for (name, more) in
            [("sqlite", String::new()), ("back", format!("{jetstream}{other}")), ("jetstream", jetstream)]
        {
            let data = folder.path().join(name);
            fs::create_dir(&data)?;
            fs::write(folder.path().join(format!("{name}.toml")), format!("node.data_dir = {data:?}\n{more}"))?;
        }
        Ok(Self(folder))
    }

    fn data(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, name: &str) -> anyhow::Result<String> {
        let file = self.0.path().join(format!("{name}.toml"));
        Ok(file.to_str().context("the folder's name is no text")?.to_owned())
    }

    /// A command that may take as long as many commits do.
    async fn run(&self, words: &[&str], commits: u64) -> anyhow::Result<Ended> {
        let within = Duration::from_secs(60 + commits / 100);
        let mut command = Command::new(harness::binary()?);
        python::run(command.args(words).kill_on_drop(true), within).await
    }

    /// Copies, and gives what is reported.
    async fn copy(&self, from: &str, to: &str, more: &[&str], commits: u64) -> anyhow::Result<Value> {
        let (from, to) = (self.config(from)?, self.config(to)?);
        let words = [&["log", "copy", "--output", "json", "--from", &from, "--to", &to][..], more].concat();
        let begun = Instant::now();
        let ended = self.run(&words, commits).await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        eprintln!("{commits} commits were copied from {from} to {to} in {:?}", begun.elapsed());
        serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))
    }

    /// The ends of all streams and the order of all commits, once the whole log was verified.
    async fn heads(&self, name: &str, commits: u64) -> anyhow::Result<Value> {
        let file = self.config(name)?;
        let verified = self.run(&["audit", "verify", "--config", &file], commits).await?;
        ensure!(verified.code == Some(0) && verified.stdout.contains("the history is intact"), "{verified:?}");
        let heads = self.run(&["audit", "head", "--all", "--config", &file], commits).await?;
        serde_json::from_str(&heads.stdout).with_context(|| format!("{heads:?}"))
    }
}

/// How many commits there are, in which order, and where each stream ends: nothing else than this is to be the same.
fn is_same(one: &Value, other: &Value) -> bool {
    ["commits", "order", "heads"].iter().all(|field| one[field] == other[field])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_jetstream_is_copied_to_sqlite_and_back_in_the_same_order() -> anyhow::Result<()> {
    let commits = setting(COMMITS.0, COMMITS.1)?.next_multiple_of(TENANTS);
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    filled(&server, commits).await?;
    let files = Files::of(&server)?;
    let before = files.heads("jetstream", commits).await?;
    ensure!(before["commits"] == commits, "{before}");

    let report = files.copy("jetstream", "sqlite", &[], commits).await?;
    ensure!(report["commits"] == commits && report["present"] == 0, "{report}");
    let there = files.heads("sqlite", commits).await?;
    ensure!(is_same(&there, &before), "{there} after {before}");
    // What was kept of the source before is met again in the copy, its order too.
    let kept = files.0.path().join("heads.json");
    fs::write(&kept, serde_json::to_vec(&before)?)?;
    let (file, kept) = (files.config("sqlite")?, kept.to_str().context("the folder's name is no text")?.to_owned());
    let expected = files.run(&["audit", "verify", "--config", &file, "--expect", &kept], commits).await?;
    ensure!(expected.code == Some(0) && expected.stdout.contains("12 heads that were kept were met"), "{expected:?}");

    files.copy("sqlite", "back", &[], commits).await?;
    let back = files.heads("back", commits).await?;
    ensure!(is_same(&back, &before), "{back} after {before}");
    Ok(())
}

/// Is there a commit below this data folder?
fn has_begun(data: &Path) -> bool {
    SqliteLog::open_read_only(&data.join("log")).is_ok_and(|log| log.rows().next().is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_killed_goes_on_where_it_was() -> anyhow::Result<()> {
    let commits = setting(COMMITS.0, COMMITS.1)?.max(BROKEN_OFF).next_multiple_of(TENANTS);
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    filled(&server, commits).await?;
    for _ in 0..MISSED_MAX {
        let files = Files::of(&server)?;
        let (from, to) = (files.config("jetstream")?, files.config("sqlite")?);
        let mut copying = Command::new(harness::binary()?);
        copying.args(["log", "copy", "--from", &from, "--to", &to]).kill_on_drop(true);
        let mut copying = copying.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let data = files.data("sqlite");
        wait::until("the first commits in the target", wait::SOON, async || Ok(has_begun(&data).then_some(()))).await?;
        copying.kill().await?;
        let report = files.copy("jetstream", "sqlite", &["--resume"], commits).await?;
        ensure!(report["commits"] == commits, "{report}");
        let (before, there) = (files.heads("jetstream", commits).await?, files.heads("sqlite", commits).await?);
        ensure!(is_same(&there, &before), "{there} after {before}");
        let present = report["present"].as_u64().context("no count")?;
        ensure!(present > 0, "{report}");
        if present < commits {
            eprintln!("it was killed with {present} of {commits} commits in the target");
            return Ok(());
        }
    }
    anyhow::bail!("the copy was never met on its way in {MISSED_MAX} attempts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_on_sqlite_with_what_it_wrote_to_jetstream() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    let elsewhere = format!(
        "{NODE}log.kind = \"jetstream\"\nlog.jetstream.acknowledged = \"unverified\"\nlog.jetstream.nats.url = \"{}\"\n",
        server.url()
    );
    let launch = Launch::node(&elsewhere)?;
    let from = file(&launch)?;
    let mut old = launch.start().await?;
    let tenant = register(&old.operator()?, "Acme", "pro").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let large = "x".repeat(600 << 10);
    let before = tenant.client.execute("echo", large.clone()).await?;
    ensure!(old.terminate().await?.success(), "{}", old.stderr());

    let launch = Launch::node(NODE)?;
    let to = file(&launch)?;
    let copied = cli::run(["log", "copy", "--from", &from, "--to", &to]).await?;
    ensure!(copied.code == Some(0), "{copied:?}");
    let new = launch.start().await?;
    let client = Client::new(&new.ready().url, Some(&tenant.key.secret))?;
    let stdout = wait::until("the views of the new node", wait::SOON, async || {
        let answer = client.get(&format!("/v1/executions/{}/stdout", before.id)).await?;
        Ok((answer.status == 200).then_some(answer))
    });
    ensure!(stdout.await?.text() == large, "the blob was not copied");
    ensure!(client.execute("echo", "more").await?.stdout == "more");
    Ok(())
}
