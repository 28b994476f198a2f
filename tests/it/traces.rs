//! Traces: an execution is followed from the gateway to its guest and the log, and who collects them cannot hurt the node.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use tokio::{net::TcpListener, time::Instant};
use wasmwiz_tests::{
    client::Client,
    collector::{Collector, Span},
    guests,
    harness::Launch,
    tenants::register,
    wait,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const LATER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "b7ad6b7169203331";

fn settings(collector: &str, more: &str) -> String {
    format!(
        "node.data_dir = \"{{data}}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n\
         shutdown.announce_ms = 0\ntelemetry.traces.endpoint = \"{collector}\"\n{more}\n"
    )
}

/// Runs the echo guest as a part of the trace, and gives the `traceparent` of the answer.
async fn execute(client: &Client, trace: &str, prefer: &str) -> anyhow::Result<String> {
    let request = client.request(Method::POST, "/v1/modules/echo/executions").body("hello").header("prefer", prefer);
    let request = request.header("traceparent", format!("00-{trace}-{CALLER}-01"));
    let answer = client.send(request).await?;
    ensure!(answer.status.is_success(), "{answer:?}");
    Ok(answer.header("traceparent").context("no traceparent")?.to_owned())
}

fn named<'a>(spans: &'a [Span], name: &str) -> Option<&'a Span> {
    spans.iter().find(|span| span.name == name)
}

fn entity<'a>(spans: &'a [Span], command: &str) -> Option<&'a Span> {
    spans.iter().find(|span| span.name == "entity" && span.attribute("command") == Some(command))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_is_followed_from_the_gateway_to_its_guest_and_the_log() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let mut node = Launch::node(&settings(collector.url(), ""))?.start().await?;
    let client = register(&node.operator()?, "Traced", "pro").await?.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let answered = execute(&client, TRACE, "wait=60").await?;

    let root = "http.request";
    let spans = wait::until("the spans of the execution", wait::SOON, async || {
        let spans = collector.of_trace(TRACE);
        Ok(named(&spans, root).is_some().then_some(spans))
    })
    .await?;
    let request = named(&spans, root).context("no request")?;
    // Its caller's span is what it is a part of, and its own is what the caller is told, and the history.
    ensure!(request.parent == CALLER && answered == format!("00-{TRACE}-{}-01", request.id), "{answered} {request:?}");
    let told = ["http.request.method", "http.route", "http.response.status_code"].map(|name| request.attribute(name));
    ensure!(told == ["POST", "/v1/modules/{name}/executions", "200"].map(Some), "{request:?}");
    let guest = named(&spans, "guest").context("no guest")?;
    ensure!(guest.attribute("outcome") == Some("succeeded"), "{guest:?}");
    let (admission, end) =
        (entity(&spans, "execute").context("no admission")?, entity(&spans, "finish").context("no end")?);
    let finish = named(&spans, "finish").context("no finish")?;
    for (part, of) in [(guest, request), (admission, request), (finish, request), (end, finish)] {
        ensure!(part.parent == of.id && of.covers(part), "{part:?} is no part of {of:?}");
    }
    for decided in [admission, end] {
        let parts: Vec<_> = spans.iter().filter(|span| span.parent == decided.id).collect();
        for name in ["decide", "log.append"] {
            ensure!(
                parts.iter().any(|part| part.name == name && decided.covers(part)),
                "no {name} in {decided:?}: {parts:?}"
            );
        }
    }
    ensure!(guest.times.end <= finish.times.start && spans.iter().all(|span| span.times.start <= span.times.end));

    // What is accepted now and runs later is a part of the trace too.
    execute(&client, LATER, "respond-async").await?;
    let spans = wait::until("the spans of the later one", wait::SOON, async || {
        let spans = collector.of_trace(LATER);
        Ok((named(&spans, root).is_some() && named(&spans, "execution").is_some()).then_some(spans))
    })
    .await?;
    let (request, later) = (named(&spans, root).context("no request")?, named(&spans, "execution").context("no run")?);
    ensure!(request.attribute("http.response.status_code") == Some("202") && later.parent == request.id, "{spans:?}");
    let guest = named(&spans, "guest").context("no guest")?;
    ensure!(guest.parent == later.id && later.covers(guest), "{spans:?}");
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_its_ratio_leaves_out_is_passed_on_and_not_sent() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let mut node = Launch::node(&settings(collector.url(), "telemetry.traces.ratio = 0.0"))?.start().await?;
    let client = register(&node.operator()?, "Untraced", "pro").await?.client;
    client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    let answered = execute(&client, TRACE, "wait=60").await?;
    ensure!(answered.starts_with(&format!("00-{TRACE}-")) && answered.ends_with("-00"), "{answered}");
    // What waits is sent at the end.
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    ensure!(collector.count() == 0, "{} spans were sent", collector.count());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_or_is_gone_costs_nothing() -> anyhow::Result<()> {
    // It accepts connections, and nobody reads.
    let hangs = TcpListener::bind("127.0.0.1:0").await?;
    let gone = TcpListener::bind("127.0.0.1:0").await?;
    let addresses = [hangs.local_addr()?, gone.local_addr()?];
    drop(gone);
    for address in addresses {
        let mut node = Launch::node(&settings(&format!("http://{address}/v1/traces"), ""))?.start().await?;
        let client = register(&node.operator()?, "Traced", "enterprise").await?.client;
        client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
        // Some thousands of spans.
        for _ in 0..900 {
            client.execute("echo", "hello").await?;
        }
        let told = Instant::now();
        ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
        ensure!(told.elapsed() < Duration::from_secs(20), "it waited {:?} for its collector", told.elapsed());
    }
    Ok(())
}
