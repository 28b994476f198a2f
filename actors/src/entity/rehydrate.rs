//! Folding a stream back into a live tenant, and checking its chain on the way.

use std::sync::Arc;

use ractor::ActorRef;
use wasmwiz_events::{
    commit::Recorded, id::TenantId, ledger::Verifier, log::ReadLimit, revision::Position, time::Moment,
};

use super::{Message, Places, Rehydrated, World};
use crate::{metrics, tenant::Tenant};

/// Reads and folds in a task of its own and reports to `entity`.
pub(super) fn begin(id: TenantId, world: Arc<World>, entity: ActorRef<Message>) {
    tokio::spawn(async move {
        let folded = fold_stream(&id, &world).await;
        match &folded {
            Ok(folded) => {
                ::metrics::counter!(metrics::REHYDRATIONS_TOTAL).increment(1);
                tracing::debug!(tenant.id = %id, revision = %folded.head.revision, "the entity is rehydrated");
            }
            Err(reason) => tracing::error!(tenant.id = %id, %reason, "the entity cannot be rehydrated"),
        }
        // An entity that has gone needs no report.
        let _ = entity.send_message(Message::Rehydrated(folded.map(Box::new)));
    });
}

async fn fold_stream(id: &TenantId, world: &World) -> Result<Rehydrated, Arc<str>> {
    let _turn = world.rehydrations.acquire().await.map_err(|_| Arc::from("the node is stopping"))?;
    let (tenant, verifier, places) = (Tenant::new(id.clone()), Verifier::new(id.clone()), Places::default());
    let mut fold = Fold { tenant, verifier, places, position: Position::START, now: world.clock.moment() };
    loop {
        let from = fold.verifier.head().revision.next();
        let commits = world.log.read_stream(id, from, ReadLimit::default()).await;
        let commits = commits.map_err(|error| Arc::from(error.to_string()))?;
        if commits.is_empty() {
            let Fold { mut tenant, verifier, places, position, .. } = fold;
            tenant.resume(world.clock.steady());
            return Ok(Rehydrated { tenant, head: *verifier.head(), position, places });
        }
        // Decoding and hashing a long stream is work for a thread that may be busy.
        let folded = tokio::task::spawn_blocking(move || fold.all(&commits)).await;
        fold = folded.map_err(|error| Arc::from(error.to_string()))??;
    }
}

struct Fold {
    tenant: Tenant,
    verifier: Verifier,
    places: Places,
    position: Position,
    /// From when the history is looked at.
    now: Moment,
}

impl Fold {
    fn all(mut self, commits: &[Arc<Recorded>]) -> Result<Self, Arc<str>> {
        for recorded in commits {
            self.verifier.step(&recorded.commit).map_err(|broken| Arc::from(broken.to_string()))?;
            let events = recorded.commit.events().map_err(|error| Arc::from(error.to_string()))?;
            for envelope in events.iter() {
                self.tenant.fold(envelope, self.now.of_record(envelope.time).steady);
                self.places.note(&envelope.event, recorded.position);
            }
            self.position = recorded.position;
        }
        Ok(self)
    }
}
