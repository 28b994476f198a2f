//! Another execution, made of the record of an earlier one.

use wasmwiz_events::{
    execution::{Accepted, Content, Seed},
    id::ExecutionId,
    revision::Position,
    time::Timestamp,
};

use crate::tenant::{Command, Execute, Rerun};

/// Of which record an execution is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RerunOf {
    /// The earlier execution.
    pub id: ExecutionId,
    /// What its guest saw, if this one is to see the same; `None`: its own time, and its own random numbers.
    pub view: Option<GuestView>,
    /// The commit that has its input, and which that is, if this one is to have the same. It is read once the tenant may run it.
    pub input: Option<(Position, Content)>,
}

/// What a guest sees of the world beside its input and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestView {
    /// Where its clocks begin.
    pub start_time: Timestamp,
    /// Where its random numbers come from.
    pub seed: Seed,
}

impl From<&Accepted> for GuestView {
    fn from(accepted: &Accepted) -> Self {
        Self { start_time: accepted.start_time, seed: accepted.seed }
    }
}

/// The command that asks for an admission.
pub(super) fn admission(execute: &Execute, rerun: Option<&RerunOf>) -> Command {
    let mut execute = Box::new(execute.clone());
    let Some(RerunOf { id, view, .. }) = rerun else { return Command::Execute(execute) };
    execute.seed = view.map_or(execute.seed, |view| view.seed);
    Command::Rerun(Rerun { of: *id, start_time: view.map(|view| view.start_time), execute })
}
