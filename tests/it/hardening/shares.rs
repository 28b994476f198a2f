//! Greedy tenants: what one does not read, or sends too much of, is its own trouble.

use http::StatusCode;
use reqwest::Method;
use serde_json::json;
use wasmwiz_tests::{
    greed::{WRITES_16_MIB, lanes, publish_verbose, unread_output},
    guests,
    harness::Launch,
    http2::{END_HEADERS, END_STREAM, HEADERS, frame, head, no_window, open},
    tenants::{self, Tenant, register},
    told::Told,
};

use super::*;

/// What all bodies and answers may take on the node, in MiB, and those of one tenant: as the defaults are, smaller.
const NODE_MIB: u64 = 128;
const TENANT_MIB: u64 = 32;

/// How long a client may take nothing, in milliseconds, where the test looks at what happens meanwhile.
const STALL_MS: &str = "15000";

/// The most that a node may grow beside the attacked memory, in bytes.
const BESIDE_BYTES: u64 = 64 << 20;

fn node(stall_ms: &str) -> anyhow::Result<Launch> {
    let bytes = |mib: u64| (mib << 20).to_string();
    Ok(Launch::dev()?
        .variable("WASMWIZ_GATEWAY__BODIES_BYTES_MAX", bytes(NODE_MIB))
        .variable("WASMWIZ_GATEWAY__BODIES_BYTES_PER_TENANT_MAX", bytes(TENANT_MIB))
        .variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", stall_ms))
}

/// Asks for 16 MiB of output over so many connections of HTTP/1.1, waits until all are answered, and reads none of it.
async fn unread_outputs(node: &NodeProcess, tenants: &[Tenant], of_each: usize) -> anyhow::Result<Vec<Connection>> {
    let mut unread = Vec::new();
    for tenant in tenants {
        tenant.client.put_module(WRITES_16_MIB.name, WRITES_16_MIB.wasm()?).await?.expect(StatusCode::CREATED)?;
        for _ in 0..of_each {
            unread.push(unread_output(&node.ready().url, tenant).await?);
        }
    }
    let label = "route=\"/v1/modules/{name}/executions\"";
    until_counted(&node.admin()?, "wasmwiz_http_requests_total", label, 1.0 + unread.len() as f64).await?;
    Ok(unread)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_nobody_reads_refuse_nobody_else() -> anyhow::Result<()> {
    let node = node(STALL_MS)?.start().await?;
    let (operator, admin) = (node.operator()?, node.admin()?);
    let mut greedy = Vec::new();
    for number in 0..4 {
        greedy.push(register(&operator, &format!("Greedy {number}"), "enterprise").await?);
    }
    let spare = tenants::issue(&greedy[0].client, "to be revoked", &["modules:read"]).await?;
    let unread = unread_outputs(&node, &greedy, 2).await?;
    let held = metric(&admin, "wasmwiz_http_body_bytes", "").await?;
    eprintln!("{} answers are not read: {} MiB are held", unread.len(), held / f64::from(1 << 20));
    ensure!(held >= 48.0 * f64::from(1 << 20), "the attack holds only {held} bytes");

    // Operators, and whoever comes next: also with more than a little.
    let light = register(&operator, "Light", "enterprise").await?;
    tenants::issue(&light.client, "one more", &["modules:read"]).await?;
    light.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    ensure!(light.client.execute("echo", "heard").await?.stdout == "heard");
    let large = vec![b'x'; 4 << 20];
    let run =
        light.client.request(Method::POST, "/v1/modules/echo/executions").header("accept", "application/octet-stream");
    let answer = light.client.send(run.body(large.clone())).await?.expect(StatusCode::OK)?;
    ensure!(answer.body == large, "{} bytes came back", answer.body.len());
    node.client()?.get("/health").await?.is(200)?;
    admin.get("/readyz").await?.is(200)?;

    // Who is greedy keeps control of its keys, and can be suspended.
    tenants::issue(&greedy[0].client, "one more", &["modules:read"]).await?;
    greedy[0].client.delete(&format!("/v1/keys/{}", spare.id)).await?.expect(StatusCode::NO_CONTENT)?;
    let suspend = format!("/v1/tenants/{}/suspend", greedy[1].id);
    operator.post_json(&suspend, &json!({"reason": "greedy"})).await?.expect(StatusCode::OK)?;
    ensure!(metric(&admin, "wasmwiz_http_requests_total", "status=\"503\"").await? <= unread.len() as f64);

    // And in the end nobody holds anything.
    let what = "what is not read to be let go of";
    let let_go = wait::until(what, Duration::from_secs(60), async || {
        Ok((metric(&admin, "wasmwiz_http_body_bytes", "").await? < f64::from(1 << 20)).then_some(()))
    });
    let_go.await?;
    drop(unread);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_are_counted_and_cut_off() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 4;
    const STREAMS: u32 = 100;
    let node = node(STALL_MS)?.start().await?;
    let (operator, admin) = (node.operator()?, node.admin()?);
    let greedy = register(&operator, "Greedy", "enterprise").await?;
    publish_verbose(&greedy.client, 40).await?;
    greedy.client.get("/v1/modules?limit=200").await?.expect(StatusCode::OK)?;
    let before = resident_bytes(node.ready().pid)?;
    let asked = metric(&admin, "wasmwiz_http_requests_total", "route=\"/v1/modules\"").await?;
    let head = head("GET", "/v1/modules?limit=200", &greedy.key.secret);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = open(&node, &no_window()).await?;
        for number in 0..STREAMS {
            connection.send(frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &head)).await?;
        }
        connections.push(connection);
    }
    let all = asked + CONNECTIONS as f64 * f64::from(STREAMS);
    until_counted(&admin, "wasmwiz_http_requests_total", "route=\"/v1/modules\"", all).await?;
    let grown = resident_bytes(node.ready().pid)?.saturating_sub(before);
    eprintln!("{CONNECTIONS} x {STREAMS} lists that are not read: the node has grown by {} MiB", grown >> 20);
    ensure!(grown < (TENANT_MIB << 20) + BESIDE_BYTES, "the node has grown by {} MiB", grown >> 20);
    let light = register(&operator, "Light", "enterprise").await?;
    light.client.get("/v1/modules").await?.expect(StatusCode::OK)?;
    until_counted(&admin, "wasmwiz_http_connections_cut_off_total", "slow_reader", CONNECTIONS as f64).await?;
    Ok(())
}

