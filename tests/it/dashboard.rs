//! The dashboard and the alerts, by a Prometheus that scrapes a live node: every query is answered with a number, but for what
//! only a fault makes, and every rule is evaluated. Skipped with a word where Prometheus is not installed.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
    time::{Interval, interval},
};
use wasmwiz_events::time::{Clock as _, SystemClock};
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::{Launch, NodeProcess, binary},
    nats::NatsServer,
    prometheus::{self, Prometheus},
    python,
    raw::Connection,
    sse::Stream,
    tenants::register,
    wait,
};

/// What Grafana puts in the place of `$__rate_interval`: what happened once is still to be seen when the last query is asked.
const RATE_INTERVAL: &str = "2m";

/// What it puts in the place of `$__range`: the time that is shown.
const RANGE: &str = "5m";

/// What Grafana asks for the values of `$instance`: a label, and the series that have it.
const INSTANCES: (&str, &str, &str) =
    ("label_values(up{job=\"wasmwiz\"}, instance)", "instance", "up{job=\"wasmwiz\"}");

/// Queries of what has not happened here, by the metric, and what would make it happen. A metric is there from its first time on.
const UNSEEN: [(&str, &str); 4] = [
    ("wasmwiz_http_connections_refused_total", "more connections than their bound"),
    ("wasmwiz_tls_handshakes_refused_total", "a listener with TLS, and who does not speak it"),
    ("wasmwiz_log_refused_total", "a full queue of the log, or another writer"),
    ("wasmwiz_shed_total", "more commands than a queue takes"),
];

/// How long it may take until all is scraped and evaluated: twice before there is a rate.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

fn file(name: &str) -> anyhow::Result<String> {
    let path = python::root().join("docs/observability").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The queries of a dashboard.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect()
}

/// A query as Grafana sends it: with its variables' values.
fn sent(query: &str, instance: &str) -> String {
    query.replace("$__rate_interval", RATE_INTERVAL).replace("$__range", RANGE).replace("$instance", instance)
}

/// What happens on a node that works, and what its callers do wrong.
struct Traffic<'a> {
    node: &'a NodeProcess,
    client: Client,
    each_second: Interval,
    rounds: u32,
}

impl<'a> Traffic<'a> {
    async fn of(node: &'a NodeProcess) -> anyhow::Result<Self> {
        let client = register(&node.operator()?, "Asks", "enterprise").await?.client;
        client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
        Ok(Self { node, client, each_second: interval(Duration::from_secs(1)), rounds: 0 })
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.each_second.tick().await;
        self.rounds += 1;
        let client = &self.client;
        client.execute("echo", "hello").await?;
        client.get("/v1/executions?limit=1").await?.is(200)?;
        // Another module each time, which has to be compiled.
        let data = format!("(data (i32.const 0) \"{}\")", self.rounds);
        let module = wat::parse_str(format!("(module (memory 1) (func (export \"_start\")) {data})"))?;
        client.put_module("fresh", module).await?.is(201)?;
        let later = client.request(Method::POST, "/v1/modules/echo/executions").header("prefer", "respond-async");
        client.send(later.body("later")).await?.is(202)?;
        // What is refused: a credential, a command, and what is no HTTP.
        client.with_credential("ww_guessed").get("/v1/keys").await?.refuses(401, "unauthenticated")?;
        client.delete("/v1/modules/nothing").await?.refuses(404, "module-not-found")?;
        let mut nonsense = Connection::open(&self.node.ready().url).await?;
        nonsense.send("nonsense\r\n\r\n").await?;
        nonsense.read_to_end(wait::SOON).await.map(drop)
    }
}

/// A node that feeds this server, which is away yet, and lets tenants go soon.
async fn node(bus: &NatsServer) -> anyhow::Result<NodeProcess> {
    let launch = Launch::dev()?
        .variable("WASMWIZ_FEED__NATS__URL", bus.url())
        .variable("WASMWIZ_FEED__MAX_BYTES", "67108864")
        .variable("WASMWIZ_FEED__PAUSE_MAX_MS", "200")
        .variable("WASMWIZ_REGION__PASSIVATE_AFTER_MS", "500");
    launch.start().await
}

