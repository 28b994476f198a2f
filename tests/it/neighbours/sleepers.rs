//! Guests that sleep and hold their places.

use wasmwiz_tests::greed::lanes;

use super::*;

/// Places for guests on the node.
const PLACES: usize = 128;

/// Tenants, and guests that each wants at once: more than there are places.
const TENANTS: usize = 2;
const GUESTS: usize = 150;

/// For how long each sleeps, in milliseconds: longer than the attack lasts.
const SLEEP_MS: u64 = 120_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleepers_that_hold_places_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given tenants with a guest that sleeps until it is stopped
    let launch = launch()?.variable("WASMWIZ_EXECUTOR__GUESTS_MAX", PLACES.to_string());
    let scenario = Scenario::begin(launch).await?;
    let greedy = greedy(&scenario.node, TENANTS, &[guests::ENDLESS_SLEEP]).await?;

    // When each of them wants all places of the node
    let attack = Attack { name: "sleepers that hold places", pool_bytes: GUESTS_BYTES, told: "503 node-busy" };
    let run = |tenant: &Tenant| {
        let client = tenant.client.clone();
        lanes(&scenario.told, GUESTS, move |_| client.run_for(guests::ENDLESS_SLEEP.name, SLEEP_MS))
    };
    let endured = scenario.endures(attack, async |_| kept_up(greedy.iter().map(&run).collect()).await).await?;

    // Then
    endured.left_neighbours_alone()
}
