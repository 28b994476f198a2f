//! Bodies that are announced and do not come: what a client only says costs no memory.

use wasmwiz_tests::http2::{DATA, END_HEADERS, HEADERS, field, frame, head, open};

use super::*;

/// What each body is said to have, in bytes: the most that the tier takes as input.
const ANNOUNCED_BYTES: u64 = 1 << 20;

/// Connections of HTTP/2, and bodies on each: as many as one may have under way.
const CONNECTIONS: usize = 16;
const STREAMS: u32 = 128;

/// Connections of HTTP/1.1, each with one body.
const SOCKETS: usize = 600;

/// The most that the node may grow, in bytes: 32 KiB for each body, where a megabyte is announced. A connection has buffers.
const GROWN_MAX_BYTES: u64 = 64 << 20;

/// Waits until the node has taken in what was sent, and gives by how much it has grown.
async fn grown(node: &NodeProcess, before: u64, bodies: f64) -> anyhow::Result<u64> {
    until_counted(&node.admin()?, "wasmwiz_http_body_bytes", "", bodies).await?;
    Ok(resident_bytes(node.ready().pid)?.saturating_sub(before))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_announced_and_do_not_come_take_no_memory() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let key = node.ready().api_key.clone().context("dev gives a key")?;
    let client = node.client()?;
    client.execute("echo", "to warm up").await?;

    let before = resident_bytes(node.ready().pid)?;
    let length = field("content-length", &ANNOUNCED_BYTES.to_string());
    let (head, mut connections) = ([head("POST", "/v1/modules/echo/executions", &key), length].concat(), Vec::new());
    for _ in 0..CONNECTIONS {
        let mut connection = open(&node, &[]).await?;
        for stream in (0..STREAMS).map(|number| number * 2 + 1) {
            let begun = [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, 0, stream, b"four")].concat();
            connection.send(begun).await?;
        }
        connections.push(connection);
    }
    // Each body that is counted takes at least the ledger's unit.
    let bodies = CONNECTIONS as u32 * STREAMS;
    let more = grown(&node, before, f64::from(bodies) * 1_024.0).await?;
    eprintln!("{bodies} bodies on HTTP/2: the node has grown by {} KiB", more >> 10);
    ensure!(more < GROWN_MAX_BYTES, "the node has grown by {} MiB", more >> 20);
    client.execute("echo", "served meanwhile").await?;
    drop(connections);

    let before = resident_bytes(node.ready().pid)?;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let mut connection = Connection::open(&node.ready().url).await?;
        let head = format!(
            "POST /v1/modules/echo/executions HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {ANNOUNCED_BYTES}\r\n\r\nfour"
        );
        connection.send(head).await?;
        sockets.push(connection);
    }
    let more = grown(&node, before, SOCKETS as f64 * 1_024.0).await?;
    eprintln!("{SOCKETS} bodies on HTTP/1.1: the node has grown by {} KiB", more >> 10);
    ensure!(more < GROWN_MAX_BYTES, "the node has grown by {} MiB", more >> 20);
    client.execute("echo", "served meanwhile").await?;
    Ok(())
}
