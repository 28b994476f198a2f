//! Another execution, made of the record of an earlier one.

use wasmwiz_events::{
    execution::{Accepted, Content, Seed},
    id::ExecutionId,
    revision::Position,
    settings::Settings,
    time::Timestamp,
};

use crate::tenant::{Again, Command, Configured, Execute, Metered, Rerun};

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

/// The command that asks for an admission: the one that is known the longest of those that say all of it.
pub(super) fn admission(execute: &Execute, fuel: Option<u64>, rerun: Option<&RerunOf>, settings: Settings) -> Command {
    let mut execute = Box::new(execute.clone());
    let of = rerun.map(|RerunOf { id, view, .. }| {
        execute.seed = view.map_or(execute.seed, |view| view.seed);
        Again { id: *id, start_time: view.map(|view| view.start_time) }
    });
    if !settings.is_default() {
        return Command::Configured(Configured { settings, fuel, of, execute });
    }
    match (fuel, of) {
        (Some(fuel), of) => Command::Metered(Metered { fuel, of, execute }),
        (None, Some(Again { id, start_time })) => Command::Rerun(Rerun { of: id, start_time, execute }),
        (None, None) => Command::Execute(execute),
    }
}
