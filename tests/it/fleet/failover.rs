//! Nodes and servers are killed: what they served is served elsewhere, and nothing that was said is taken back.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{
    chance::{Chance, setting},
    fleet::{Fleet, outage},
    times::Times,
};

use super::{Scene, THREE};

/// How often a node is killed, if the variable does not say otherwise.
const KILLS: (&str, u64) = ("WASMWIZ_TESTS_FAILOVER_KILLS", 10);

/// How long nobody may have to wait because a node died: a lease of 3 s runs out, its shards are assigned and taken up.
/// Twice what it should be, as seven processes share the machine with this test.
const OUTAGE_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_served_is_served_elsewhere_and_nothing_that_was_said_is_lost() -> anyhow::Result<()> {
    let (mut chance, kills) = (Chance::printed()?, setting(KILLS.0, KILLS.1)?);
    let mut scene = Scene::begun(Fleet::started(THREE).await?).await?;
    let mut killed = Vec::new();
    for kill in 0..kills {
        scene.callers.each_answered(chance.within(1..6)).await?;
        let victim = usize::try_from(kill)? % scene.fleet.nodes.len();
        let then = Instant::now();
        scene.fleet.node(victim)?.kill9().await?;
        scene.callers.each_answered(2).await?;
        killed.push((then, Instant::now()));
        scene.fleet.node(victim)?.restart().await?;
        scene.callers.nodes_are(&scene.fleet.nodes);
        scene.callers.each_answered(2).await?;
    }
    let told = scene.ended().await?;
    let mut outages = Times::default();
    for (then, until) in &killed {
        outages.push(outage(&told.calls, *then, *until));
    }
    let (calls, lost) = (told.calls.len(), told.history.ended(Outcome::Lost));
    eprintln!("{kills} kills, {calls} answers, {lost} lost; the longest that a caller waited after each: {outages}");
    ensure!(outages.longest() < OUTAGE_MAX, "{outages}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_then_their_leader_need_no_restart_of_a_node() -> anyhow::Result<()> {
    let mut scene = Scene::begun(Fleet::started(THREE).await?).await?;
    let pids: Vec<_> = scene.fleet.nodes.iter().map(|node| node.ready().pid).collect();
    let mut outages = Times::default();
    let mut killed = Vec::new();
    for leader in [false, true] {
        let nats = &mut scene.fleet.nats;
        let now = nats.leader("WASMWIZ_LOG").await?.unwrap_or_default();
        let victim = if leader { now } else { (now + 1) % 3 };
        let then = Instant::now();
        nats.kill9(victim);
        scene.callers.each_answered(3).await?;
        killed.push((then, Instant::now()));
        scene.fleet.nats.start(victim).await?;
        scene.callers.each_answered(3).await?;
    }
    for node in &mut scene.fleet.nodes {
        ensure!(node.exit_status()?.is_none(), "a node ended");
    }
    ensure!(scene.fleet.nodes.iter().map(|node| node.ready().pid).eq(pids), "a node was restarted");
    let told = scene.ended().await?;
    killed.iter().for_each(|(then, until)| outages.push(outage(&told.calls, *then, *until)));
    eprintln!("a server and the leader killed; the longest that a caller waited after each: {outages}");
    Ok(())
}
