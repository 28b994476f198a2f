//! Bodies that are announced and not sent.

use wasmwiz_tests::{
    http2::{DATA, END_HEADERS, HEADERS, field, frame, head, open},
    raw::Connection,
};

use super::*;

/// What each body is said to have, in bytes: the most that the tier takes as input.
const ANNOUNCED_BYTES: u64 = 16 << 20;

/// Connections of HTTP/2, and bodies on each.
const CONNECTIONS: usize = 8;
const STREAMS: u32 = 100;

/// Connections of HTTP/1.1, each with one body.
const SOCKETS: usize = 100;

/// How long the node waits for the next piece of a body, in milliseconds.
const IDLE_MS: &str = "1000";

const RUNS: &str = "/v1/modules/echo/executions";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_announced_and_not_sent_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given a node that waits a second for a body
    let scenario = Scenario::begin(launch()?.variable("WASMWIZ_GATEWAY__BODY_IDLE_MS", IDLE_MS)).await?;
    let greedy = greedy(&scenario.node, 1, &[guests::ECHO]).await?;
    let key = greedy[0].key.secret.as_str();

    // When one tenant announces hundreds of large ones, and sends four bytes of each
    let attack =
        Attack { name: "bodies that are not sent", pool_bytes: BODIES_OF_TENANT_BYTES, told: "408 body-too-slow" };
    let endured = scenario.endures(attack, async |scenario| announces(scenario, key).await).await?;

    // Then
    endured.left_neighbours_alone()
}

async fn announces(scenario: &Scenario, key: &str) -> anyhow::Result<()> {
    let head = [head("POST", RUNS, key), field("content-length", &ANNOUNCED_BYTES.to_string())].concat();
    let (mut connections, mut sockets) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let mut connection = open(&scenario.node, &[]).await?;
        for stream in (0..STREAMS).map(|number| number * 2 + 1) {
            let begun = [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, 0, stream, b"four")].concat();
            connection.send(begun).await?;
        }
        connections.push(connection);
    }
    for _ in 0..SOCKETS {
        let mut socket = Connection::open(&scenario.node.ready().url).await?;
        let head = format!(
            "POST {RUNS} HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {key}\r\nContent-Length: {ANNOUNCED_BYTES}\r\n\r\nfour"
        );
        socket.send(head).await?;
        sockets.push(socket);
    }
    for mut socket in sockets {
        let (status, text) = socket.read_answer(SOON).await?;
        scenario.told.text(status, &text);
    }
    drop(connections);
    Ok(())
}
