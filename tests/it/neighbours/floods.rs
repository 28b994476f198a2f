//! Guests that write without end.

use super::*;

/// Guests at once: with all that is kept of each, they fit into the share of one tenant.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_output_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given a tenant with a guest that writes until it is stopped
    let scenario = Scenario::begin(launch()?).await?;
    let greedy = greedy(&scenario.node, 1, &[guests::STDOUT_FLOOD]).await?;

    // When it runs some of them at a time
    let attack = Attack { name: "floods of output", pool_bytes: GUESTS_BYTES, told: "200 deadline_exceeded" };
    let client = &greedy[0].client;
    let endured = scenario
        .endures(attack, async |scenario| scenario.runs_until_stopped(client, guests::STDOUT_FLOOD, AT_ONCE).await);
    let endured = endured.await?;

    // Then
    endured.left_neighbours_alone()
}
