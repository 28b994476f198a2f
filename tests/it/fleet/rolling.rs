//! Every node is replaced under load, one after the other.

use std::path::PathBuf;

use anyhow::ensure;
use wasmwiz_tests::fleet::{Fleet, OTHER_NODE};

use super::{Scene, THREE};

/// Of a thousand requests that are sent, at most one may fail.
const ERRORS_MAX: f64 = 0.001;

/// How many answers each caller waits for between two steps, so that the rate means something.
const ANSWERS: u64 = 12;

/// With it the fleet is mixed on the way there and on the way back.
fn other() -> Option<PathBuf> {
    std::env::var_os(OTHER_NODE).map(PathBuf::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_fails_nobody() -> anyhow::Result<()> {
    let mut scene = Scene::begun(Fleet::started(THREE).await?).await?;
    let own = wasmwiz_tests::harness::binary()?;
    let programs = match other() {
        Some(other) => vec![other, own],
        None => vec![own],
    };
    for program in &programs {
        for number in 0..scene.fleet.nodes.len() {
            // A load balancer does so when a node says that it is not ready any more.
            scene.callers.nodes_are_but(&scene.fleet.nodes, number);
            scene.callers.each_answered(1).await?;
            let node = scene.fleet.node(number)?;
            ensure!(node.terminate().await?.success(), "{}", node.stderr());
            node.set_program(program.clone());
            node.restart().await?;
            scene.callers.nodes_are(&scene.fleet.nodes);
            scene.callers.each_answered(ANSWERS).await?;
        }
    }
    let told = scene.ended().await?;
    let (sent, answers) = (told.calls.iter().map(|call| u64::from(call.tries)).sum::<u64>(), told.calls.len() as u64);
    let failed: Vec<_> = told.calls.iter().flat_map(|call| &call.failed).collect();
    eprintln!(
        "{} restarts, {answers} answers, {} of {sent} requests failed: {failed:?}",
        3 * programs.len(),
        sent - answers
    );
    ensure!(((sent - answers) as f64) <= ERRORS_MAX * sent as f64, "{} of {sent} failed: {failed:?}", sent - answers);
    Ok(())
}
