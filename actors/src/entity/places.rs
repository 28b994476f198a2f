//! Where the log has the asynchronous executions of a tenant that are open.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{event::Event, id::ExecutionId, revision::Position};

/// By execution, the commit that accepted it. Holds what is durable, and no more than may be queued.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Places(BTreeMap<ExecutionId, Position>);

impl Places {
    /// Takes note of an event of the commit at `at`; gives the execution that has ended by it.
    pub(crate) fn note(&mut self, event: &Event, at: Position) -> Option<ExecutionId> {
        let ended = match event {
            Event::ExecutionAccepted(accepted) if accepted.start_by.is_some() => {
                self.0.insert(accepted.execution_id, at);
                return None;
            }
            Event::ExecutionFinished(finished) => finished.execution_id,
            Event::ExecutionLost(lost) => lost.execution_id,
            Event::ExecutionAccepted(_)
            | Event::ExecutionStarted(_)
            | Event::ExecutionVerified(_)
            | Event::TenantRegistered(_)
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
            | Event::RequestsDenied(_)
            | Event::CommitSkipped(_)
            | Event::PayloadsReleased(_)
            | Event::Unknown(_) => return None,
        };
        self.0.remove(&ended).map(|_| ended)
    }

    /// Where it is, if it is open and durable.
    pub(super) fn of(&self, id: ExecutionId) -> Option<Position> {
        self.0.get(&id).copied()
    }
}
