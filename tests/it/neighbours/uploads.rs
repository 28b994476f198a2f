//! Uploads, more at once than a tenant has places for.

use bytes::Bytes;
use wasmwiz_tests::greed::lanes;

use super::*;

/// Uploads at once: three times as many as may be taken in and wait.
const AT_ONCE: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given a module that is compiled already: nothing but a place stands between an upload and the disk
    let scenario = Scenario::begin(launch()?).await?;
    let greedy = greedy(&scenario.node, 1, &[guests::ECHO]).await?;
    let echo = Bytes::from(guests::ECHO.wasm()?);

    // When one tenant uploads it as fast as it can, and a light one does now and then
    let attack = Attack { name: "uploads", pool_bytes: BODIES_OF_TENANT_BYTES, told: "429 too-many-uploads" };
    let upload = || {
        let (client, echo) = (greedy[0].client.clone(), echo.clone());
        lanes(&scenario.told, AT_ONCE, move |lane| client.publication(&format!("echo-{}", lane % 8), echo.clone()))
    };
    let endured = scenario.endures(attack, async |scenario| {
        let uploads = upload();
        let published = scenario.light_one_publishes(|_| echo.to_vec()).await;
        drop(uploads);
        published
    });
    let endured = endured.await?;

    // Then
    endured.left_neighbours_alone()
}
