//! What a node's log, its list and its own verification say, against what its clients were told.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use tokio::time::{Instant, sleep};
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{
    cli,
    client::Client,
    harness::NodeProcess,
    history::History,
    promises::{self, Broken},
};

use crate::evidence::Evidence;

/// How long executions may take to end after the load, and the list to show them.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// How long the log and the list are left alone between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug)]
pub(crate) struct Judged {
    /// What was done to the node.
    pub(crate) disturbance: String,
    /// Executions in the log.
    pub(crate) accepted: usize,
    /// Of those, declared lost.
    pub(crate) lost: usize,
    /// What clients were told.
    pub(crate) evidence: Evidence,
    /// Promises that were not kept.
    pub(crate) broken: Vec<Broken>,
}

/// Holds everything against each other, and ends the node.
///
/// # Errors
/// When the log cannot be read or its chain is broken, or the node does not end well.
pub(crate) async fn judge(
    mut node: NodeProcess,
    evidence: Evidence,
    disturbance: String,
) -> anyhow::Result<(Judged, History)> {
    let data = node.data();
    let history = settled(&data).await?;
    let mut broken = promises::broken(&history, &data, &evidence.answered);
    broken.extend(shown(&node.client()?, &history).await?);
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let verified = cli::verify(&data).await?;
    if verified.code != Some(0) {
        broken.push(Broken::NotIntact { said: format!("{} {}", verified.stdout.trim(), verified.stderr.trim()) });
    }
    let (accepted, lost) = (history.executions.len(), history.ended(Outcome::Lost));
    Ok((Judged { disturbance, accepted, lost, evidence, broken }, history))
}

/// The log, once every execution has ended; or as it is when the time for that is over.
async fn settled(data: &Path) -> anyhow::Result<History> {
    let end = Instant::now() + SETTLED_WITHIN;
    loop {
        let history = History::read(data)?;
        if history.open() == 0 || Instant::now() >= end {
            return Ok(history);
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Where the list is not what the log folds to, once it is or the time for that is over.
async fn shown(client: &Client, history: &History) -> anyhow::Result<Vec<Broken>> {
    let end = Instant::now() + SETTLED_WITHIN;
    loop {
        let other = promises::other_in_view(history, &promises::listed(client).await?);
        if other.is_empty() || Instant::now() >= end {
            return Ok(other);
        }
        sleep(BETWEEN_LOOKS).await;
    }
}
