//! What clients were told over the whole of a scenario.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use wasmwiz_events::id::ExecutionId;
use wasmwiz_tests::{
    chance::Chance,
    guests,
    harness::NodeProcess,
    load::{Answered, Got, Load},
};

/// Clients at work at a time.
const CLIENTS: u64 = 16;

/// What a node that is well may say instead of an outcome: come back later.
pub(crate) const LATER: [u16; 2] = [429, 503];

/// All answers so far.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Executions with their outcome.
    pub(crate) answered: BTreeMap<ExecutionId, Answered>,
    /// Of those, how many the node could not carry out.
    pub(crate) failed: usize,
    /// Whole answers that were no outcome.
    pub(crate) refused: usize,
    /// Requests without a whole answer.
    pub(crate) unanswered: usize,
}

impl Evidence {
    /// Takes what clients got, of which every refusal must have one of these statuses.
    ///
    /// # Errors
    /// When one has another, or one execution was given to two requests.
    pub(crate) fn take(&mut self, got: Got, statuses: &[u16]) -> anyhow::Result<()> {
        let other = got.refused.iter().find(|answer| !statuses.contains(&answer.status.as_u16()));
        ensure!(other.is_none(), "a request was refused: {other:?}");
        self.refused += got.refused.len();
        self.unanswered += got.unanswered;
        self.failed += got.failed.len();
        for answer in got.answered.into_iter().chain(got.failed) {
            let (id, before) = (answer.id, self.answered.insert(answer.id, answer));
            ensure!(before.is_none(), "{id} was given twice");
        }
        Ok(())
    }

    /// That so many were answered: with fewer a scenario would have shown nothing.
    ///
    /// # Errors
    /// When they were not.
    pub(crate) fn at_least(&self, answers: u64) -> anyhow::Result<()> {
        ensure!(self.answered.len() as u64 >= answers, "only {} requests were answered", self.answered.len());
        Ok(())
    }
}

/// Sends clients of the `dev` tenant to work.
///
/// # Errors
/// When there is no client.
pub(crate) fn clients_of(node: &NodeProcess, chance: &mut Chance) -> anyhow::Result<Load> {
    let echo = Bytes::from(guests::ECHO.wasm()?);
    Ok(Load::begin(&node.client().context("no client")?, &echo, CLIENTS, chance))
}
