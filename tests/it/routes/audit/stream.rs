//! `/v1/audit/stream`: the history as it happens, without gap or repetition.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};
use wasmwiz_events::time::{Clock, SystemClock};
use wasmwiz_tests::{
    client::Client,
    guests,
    harness::{Launch, NodeProcess},
    sse::{Said, Stream},
    tenants::{Tenant, issue, register},
    wait,
};

use super::super::{Setting, asks_for};

const PATH: &str = "/v1/audit/stream";

async fn node(settings: &str) -> anyhow::Result<(NodeProcess, Tenant)> {
    let listen = "node.data_dir = \"{data}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n";
    let node = Launch::node(&format!("{listen}{settings}"))?.start().await?;
    let tenant = register(&node.operator()?, "Acme", "enterprise").await?;
    tenant.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;
    Ok((node, tenant))
}

/// Reads events up to this revision; each must follow the one before.
async fn read_up_to(stream: &mut Stream, last: &mut (String, u64), to: u64) -> anyhow::Result<()> {
    while last.1 < to {
        let event = stream.next().await?.context("the stream ends")?;
        let revision = event.json()?["revision"].as_u64().context("no revision")?;
        ensure!(revision == last.1 + 1, "{revision} comes after {}", last.1);
        *last = (event.id, revision);
    }
    Ok(())
}

async fn head(client: &Client) -> anyhow::Result<u64> {
    client.get("/v1/audit/head").await?.is(200)?["revision"].as_u64().context("no revision")
}