#[tokio::test]
async fn a_page_ends_before_it_is_large_and_the_next_goes_on() -> anyhow::Result<()> {
    const NAMES: usize = 30;
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__PAGE_BYTES_MAX", "200000").start().await?;
    let tenant = register(&node.operator()?, "Verbose", "enterprise").await?;
    publish_verbose(&tenant.client, NAMES).await?;
    for (list, least) in [("/v1/modules", NAMES), ("/v1/audit", NAMES + 1)] {
        let (mut next, mut items, mut pages) = (format!("{list}?limit=200"), 0, 0);
        loop {
            let answer = tenant.client.get(&next).await?.expect(StatusCode::OK)?;
            ensure!(answer.body.len() < 300_000, "a page of {list} has {} bytes", answer.body.len());
            let page: serde_json::Value = answer.json()?;
            items += page["items"].as_array().map_or(0, Vec::len);
            pages += 1;
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            next = format!("{list}?limit=200&cursor={cursor}");
        }
        ensure!(items >= least && pages > 5, "{list}: {items} items on {pages} pages");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_when_its_tenant_is_suspended_however_it_is_read() -> anyhow::Result<()> {
    // Nobody is cut off for being slow.
    let node = node("600000")?.start().await?;
    let (operator, admin) = (node.operator()?, node.admin()?);
    let tenant = register(&operator, "Greedy", "enterprise").await?;
    let unread = unread_outputs(&node, std::slice::from_ref(&tenant), 1).await?;
    let mut connection = open(&node, &no_window()).await?;
    let head = head("GET", "/v1/modules", &tenant.key.secret);
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await?;
    until_counted(&admin, "wasmwiz_http_requests_total", "route=\"/v1/modules\"", 1.0).await?;
    let suspend = format!("/v1/tenants/{}/suspend", tenant.id);
    operator.post_json(&suspend, &json!({"reason": "greedy"})).await?.expect(StatusCode::OK)?;
    until_counted(&admin, "wasmwiz_http_connections_cut_off_total", "suspended", 2.0).await?;
    ensure!(metric(&admin, "wasmwiz_http_body_bytes", "").await? < f64::from(1 << 20));
    drop((unread, connection));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_the_first_byte_of_a_small_answer_and_no_more_is_cut_off() -> anyhow::Result<()> {
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", "1000").start().await?;
    // All of the answer is with the library at once, which waits with the rest of it.
    let mut connection = open(&node, &[0, 4, 0, 0, 0, 1]).await?;
    connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head("GET", "/livez", "none"))).await?;
    until_counted(&node.admin()?, "wasmwiz_http_connections_cut_off_total", "slow_reader", 1.0).await?;
    connection.read_to_end(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_read_all_of_its_answers_is_not_cut_off() -> anyhow::Result<()> {
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", "500").start().await?;
    let admin = node.admin()?;
    // A window that is wide, and nothing more to say: the connection stays open, and idle.
    let wide = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    let mut connection = open(&node, &wide).await?;
    for stream in [1, 3, 5] {
        connection.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", "/livez", "none"))).await?;
    }
    until_counted(&admin, "wasmwiz_http_requests_total", "route=\"/livez\"", 3.0).await?;
    // Longer than a client may take nothing, and than it takes to look twice.
    let quiet = connection.read_to_end(Duration::from_millis(2_500)).await;
    ensure!(quiet.is_err_and(|error| error.to_string().contains("still open")), "the connection was closed");
    ensure!(metric(&admin, "wasmwiz_http_connections_cut_off_total", "slow_reader").await? == 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_uploads_do_not_turn_away_those_of_another() -> anyhow::Result<()> {
    const AT_ONCE: usize = 100;
    const UPLOADS: usize = 40;
    let node = NodeProcess::dev().await?;
    let operator = node.operator()?;
    let greedy = register(&operator, "Greedy", "enterprise").await?;
    let light = register(&operator, "Light", "enterprise").await?;
    let wasm = guests::ECHO.wasm()?;
    for tenant in [&greedy, &light] {
        tenant.client.put_module("echo", wasm.clone()).await?.expect(StatusCode::CREATED)?;
    }
    // Bytes that are compiled already: nothing but the place stands between an upload and the disk.
    let (told, client, same) = (Told::default(), greedy.client.clone(), wasm.clone());
    let flood = lanes(&told, AT_ONCE, move |lane| client.publication(&format!("echo-{}", lane % 8), same.clone()));
    for number in 0..UPLOADS {
        let answer = light.client.put_module(&format!("echo-{number}"), wasm.clone()).await?;
        ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.text());
    }
    drop(flood);
    // The greedy one is told what it ran into; nothing of it is the node's fault.
    let others = told.but(&["200", "201", "429"]);
    ensure!(others.is_empty(), "{told}");
    Ok(())
}
