//! Waiting for the end of an asynchronous execution, wherever it runs.

use std::{sync::Arc, time::Duration};

use wasmwiz_events::{
    id::{ExecutionId, TenantId},
    log::ReadLimit,
    revision::{Position, Revision},
};

use super::{Shared, finish::end_of, queued::Queued, runs::Run};

/// The first pause before the log is looked at for an end that another node may have recorded; each further one is twice
/// as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest of those: about as late as somebody learns it who waits at another node.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// An asynchronous execution that is accepted, and what there is to wait for.
pub(super) struct Enqueued {
    pub(super) queued: Queued,
    pub(super) tenant: TenantId,
    pub(super) run: Arc<Run>,
    /// The stream's revision when the acceptance was durable: its end comes after it.
    pub(super) after: Revision,
}

impl Shared {
    /// Waits for the end, if that is wanted, and no longer.
    pub(super) async fn answer(&self, enqueued: Enqueued, wait: Option<Duration>) -> Queued {
        let Enqueued { queued, tenant, run, after } = enqueued;
        let id = queued.accepted.execution_id;
        let ended = async {
            tokio::select! {
                at = run.ended() => at,
                at = self.recorded_end(&tenant, id, after) => Some(at),
            }
        };
        let ended = match wait {
            Some(wait) => tokio::time::timeout(wait, ended).await.ok().flatten(),
            None => None,
        };
        Queued { ended, ..queued }
    }

    /// The end of an execution, once it is in the log. A node that is alone is told of every end, and need not look.
    async fn recorded_end(&self, tenant: &TenantId, id: ExecutionId, after: Revision) -> Position {
        let (mut from, mut pause) = (after.next(), FIRST_PAUSE);
        while !self.deps.bus.is_alone() {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            // A log that does not answer now is asked again; what cannot be read is no end.
            let Ok(commits) = self.deps.log.read_stream(tenant, from, ReadLimit::default()).await else { continue };
            for recorded in commits {
                from = recorded.commit.last_revision().next();
                let Ok(events) = recorded.commit.events() else { continue };
                if events.iter().any(|envelope| end_of(id, envelope).is_some()) {
                    return recorded.position;
                }
            }
        }
        std::future::pending().await
    }
}
