//! A tenant that stores all it may, and goes on.

use bytes::Bytes;
use reqwest::Method;
use wasmwiz_tests::greed::lanes;

use super::*;

/// The most that a tenant may store, in bytes, and each stream and module of it.
const LIMIT: u64 = 16 << 20;
const MODULE: u64 = 1 << 20;
const STREAM: u64 = 256 << 10;

/// Executions at once.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_stores_all_it_may_leaves_neighbours_alone() -> anyhow::Result<()> {
    // Given tenants that may store little
    let bounds = [
        ("STORAGE_BYTES", LIMIT),
        ("MODULE_BYTES", MODULE),
        ("STDIN_BYTES", STREAM),
        ("STDOUT_BYTES", STREAM),
        ("STDERR_BYTES", STREAM),
    ];
    let launch = bounds.into_iter().fold(launch()?, |launch, (name, value)| {
        launch.variable(format!("WASMWIZ_TIERS__ENTERPRISE__{name}"), value.to_string())
    });
    let scenario = Scenario::begin(launch).await?;
    let greedy = greedy(&scenario.node, 1, &[guests::ECHO]).await?;

    // When one of them has as much recorded as it can
    let attack = Attack { name: "storage", pool_bytes: BODIES_OF_TENANT_BYTES, told: "507 storage-quota-exceeded" };
    let input = Bytes::from(vec![b'x'; usize::try_from(STREAM)?]);
    let record = |tenant: &Tenant| {
        let (client, input) = (tenant.client.clone(), input.clone());
        lanes(&scenario.told, AT_ONCE, move |_| {
            client.request(Method::POST, "/v1/modules/echo/executions").body(input.clone())
        })
    };
    let endured = scenario.endures(attack, async |_| kept_up(greedy.iter().map(&record).collect()).await).await?;

    // Then it stays within its bound, and reads on
    let usage = greedy[0].client.get("/v1/usage").await?.is(200)?;
    let stored = usage["storage"]["bytes"].as_u64().context("no stored bytes")?;
    ensure!(stored > LIMIT / 2 && stored <= LIMIT, "{stored} bytes are stored");
    endured.left_neighbours_alone()
}
