//! `wasmwiz doctor --config`: the servers and streams of a deployment, on real ones, and what to change.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use wasmwiz_events::log::jetstream::JetstreamLog;
use wasmwiz_tests::{
    cli::User,
    harness::Launch,
    nats::{NatsCluster, NatsServer},
    wait,
};

use super::config;

/// What a doctor says who was given this as a node's configuration.
struct Said {
    code: Option<i32>,
    grade: String,
    findings: Vec<Value>,
}

async fn doctor(user: &User, settings: &str) -> anyhow::Result<Said> {
    user.file("node.toml", settings)?;
    let ended = user.run(&["doctor", "--config", "node.toml", "--output", "json"]).await?;
    let said: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    let findings = said["findings"].as_array().context("no findings")?.clone();
    Ok(Said { code: ended.code, grade: said["grade"].as_str().context("no grade")?.to_owned(), findings })
}

impl Said {
    /// There is a finding of this check and grade that says all of these, in its message or its remedy.
    fn found(&self, check: &str, grade: &str, texts: &[&str]) -> anyhow::Result<()> {
        let says = |finding: &Value| {
            let text = format!("{} {}", finding["message"], finding["remedy"]);
            finding["check"] == check && finding["grade"] == grade && texts.iter().all(|said| text.contains(said))
        };
        ensure!(self.findings.iter().any(says), "no {grade} {check} with {texts:?}: {:#?}", self.findings);
        Ok(())
    }
}

/// However full the disk of the tests is.
const ROOM: &str = "disk.low_bytes = 2\ndisk.least_bytes = 1";

fn settings(urls: &str, replicas: usize, disk: &str, more: &str) -> String {
    format!(
        "node.data_dir = \"data\"\nlog.kind = \"jetstream\"\nlog.jetstream.nats.url = \"{urls}\"\nlog.jetstream.replicas = {replicas}\n\
         {disk}\n{more}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_that_is_not_as_it_should_be_is_named_with_what_to_change() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    let monitor = server.monitored()?;
    server.start().await?;
    let (user, url) = (User::new()?, server.url());
    let monitored = format!("log.jetstream.monitor_urls = [\"{monitor}\"]");

    let before = doctor(&user, &settings(&url, 1, ROOM, &monitored)).await?;
    before.found("streams", "warning", &["WASMWIZ_LOG is not there", "the first node that starts makes it"])?;
    before.found("servers", "ok", &["log.jetstream: 1 let this machine in"])?;
    JetstreamLog::open(config(url.clone(), 1)).await?.close();

    let wrong = format!("log.jetstream.duplicate_window_s = 7\n{monitored}");
    let said = doctor(&user, &settings(&url, 3, ROOM, &wrong)).await?;
    ensure!(said.code == Some(1) && said.grade == "bad", "{:?} {}", said.code, said.grade);
    let differences = ["num_replicas is 1, should be 3", "duplicate_window is 120s, should be 7s"];
    said.found("streams", "bad", &[&differences[..], &["nats stream edit WASMWIZ_LOG --replicas 3"]].concat())?;
    said.found("streams", "bad", &["OBJ_WASMWIZ_BLOBS: num_replicas is 1, should be 3"])?;
    said.found("sync", "bad", &["every 120 s", "nodes are not ready", "sync_interval: always"])?;
    said.found("clock", "ok", &["agree"])?;
    said.found("storage", "ok", &["% of the"])?;
    said.found("disk", "ok", &["bytes are free at data"])?;
    said.found("node", "warning", &["none was asked"])?;

    let unmonitored = doctor(&user, &settings(&url, 1, ROOM, "")).await?;
    unmonitored.found("sync", "bad", &["monitor_urls is empty", "open the servers' monitoring ports"])?;
    let accepted = doctor(&user, &settings(&url, 1, ROOM, "log.jetstream.acknowledged = \"unverified\"")).await?;
    ensure!(accepted.code == Some(0) && accepted.grade == "warning", "{:?} {}", accepted.code, accepted.grade);
    accepted.found("copies", "warning", &["one copy"])?;

    // The marks of the node's own configuration say when its disk is full.
    let full = settings(&url, 1, "disk.low_bytes = 9000000000000000000", &monitored);
    doctor(&user, &full).await?.found("disk", "bad", &["no executions begun", "make room"])?;

    server.kill9();
    let away = doctor(&user, &settings(&url, 1, ROOM, &monitored)).await?;
    away.found("servers", "bad", &[&url, "NATS cannot be reached", "log.jetstream.nats.url"])?;
    away.found("monitoring", "warning", &[&monitor])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_in_order_is_well_with_its_node_and_a_server_that_is_away_is_a_warning() -> anyhow::Result<()> {
    let mut cluster = NatsCluster::started(3).await?;
    let (urls, monitors) = (cluster.url(), cluster.monitor_urls());
    let more = format!(
        "log.jetstream.monitor_urls = {monitors:?}\nfeed.nats.url = \"{urls}\"\nfeed.replicas = 3\nfeed.max_bytes = 67108864\n\
         cluster.name = \"one\"\ncluster.nats.url = \"{urls}\"\ncluster.replicas = 3\nlisten.api = \"127.0.0.1:0\"\n\
         listen.admin = \"127.0.0.1:0\""
    );
    let launch = Launch::node(&settings(&urls, 3, ROOM, &more).replace("\"data\"", "\"{data}\""))?;
    let mut node = launch.start().await?;
    let operator = node.ready().operator_token.clone().context("the node gave no operator's key")?;
    let user = User::new()?.variable("WASMWIZ_URL", &node.ready().url).variable("WASMWIZ_API_KEY", &operator);
    let file = settings(&urls, 3, ROOM, &more);
    let well = wait::until("a deployment in order", wait::SOON, async || {
        let said = doctor(&user, &file).await?;
        // The feed makes its stream, and copies catch up, a moment after the node serves; one node is worth a warning.
        let others = said.findings.iter().filter(|finding| finding["grade"] != "ok" && finding["check"] != "nodes");
        Ok((others.count() == 0).then_some(said))
    });
    let well = well.await?;
    ensure!(well.code == Some(0), "{:?}", well.code);
    for part in ["log.jetstream", "feed", "cluster"] {
        well.found("servers", "ok", &[&format!("{part}: 3 let this machine in")])?;
    }
    for stream in ["WASMWIZ_LOG", "OBJ_WASMWIZ_BLOBS", "WASMWIZ_FEED", "KV_WASMWIZ_FEED", "KV_WASMWIZ_MEMBERS"] {
        well.found("streams", "ok", &[&format!("{stream}: as it should be"), "nats-0", "nats-1", "nats-2"])?;
    }
    well.found("sync", "ok", &["is synced by nats-0, nats-1, nats-2"])?;

    cluster.kill9(2);
    wait::until("the two that are left to agree", wait::SOON * 3, async || {
        let said = doctor(&user, &file).await?;
        said.found("servers", "warning", &["log.jetstream: nats://", "cannot be reached"])?;
        Ok(said.found("sync", "ok", &["not seen: nats-2"]).ok())
    })
    .await?;
    ensure!(node.terminate().await?.success(), "{}", node.stderr());
    Ok(())
}
