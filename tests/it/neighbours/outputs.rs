//! Outputs of executions that are asked for and not read.

use wasmwiz_tests::greed::{WRITES_16_MIB, unread_output};

use super::*;

/// Tenants, and outputs that each asks for at once: half again as many as it may hold.
const TENANTS: usize = 2;
const OUTPUTS: usize = 3;

/// How long a client may take nothing here, in milliseconds: longer than an answer waits for room, so that what has none is told so.
const PATIENT_MS: &str = "4000";

const SLOW: &str = "slow_reader";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_are_not_read_leave_neighbours_alone() -> anyhow::Result<()> {
    // Given tenants with a module that writes as much as is kept
    let launch = launch()?.variable("WASMWIZ_GATEWAY__SERVER__WRITE_STALL_MS", PATIENT_MS);
    let scenario = Scenario::begin(launch).await?;
    let greedy = greedy(&scenario.node, TENANTS, &[WRITES_16_MIB]).await?;

    // When they have it run and take nothing of what it wrote
    let attack = Attack { name: "outputs that are not read", pool_bytes: BODIES_BYTES, told: "503 too-many-bodies" };
    let endured = scenario.endures(attack, async |scenario| asks_for_outputs(scenario, &greedy).await).await?;

    // Then
    endured.left_neighbours_alone()
}

async fn asks_for_outputs(scenario: &Scenario, greedy: &[Tenant]) -> anyhow::Result<()> {
    let (before, url) = (scenario.cut_off(SLOW).await?, &scenario.node.ready().url);
    let (mut asked, mut unread) = (Vec::new(), Vec::new());
    for tenant in greedy.iter().cycle().take(TENANTS * OUTPUTS) {
        asked.push(unread_output(url, tenant).await?);
    }
    for mut connection in asked {
        match connection.read_status(SOON).await? {
            200 => unread.push(connection),
            status => {
                let rest = connection.read_to_end(SOON).await?;
                scenario.told.text(status, &String::from_utf8_lossy(&rest));
            }
        }
    }
    scenario.until_cut_off(SLOW, before, unread.len()).await
}
