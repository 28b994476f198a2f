//! Does what the servers acknowledged outlive a loss of power? They are asked, and a node is not ready while it may not.

use anyhow::{Context as _, ensure};
use wasmwiz_events::log::{
    EventLog as _,
    jetstream::{Acknowledged, JetstreamLog, JetstreamLogConfig},
};
use wasmwiz_tests::{
    harness::{Launch, NodeProcess},
    nats::{NatsCluster, NatsServer},
    wait,
};

use super::config;

/// With this, a server syncs before it acknowledges.
const ALWAYS: &str = ", sync_interval: always";

fn conf(sync: &str) -> String {
    format!("max_payload: 2MB\njetstream {{ store_dir: \"store\"{sync} }}\n")
}

/// A server that is monitored, and where.
async fn server(sync: &str) -> anyhow::Result<(NatsServer, String)> {
    let mut server = NatsServer::configured(&conf(sync))?;
    let monitor = server.monitored()?;
    server.start().await?;
    Ok((server, monitor))
}

/// What the log knows, once its servers have answered.
async fn known(log: &JetstreamLog) -> anyhow::Result<Result<String, String>> {
    wait::until("the servers' answers", wait::SOON, async || {
        let known = log.durability().map(|how| how.unwrap_or_default().to_string()).map_err(|why| why.to_string());
        let is_asking = |text: &String| text.contains("being asked");
        Ok((!known.as_ref().is_ok_and(is_asking) && !known.as_ref().is_err_and(is_asking)).then_some(known))
    })
    .await
}

#[tokio::test]
async fn a_log_knows_from_its_server_whether_what_it_acknowledges_is_synced() -> anyhow::Result<()> {
    let (always, monitor) = server(ALWAYS).await?;
    let of = |server: &NatsServer, monitor: &str, acknowledged| JetstreamLogConfig {
        monitor_urls: vec![monitor.to_owned()],
        acknowledged,
        ..config(server.url(), 1)
    };
    let log = JetstreamLog::open(of(&always, &monitor, Acknowledged::Synced)).await?;
    let told = known(&log).await?;
    ensure!(told.as_ref().is_ok_and(|how| how.contains("is synced by")), "{told:?}");

    let (sometimes, other) = server("").await?;
    let log = JetstreamLog::open(of(&sometimes, &other, Acknowledged::Unverified)).await?;
    let told = known(&log).await?;
    let why = told.err().context("a server that syncs now and then is good enough")?;
    ensure!(why.contains("every 120 s") && why.contains("sync_interval: always"), "{why}");
    let log = JetstreamLog::open(of(&sometimes, &other, Acknowledged::Unsynced)).await?;
    let told = known(&log).await?;
    ensure!(told.as_ref().is_ok_and(|how| how.contains("acknowledged accepts that")), "{told:?}");

    // Of others nothing is learnt, nor of nobody.
    for urls in [vec![monitor], vec!["http://127.0.0.1:1".to_owned()], vec![]] {
        let log = JetstreamLog::open(JetstreamLogConfig { monitor_urls: urls, ..config(sometimes.url(), 1) }).await?;
        let told = known(&log).await?;
        ensure!(told.as_ref().is_err_and(|why| why.contains("monitor_urls")), "{told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_servers_two_that_answer_are_enough_and_one_is_not() -> anyhow::Result<()> {
    let mut cluster = NatsCluster::started(3).await?;
    let of = |urls| JetstreamLogConfig { monitor_urls: urls, ..config(cluster.url(), 3) };
    let (all, two) = (of(cluster.monitor_urls()), of(cluster.monitor_urls().into_iter().take(1).collect()));
    let told = known(&JetstreamLog::open(all.clone()).await?).await?;
    ensure!(told.as_ref().is_ok_and(|how| how.ends_with("is synced by nats-0, nats-1, nats-2")), "{told:?}");
    let told = known(&JetstreamLog::open(two).await?).await?;
    ensure!(told.as_ref().is_err_and(|why| why.contains("nats-1, nats-2")), "{told:?}");
    cluster.kill9(1);
    let told = known(&JetstreamLog::open(all).await?).await?;
    ensure!(told.as_ref().is_ok_and(|how| how.ends_with("not seen: nats-1")), "{told:?}");
    Ok(())
}

fn launch(server: &NatsServer, more: &str) -> anyhow::Result<Launch> {
    let url = server.url();
    Launch::node(&format!(
        "node.data_dir = \"{{data}}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n\
         log.kind = \"jetstream\"\nlog.jetstream.nats.url = \"{url}\"\n{more}\n"
    ))
}

/// Waits until the node is ready, or is not, and says this of its log.
async fn until_ready(node: &NodeProcess, is_ready: bool, text: &str) -> anyhow::Result<()> {
    let mut last = String::new();
    let seen = wait::until("the node's readiness", wait::SOON, async || {
        let client = node.client()?;
        let (ready, health) = (client.get("/readyz").await?, client.get("/health").await?);
        last = format!("{} {}; {}", ready.status, ready.text(), health.text());
        let statuses = [ready.status.as_u16(), health.status.as_u16()];
        let expected = if is_ready { [200, 200] } else { [503, 503] };
        let says = health.text().contains(text) && (is_ready || ready.text().contains(text));
        Ok((statuses == expected && says).then_some(()))
    });
    let seen = seen.await;
    seen.with_context(|| format!("the last was {last}, and is_ready should be {is_ready} with {text:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_not_ready_until_its_server_syncs_and_then_becomes_so_by_itself() -> anyhow::Result<()> {
    let (mut server, monitor) = server("").await?;
    let node = launch(&server, &format!("log.jetstream.monitor_urls = [\"{monitor}\"]"))?.start().await?;
    until_ready(&node, false, "sync_interval: always").await?;
    ensure!(node.stderr().contains("A LOSS OF POWER MAY TAKE WHAT THE LOG HAS ACKNOWLEDGED"), "{}", node.stderr());
    server.kill9();
    server.configure(&conf(ALWAYS))?;
    server.start().await?;
    until_ready(&node, true, "is synced by").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_is_no_condition_and_is_said_loudly() -> anyhow::Result<()> {
    let (server, monitor) = server("").await?;
    let url = format!("log.jetstream.monitor_urls = [\"{monitor}\"]\n");
    for (more, is_ready) in [
        (String::new(), false),
        ("log.jetstream.acknowledged = \"unverified\"".to_owned(), true),
        (format!("{url}log.jetstream.acknowledged = \"unverified\""), false),
        (format!("{url}log.jetstream.acknowledged = \"unsynced\""), true),
    ] {
        let mut node = launch(&server, &more)?.start().await?;
        let says = if is_ready { "log.jetstream.acknowledged accepts that" } else { "log.jetstream.acknowledged = " };
        until_ready(&node, is_ready, says).await.with_context(|| format!("with {more:?}"))?;
        ensure!(node.stderr().contains("A LOSS OF POWER"), "{more:?}: {}", node.stderr());
        ensure!(node.terminate().await?.success(), "{}", node.stderr());
    }
    Ok(())
}
