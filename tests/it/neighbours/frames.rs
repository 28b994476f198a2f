//! Frames of HTTP/2 that cost nothing to send.

use wasmwiz_tests::http2::{END_HEADERS, HEADERS, PING, SETTINGS, WINDOW_UPDATE, field, frame, open};

use super::*;

/// Frames that a client sends on one connection: far more than any client needs.
const FLOOD: usize = 200_000;

/// How many frames go in one piece.
const PIECE: usize = 100;

const REASON: &str = "flood";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cost_nothing_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given
    let scenario = Scenario::begin(launch()?).await?;

    // When somebody without a key sends such frames over one connection after the other
    let attack = Attack { name: "frames that cost nothing", pool_bytes: 0, told: "cut off: flood" };
    let endured = scenario.endures(attack, floods).await?;

    // Then
    endured.left_neighbours_alone()
}

async fn floods(scenario: &Scenario) -> anyhow::Result<()> {
    let before = scenario.cut_off(REASON).await?;
    let one = 1_u32.to_be_bytes();
    let kinds = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8]), frame(WINDOW_UPDATE, 0, 0, &one)];
    for flooded in join_all(kinds.iter().map(|kind| flood(scenario, kind))).await {
        flooded?;
    }
    // All that was sent may have been taken by the system before the node closed the first of them.
    scenario.until_cut_off(REASON, before, 1).await
}

/// Sends frames until the node has had enough of them.
async fn flood(scenario: &Scenario, kind: &[u8]) -> anyhow::Result<()> {
    let mut connection = open(&scenario.node, &[]).await?;
    // A request that waits for its body keeps the connection from being idle. Nobody's credential is presented: no address is
    // held back for that.
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/livez"), (":authority", "node")];
    let head = head.map(|(name, value)| field(name, value)).concat();
    connection.send(frame(HEADERS, END_HEADERS, 1, &head)).await?;
    let piece = kind.repeat(PIECE);
    for _ in 0..FLOOD / PIECE {
        if connection.send(&piece).await.is_err() {
            break;
        }
    }
    Ok(())
}