#[tokio::test]
async fn events_come_as_they_are_in_the_history_and_to_their_tenant_alone() -> anyhow::Result<()> {
    let Setting { node: _node, tenant, stranger, .. } = Setting::new().await?;
    let client = &tenant.client;
    let (mut mine, mut theirs) =
        (Stream::open(client, PATH, None).await?, Stream::open(&stranger.client, PATH, None).await?);
    ensure!(mine.next_said(wait::SOON).await? == Said::Comment("connected".into()), "no sign of life at once");
    let before = head(client).await?;
    client.execute("echo", "a").await?;
    stranger.client.execute("echo", "b").await?;
    issue(client, "another", &["usage:read"]).await?;
    let mut seen = Vec::new();
    for expected in ["execution.accepted", "execution.finished", "key.issued"] {
        let event = mine.next().await?.context("the stream ends")?;
        ensure!(event.event == format!("dev.wasmwiz.{expected}.v1") && !event.id.is_empty(), "{event:?}");
        seen.push(event.json()?);
    }
    let page = client.get("/v1/audit?limit=3").await?.is(200)?;
    let mut recorded: Vec<Value> = page["items"].as_array().cloned().unwrap_or_default();
    recorded.reverse();
    for (seen, recorded) in seen.iter().zip(&mut recorded) {
        recorded.as_object_mut().context("no object")?.remove("position");
        ensure!(seen == recorded && seen["specversion"] == "1.0", "{seen} and {recorded}");
    }
    ensure!(seen[0]["revision"] == before + 1, "it does not begin with what comes next");
    let event = theirs.next().await?.context("the stream ends")?;
    ensure!(event.json()?["source"] == format!("/tenants/{}", stranger.id), "a foreign event: {event:?}");

    asks_for(client, "audit:read", Method::GET, PATH).await?;
    client.get(&format!("{PATH}?from=x")).await?.refuses(400, "invalid-query")?;
    for bad in ["nonsense", "", "AQAAAAAAAAAB"] {
        Stream::refused(client, PATH, Some(bad)).await?.refuses(400, "malformed-position").context(bad)?;
    }
    // An id of another tenant's history that is longer than one's own names nothing here.
    for _ in 0..30 {
        stranger.client.execute("echo", "").await?;
    }
    let mut last = Stream::open(&stranger.client, PATH, Some(&event.id)).await?;
    let mut foreign = event.id;
    for _ in 0..60 {
        foreign = last.next().await?.context("the stream ends")?.id;
    }
    Stream::refused(client, PATH, Some(&foreign)).await?.refuses(400, "malformed-position")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_misses_nothing_also_over_a_restart() -> anyhow::Result<()> {
    let (mut node, tenant) = node("").await?;
    let first = tenant.client.clone();
    let mut stream = Stream::open(&first, PATH, None).await?;
    let mut last = (String::new(), head(&first).await?);
    first.execute("echo", "1").await?;
    let to = last.1 + 1;
    read_up_to(&mut stream, &mut last, to).await?;
    // Events nobody saw, a node that dies, and more of them before the client is back.
    first.execute("echo", "2").await?;
    drop(stream);
    first.execute("echo", "3").await?;
    node.kill9().await?;
    node.restart().await?;
    let client = Client::new(&node.ready().url, Some(&tenant.key.secret))?;
    client.execute("echo", "4").await?;
    let mut stream = Stream::open(&client, PATH, Some(&last.0)).await?;
    let load = tokio::spawn({
        let client = client.clone();
        async move {
            let work = (0..20).map(async |n: u32| client.execute("echo", n.to_string()).await);
            for ran in futures_util::future::join_all(work).await {
                ran?;
            }
            anyhow::Ok(())
        }
    });
    // Broken off again and again, at any event of a commit.
    for _ in 0..8 {
        let to = last.1 + 3;
        read_up_to(&mut stream, &mut last, to).await?;
        drop(stream);
        stream = Stream::open(&client, PATH, Some(&last.0)).await?;
    }
    load.await??;
    let end = head(&client).await?;
    read_up_to(&mut stream, &mut last, end).await?;
    ensure!(last.1 == end, "{} of {end}", last.1);
    // A node that is told to stop ends its streams and itself.
    let (ended, status) = tokio::join!(stream.next(), node.terminate());
    ensure!(ended?.is_none() && status?.success(), "the stream outlives its node");
    Ok(())
}

#[tokio::test]
async fn a_stream_ends_with_its_key_and_says_that_it_stands_until_then() -> anyhow::Result<()> {
    let (_node, tenant) = node("[gateway.streams]\nheartbeat_ms = 50\n").await?;
    let client = &tenant.client;
    let key = issue(client, "reader", &["audit:read"]).await?;
    let mut stream = Stream::open(&client.with_credential(&key.secret), PATH, None).await?;
    for expected in ["connected", "heartbeat", "heartbeat"] {
        ensure!(stream.next_said(wait::SOON).await? == Said::Comment(expected.into()), "not {expected}");
    }
    client.delete(&format!("/v1/keys/{}", key.id)).await?.is(204)?;
    // Nothing of what happens afterwards is told.
    client.execute("echo", "").await?;
    let events = stream.rest().await?;
    ensure!(events.iter().all(|event| event.event.contains(".key.")), "told after the revocation: {events:?}");

    let expires_at = SystemClock.now().plus_ms(2_000).to_string();
    let body = json!({"name": "short", "scopes": ["audit:read"], "expires_at": expires_at});
    let short = client.post_json("/v1/keys", &body).await?.is(201)?;
    let secret = short["secret"].as_str().context("no secret")?;
    let mut stream = Stream::open(&client.with_credential(secret), PATH, None).await?;
    while stream.next_said(wait::SOON).await? != Said::End {}
    Ok(())
}

#[tokio::test]
async fn streams_are_bounded_for_a_tenant_and_for_the_node() -> anyhow::Result<()> {
    let (node, tenant) = node("[gateway.streams]\nstreams_max = 3\nstreams_per_tenant_max = 2\n").await?;
    let client = &tenant.client;
    let other = register(&node.operator()?, "Other", "free").await?;
    let first = Stream::open(client, PATH, None).await?;
    let _second = Stream::open(client, PATH, None).await?;
    Stream::refused(client, PATH, None).await?.refuses(429, "too-many-streams")?;
    let _theirs = Stream::open(&other.client, PATH, None).await?;
    Stream::refused(&other.client, PATH, None).await?.refuses(503, "node-busy")?;
    // Whoever goes makes room.
    drop(first);
    wait::until("room for a stream", wait::SOON, async || Ok(Stream::open(client, PATH, None).await.ok())).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_of_a_stream_loses_it() -> anyhow::Result<()> {
    let (node, tenant) = node("[gateway.streams]\nstreams_per_tenant_max = 1\nstall_ms = 200\n").await?;
    let client = &tenant.client;
    let address = node.ready().url.trim_start_matches("http://").parse()?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut idle = socket.connect(address).await?;
    let secret = &tenant.key.secret;
    let request = format!("GET {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n");
    idle.write_all(request.as_bytes()).await?;
    // It has the one place before anybody else asks for it.
    let mut begin = [0; 12];
    tokio::time::timeout(wait::SOON, idle.read_exact(&mut begin)).await.context("no stream")??;
    ensure!(&begin == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&begin));
    ensure!(Stream::refused(client, PATH, None).await?.status == 429, "there is a second place");
    // More than its buffers hold: then nobody takes the rest, and its place is another's.
    let long = format!("/v1/modules/echo/executions?arg={}", "x".repeat(7_000));
    wait::until("the end of the stream", Duration::from_secs(60), async || {
        for ran in futures_util::future::join_all((0..16).map(|_| client.post_bytes(&long, ""))).await {
            ran?.is(200)?;
        }
        Ok(Stream::open(client, PATH, None).await.ok())
    })
    .await?;
    drop(idle);
    Ok(())
}
