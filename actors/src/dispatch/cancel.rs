//! Stopping an execution that waits or runs.

use std::time::Duration;

use wasmwiz_events::{
    id::{ExecutionId, TenantId},
    revision::Position,
};

use super::{DispatchError, Shared};
use crate::{
    aggregate::Authority,
    codec::Control,
    handle::{Ask, Origin},
    tenant::Command,
};

/// How long a cancellation waits for the end of a guest: the longest step that cannot be interrupted, and its commit.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Which execution is to be cancelled, and on whose word.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// Whose.
    pub tenant: TenantId,
    /// On whose authority.
    pub by: Authority,
    /// Where it comes from.
    pub origin: Origin,
    /// Which.
    pub execution_id: ExecutionId,
}

/// What became of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// It has its end, in the commit at this position: cancelled, unless it ended by itself meanwhile.
    Ended(Position),
    /// It is being stopped; its end is not recorded yet.
    Requested,
}

impl Shared {
    pub(super) async fn cancel(&self, cancel: Cancel) -> Result<Cancelling, DispatchError> {
        let Cancel { tenant, by, origin, execution_id } = cancel;
        let command = Command::Cancel { execution_id };
        let decided = self.deps.bus.ask(&tenant, Ask { command, by, origin, payloads: vec![] }).await?;
        let run = self.runs.find(execution_id);
        if !decided.events.is_empty() {
            // It waited. Whoever waits for it is told; its place in the line comes to nothing.
            if let Some(run) = run {
                run.end(decided.position);
            }
            return Ok(Cancelling::Ended(decided.position));
        }
        if let Some(life) = decided.runs_at.filter(|life| life.node != self.deps.node) {
            self.deps.bus.tell(&life.node, Control::Cancel { execution_id }).await;
        }
        let Some(run) = run else { return Ok(Cancelling::Requested) };
        run.stop();
        let ended = tokio::time::timeout(END_WITHIN, run.ended()).await.ok().flatten();
        Ok(ended.map_or(Cancelling::Requested, Cancelling::Ended))
    }
}