/// Waits until every query has been answered with a number, in one of the rounds.
async fn until_answered(
    server: &Prometheus,
    queries: &[String],
    mut round: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut unanswered = queries.to_vec();
    let answered = wait::until("a number for every query", SEEN_WITHIN, async || {
        round().await?;
        let mut left = Vec::new();
        for query in &unanswered {
            if !server.query(query).await?.iter().any(|value| value.is_finite()) {
                left.push(query.clone());
            }
        }
        unanswered = left;
        Ok(unanswered.is_empty().then_some(()))
    })
    .await;
    answered.with_context(|| format!("without a number: {unanswered:#?}"))
}

/// The values of `$instance`, as the dashboard asks for them.
async fn instances(server: &Prometheus, dashboard: &Value) -> anyhow::Result<Vec<String>> {
    let (asked, label, selector) = INSTANCES;
    let mut variables = dashboard["templating"]["list"].as_array().into_iter().flatten();
    let variable = variables.find(|variable| variable["name"] == "instance").context("there is no $instance")?;
    ensure!(variable["query"]["query"] == asked, "the instances are asked for by {}", variable["query"]);
    server.label_values(label, selector).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_and_rule_is_answered_by_what_a_live_node_exports() -> anyhow::Result<()> {
    if !prometheus::is_there() {
        eprintln!("skipped: prometheus is not installed on this machine");
        return Ok(());
    }
    let mut bus = NatsServer::prepared("")?;
    let node = node(&bus).await?;
    let admin = node.ready().admin_url.clone().context("the node gave no admin address")?;
    let target = admin.trim_start_matches("http://");
    let server = Prometheus::scraping("wasmwiz", target, &file("alerts.yaml")?).await?;
    // The bus comes late, and one tenant never asks.
    wait::until("an attempt of the feed that failed", wait::SOON, async || {
        Ok((!server.query("wasmwiz_feed_retries_total > 0").await?.is_empty()).then_some(()))
    })
    .await?;
    bus.start().await?;
    register(&node.operator()?, "Never asks", "free").await?;
    let mut traffic = Traffic::of(&node).await?;
    let _stream = Stream::open(&traffic.client, "/v1/audit/stream", None).await?;

    let dashboard: Value = serde_json::from_str(&file("dashboard.json")?)?;
    let instances = instances(&server, &dashboard).await?;
    ensure!(instances == [target], "the instances are {instances:?}");
    let all = queries(&dashboard);
    let takes_a_fault = |query: &str| UNSEEN.iter().any(|(metric, _)| query.contains(metric));
    let (unseen, seen): (Vec<_>, Vec<_>) = all.into_iter().partition(|query| takes_a_fault(query));
    ensure!(!seen.is_empty() && unseen.len() == UNSEEN.len(), "not seen are {unseen:?}");
    let seen: Vec<_> = seen.iter().map(|query| sent(query, target)).collect();
    until_answered(&server, &seen, async || traffic.round().await).await?;
    for (metric, fault) in UNSEEN {
        let query = unseen.iter().find(|query| query.contains(metric)).context("it is in no panel")?;
        eprintln!("{metric}, which takes {fault}: {} series", server.query(&sent(query, target)).await?.len());
    }

    let rules = wait::until("the evaluation of every rule", SEEN_WITHIN, async || {
        let rules = server.rules().await?;
        Ok((!rules.is_empty() && rules.iter().all(|rule| rule.health != "unknown")).then_some(rules))
    })
    .await?;
    let wrong: Vec<_> = rules.iter().filter(|rule| rule.health != "ok" || rule.state == "firing").collect();
    ensure!(wrong.is_empty(), "a node that works raises an alarm, or a rule is none: {wrong:#?}");
    let rounds = traffic.rounds;
    eprintln!("{} queries have a number after {rounds} rounds, {} rules are evaluated", seen.len(), rules.len());
    Ok(())
}

/// A run of the pipeline, as its jobs leave it.
const JOBS: &str =
    r#"{"test": {"result": "success"}, "image": {"result": "failure"}, "release": {"result": "skipped"}}"#;
const LEFT: [(&str, &str); 3] = [
    (
        "junit.xml",
        r#"<testsuites name="nextest-run" tests="1"><testsuite name="a" tests="1"><testcase name="b" classname="a" time="0.5"/></testsuite></testsuites>"#,
    ),
    ("quality.jsonl", r#"{"name": "lints", "seconds": 90.5, "outcome": "passed"}"#),
    ("scan-amd64.json", r#"{"matches": [{"vulnerability": {"severity": "Low", "fix": {"state": "fixed"}}}]}"#),
];

/// A record of a deployment that has only just ended.
fn record(kind: &str, outcome: &str, at: &str) -> Value {
    serde_json::json!({
        "kind": kind, "environment": "staging", "namespace": "wasmwiz-staging", "image": "a@b", "revision": "c", "reason": "", "by": "",
        "run": "", "previous": null, "changed": true, "began_at": at, "ended_at": at, "outcome": outcome, "error": null,
        "steps": [{"name": "nodes", "seconds": 61.0, "outcome": "done"}],
    })
}

/// What `cargo xtask pipeline` writes of a run and of deployments.
async fn pipeline() -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let (left, records) = (folder.path().join("left"), folder.path().join("records"));
    [&left, &records].into_iter().try_for_each(fs::create_dir)?;
    LEFT.iter().try_for_each(|(name, text)| fs::write(left.join(name), text))?;
    let now = SystemClock.now().to_string();
    for (number, record) in
        [record("deployment", "succeeded", &now), record("rollback", "failed", &now)].iter().enumerate()
    {
        fs::write(records.join(format!("{number}.json")), record.to_string())?;
    }
    let chores = binary()?.with_file_name("xtask");
    ensure!(chores.is_file(), "the chores are not built: run `cargo build --workspace --all-features --bins`");
    let mut texts = String::new();
    // As the workflows do: a run and the deployments each in a file of their own.
    for (name, about) in [
        ("run", ["--jobs".as_ref(), JOBS.as_ref(), "--left".as_ref(), left.as_os_str()].as_slice()),
        ("deployments", ["--records".as_ref(), records.as_os_str()].as_slice()),
    ] {
        let (output, summary) = (folder.path().join(format!("{name}.prom")), folder.path().join("summary.md"));
        let mut chore = tokio::process::Command::new(&chores);
        let ended = chore
            .arg("pipeline")
            .args(about)
            .arg("--output")
            .arg(&output)
            .arg("--summary")
            .arg(&summary)
            .output()
            .await?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        texts += &fs::read_to_string(&output)?;
    }
    Ok(texts)
}

/// Serves a text to whoever asks, as an exporter would.
async fn served(text: String) -> anyhow::Result<(String, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = listener.local_addr()?.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4_096];
            // A scraper that is gone asks again.
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((target, serving))
}

#[tokio::test]
async fn every_query_of_the_pipeline_is_answered_by_what_the_chore_writes() -> anyhow::Result<()> {
    if !prometheus::is_there() {
        eprintln!("skipped: prometheus is not installed on this machine");
        return Ok(());
    }
    let (target, serving) = served(pipeline().await?).await?;
    let server = Prometheus::scraping("pipeline", &target, &file("alerts.yaml")?).await?;
    let dashboard: Value = serde_json::from_str(&file("pipeline.json")?)?;
    let queries: Vec<_> = queries(&dashboard).iter().map(|query| sent(query, &target)).collect();
    ensure!(queries.len() > 10, "{queries:?}");
    until_answered(&server, &queries, async || Ok(())).await?;
    for (query, expected) in [
        ("count(wasmwiz_pipeline_job_success)", 2.0),
        ("sum(wasmwiz_pipeline_deployments{outcome=\"failed\"})", 1.0),
        ("wasmwiz_pipeline_check_seconds{check=\"lints\"}", 90.5),
    ] {
        ensure!(server.query(query).await? == [expected], "{query} is {:?}", server.query(query).await?);
    }
    serving.abort();
    Ok(())
}
