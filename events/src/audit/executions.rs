//! Every execution that was accepted has one end at most, and nothing ends that was not accepted: a well-sealed history can
//! still say otherwise, and then it was not written by a node that keeps its promises.

use std::collections::HashSet;

use crate::{event::Event, id::ExecutionId};

/// The executions of one tenant that are open where the walk is. Behind an event that this version does not know, nothing is
/// said any more: it may have begun or ended one.
#[derive(Debug, Default)]
pub(super) struct Executions {
    open: HashSet<ExecutionId>,
    has_unknown: bool,
}

impl Executions {
    /// What is wrong with an event, if something is.
    pub(super) fn step(&mut self, event: &Event) -> Option<String> {
        let (id, what) = match event {
            Event::ExecutionAccepted(accepted) => {
                let (id, is_new) = (accepted.execution_id, self.open.insert(accepted.execution_id));
                return (!is_new && !self.has_unknown).then(|| format!("execution {id} is accepted a second time"));
            }
            Event::ExecutionStarted(started) => {
                let id = started.execution_id;
                let is_wrong = !self.open.contains(&id) && !self.has_unknown;
                return is_wrong.then(|| format!("execution {id} begins and is not open"));
            }
            Event::ExecutionFinished(finished) => (finished.execution_id, "ends"),
            Event::ExecutionLost(lost) => (lost.execution_id, "is lost"),
            Event::Unknown(_) => {
                self.has_unknown = true;
                return None;
            }
            Event::TenantRegistered(_)
            | Event::TenantRenamed(_)
            | Event::TenantTierChanged(_)
            | Event::TenantSuspended(_)
            | Event::TenantResumed(_)
            | Event::KeyIssued(_)
            | Event::KeyRotated(_)
            | Event::KeyRevoked(_)
            | Event::ModulePublished(_)
            | Event::ModuleRejected(_)
            | Event::ModuleDeleted(_)
            | Event::ExecutionVerified(_)
            | Event::RequestsDenied(_)
            | Event::CommitSkipped(_)
            | Event::PayloadsReleased(_) => return None,
        };
        let is_wrong = !self.open.remove(&id) && !self.has_unknown;
        is_wrong.then(|| format!("execution {id} {what} and is not open: it was never accepted, or has its end"))
    }

    /// How many are open, as far as that is known.
    pub(super) fn open(&self) -> u64 {
        if self.has_unknown { 0 } else { self.open.len() as u64 }
    }
}
