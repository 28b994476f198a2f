//! HTTP/2 by hand: frames that no library would send, or not so many of.

use super::*;
use wasmwiz_tests::{
    harness::Launch,
    http2::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame, no_window, open,
    },
};

/// GET of a path, in HPACK: three indexed fields' worth of literals that need no table.
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap_or(0);
    // `:method: GET` and `:scheme: http` of the static table; `:path` and `:authority` by literals that are not indexed.
    [&[0x82, 0x86, 0x04, length], path.as_bytes(), &[0x01, 1, b'x']].concat()
}

/// All that the node sends until it closes, as frames: their types and payloads.
async fn frames(mut connection: Connection) -> anyhow::Result<Vec<(u8, Vec<u8>)>> {
    let read = connection.read_to_end(SOON).await?;
    let (mut rest, mut frames) = (&read[..], Vec::new());
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, next) = after.split_at(length.min(after.len()));
        frames.push((head[3], payload.to_vec()));
        rest = next;
    }
    Ok(frames)
}

#[tokio::test]
async fn streams_that_are_reset_as_fast_as_they_are_opened_end_the_connection() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let growth = Growth::begin(&node)?;
    let mut connection = open(&node, &[]).await?;
    for number in 0..100_000_u32 {
        let stream = number * 2 + 1;
        let opened = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/livez"));
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        if connection.send([opened, reset].concat()).await.is_err() {
            break;
        }
    }
    // A reset of the connection may throw away what the node said last.
    let frames = frames(connection).await?;
    let calm = frames.iter().filter(|(kind, _)| *kind == GOAWAY);
    ensure!(calm.clone().all(|(_, payload)| payload.get(4..8) == Some(&11_u32.to_be_bytes())), "{frames:?}");
    growth.is_small("rapid reset").await?;
    node.client()?.get("/livez").await?.is(200)?;
    Ok(())
}

#[tokio::test]
async fn headers_without_end_end_the_connection() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let growth = Growth::begin(&node)?;
    let mut connection = open(&node, &[]).await?;
    connection.send(frame(HEADERS, END_STREAM, 1, &get("/livez"))).await?;
    let field = [&[0x00, 3][..], b"x-a", &[100], &[b'a'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &field.repeat(100));
    for _ in 0..10_000 {
        if connection.send(&more).await.is_err() {
            break;
        }
    }
    let frames = frames(connection).await?;
    ensure!(frames.iter().all(|(kind, _)| *kind != HEADERS), "it was answered");
    growth.is_small("a flood of CONTINUATION").await?;
    node.client()?.get("/livez").await?.is(200)?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_cut_off() -> anyhow::Result<()> {
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", "1000").start().await?;
    let growth = Growth::begin(&node)?;
    let mut connections = Vec::new();
    for _ in 0..10 {
        let mut connection = open(&node, &no_window()).await?;
        for number in 0..100_u32 {
            let opened = frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &get("/openapi.json"));
            connection.send(opened).await?;
        }
        connections.push(connection);
    }
    for connection in connections {
        let frames = frames(connection).await?;
        ensure!(frames.iter().any(|(kind, _)| *kind == HEADERS), "it was not answered");
    }
    until_counted(&node.admin()?, "wasmwiz_http_connections_cut_off_total", "slow_reader", 10.0).await?;
    growth.is_small("streams without a window").await
}

/// Frames that a client sends in a flood: far more than any client needs.
const FLOOD: usize = 200_000;

/// How many frames go in one piece.
const PIECE: usize = 100;

#[tokio::test]
async fn frames_that_cost_nothing_to_send_end_the_connection() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let growth = Growth::begin(&node)?;
    let one = 1_u32.to_be_bytes();
    let floods = [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS that are acknowledged", frame(SETTINGS, 1, 0, &[])),
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("PING that is answered", frame(PING, 1, 0, &[7; 8])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &one)),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])),
        ("a frame that nobody knows", frame(200, 0, 0, &[])),
        ("empty DATA", frame(DATA, 0, 1, &[])),
    ];
    for (what, flood) in floods {
        let mut connection = open(&node, &[]).await?;
        // A request that waits for its body, so that there is a stream to send them to.
        connection.send(frame(HEADERS, END_HEADERS, 1, &get("/livez"))).await?;
        let piece = flood.repeat(PIECE);
        let mut is_cut_off = false;
        for _ in 0..FLOOD / PIECE {
            is_cut_off = connection.send(&piece).await.is_err();
            if is_cut_off {
                break;
            }
        }
        // It may all have been taken by the system before the node closed.
        connection.read_to_end(SOON).await.with_context(|| format!("{what}: it goes on"))?;
        eprintln!("{what}: cut off while it sent: {is_cut_off}");
    }
    until_counted(&node.admin()?, "wasmwiz_http_connections_cut_off_total", "flood", 5.0).await?;
    growth.is_small("frames that cost nothing").await?;
    node.client()?.get("/livez").await?.is(200)?;
    Ok(())
}

/// Reads until the answer of a stream has ended.
async fn answered(connection: &mut Connection, stream: u32) -> anyhow::Result<()> {
    loop {
        let head = connection.read(9, SOON).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        connection.read(length, SOON).await?;
        let is_its_end =
            matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0 && head[5..] == stream.to_be_bytes();
        if is_its_end {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_client_that_keeps_its_connection_alive_is_answered_on() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let mut connection = open(&node, &[]).await?;
    // A library that pings, and opens its windows again after each answer: as often as it asks.
    for number in 0..1_000_u32 {
        let stream = number * 2 + 1;
        let mut sent = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/livez"));
        sent.extend(frame(PING, 0, 0, &[7; 8]));
        for window_of in [0, stream] {
            sent.extend(frame(WINDOW_UPDATE, 0, window_of, &1_u32.to_be_bytes()));
        }
        connection.send(sent).await?;
        answered(&mut connection, stream).await.with_context(|| format!("request {number}"))?;
    }
    Ok(())
}
