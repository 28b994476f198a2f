//! All servers are gone for a while.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};
use wasmwiz_tests::{chance::setting, fleet::Fleet};

use super::{Scene, THREE};

/// How long they are gone, in seconds, if the variable does not say otherwise.
const GONE_SECONDS: (&str, u64) = ("WASMWIZ_TESTS_GONE_SECONDS", 8);

/// Within this a node answers that it cannot write: the time that a command has, and what its way takes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_log_a_node_refuses_writes_in_time_and_goes_on_when_it_is_back() -> anyhow::Result<()> {
    let gone = Duration::from_secs(setting(GONE_SECONDS.0, GONE_SECONDS.1)?);
    let mut scene = Scene::begun(Fleet::started(THREE).await?).await?;
    for server in 0..3 {
        scene.fleet.nats.kill9(server);
    }
    let (since, mut asked, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while since.elapsed() < gone {
        for node in &scene.fleet.nodes {
            let (tenant, begun) = (scene.fleet.tenants.first().expect("a tenant"), Instant::now());
            let answer = tenant.client.at(&node.ready().url).post_bytes("/v1/modules/echo/executions", "x").await?;
            longest = longest.max(begun.elapsed());
            // What was under way when they went may yet be decided.
            if asked > 0 {
                ensure!(answer.status == 503, "{}: {}", answer.status, answer.text());
                ensure!(answer.header("retry-after").is_some(), "no Retry-After: {}", answer.text());
            }
            asked += 1;
        }
        sleep(Duration::from_millis(100)).await;
    }
    ensure!(asked > 1 && longest < ANSWERED_WITHIN, "{asked} asked, the longest took {longest:?}");
    for server in 0..3 {
        scene.fleet.nats.start(server).await?;
    }
    let back = Instant::now();
    scene.callers.each_answered(2).await?;
    eprintln!(
        "gone for {gone:?}: {asked} writes refused, the longest after {longest:?}; all served {:?} later",
        back.elapsed()
    );
    for node in &mut scene.fleet.nodes {
        ensure!(node.exit_status()?.is_none(), "a node ended: {}", node.stderr());
    }
    scene.ended().await?;
    Ok(())
}
