//! Lists that are asked for without end, and not read or read.

use reqwest::Method;
use wasmwiz_tests::{
    greed::{lanes, publish_verbose},
    http2::{END_HEADERS, END_STREAM, HEADERS, frame, head, no_window, open},
};

use super::*;

/// Connections, and lists on each.
const CONNECTIONS: usize = 4;
const STREAMS: u32 = 100;

/// Modules in the list: about half a mebibyte, the most that a page has.
const MODULES: usize = 12;

const SLOW: &str = "slow_reader";

/// Lists at a time of a tenant that reads them.
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_not_read_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given a tenant with a long list
    let scenario = Scenario::begin(launch()?).await?;
    let greedy = greedy(&scenario.node, 1, &[]).await?;
    publish_verbose(&greedy[0].client, MODULES).await?;
    let key = greedy[0].key.secret.as_str();

    // When it asks for the list hundreds of times, and opens no window for any
    let attack =
        Attack { name: "lists that are not read", pool_bytes: BODIES_OF_TENANT_BYTES, told: "cut off: slow_reader" };
    let endured = scenario.endures(attack, async |scenario| asks_for_lists(scenario, key).await).await?;

    // Then
    endured.left_neighbours_alone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_read_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given a tenant with a long list
    let scenario = Scenario::begin(launch()?).await?;
    let greedy = greedy(&scenario.node, 1, &[]).await?;
    publish_verbose(&greedy[0].client, MODULES).await?;

    // When it asks for the list again as soon as it has read it, in many lanes
    let attack = Attack { name: "lists that are read", pool_bytes: BODIES_OF_TENANT_BYTES, told: "200" };
    let client = greedy[0].client.clone();
    let endured = scenario
        .endures(attack, async |scenario| {
            let client = client.clone();
            let lists = lanes(&scenario.told, AT_ONCE, move |_| client.request(Method::GET, "/v1/modules?limit=200"));
            kept_up(vec![lists]).await
        })
        .await?;

    // Then
    endured.left_neighbours_alone()
}

async fn asks_for_lists(scenario: &Scenario, key: &str) -> anyhow::Result<()> {
    let (before, head) = (scenario.cut_off(SLOW).await?, head("GET", "/v1/modules?limit=200", key));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = open(&scenario.node, &no_window()).await?;
        for stream in (0..STREAMS).map(|number| number * 2 + 1) {
            // On a machine that is busy it may be cut off before it has asked for all.
            if connection.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)).await.is_err() {
                break;
            }
        }
        connections.push(connection);
    }
    scenario.until_cut_off(SLOW, before, CONNECTIONS).await
}
