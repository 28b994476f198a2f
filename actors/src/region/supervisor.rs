//! The parent of all entities.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use wasmwiz_events::{id::TenantId, revision::Epoch, shard::Shard};

use crate::{
    entity::{Entity, Message, World},
    handle::{Handle, Unreadable},
    metrics,
};

/// Asks for a tenant's entity.
#[derive(Debug)]
pub(super) struct Activate {
    pub(super) tenant: TenantId,
    /// The epoch in which it is to decide.
    pub(super) epoch: Epoch,
    pub(super) reply: oneshot::Sender<Activated>,
}

/// What became of that.
#[derive(Debug)]
pub(super) enum Activated {
    /// Here it is.
    Handle(Handle),
    /// There are as many as may be.
    Full,
    /// The epoch is over.
    NotHere,
}

/// Spawns entities and hears of their ends.
pub(super) struct Supervisor {
    pub(super) world: Arc<World>,
    pub(super) entities_max: usize,
    pub(super) mailbox_max: usize,
}

impl Supervisor {
    async fn activate(
        &self,
        myself: &ActorRef<Activate>,
        tenant: TenantId,
        epoch: Epoch,
    ) -> Result<Activated, ActorProcessingErr> {
        let live = &self.world.live;
        match live.get(&tenant) {
            Some(handle) if handle.epoch() >= epoch => return Ok(Activated::Handle(handle)),
            // What it has in flight and what the next one decides meet in the log: one of them is decided again.
            Some(older) => drop(older.actor().send_message(Message::Retire)),
            None => {}
        }
        if live.len() >= self.entities_max {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "entities").increment(1);
            return Ok(Activated::Full);
        }
        let shard = Shard::of(&tenant);
        let unreadable = Unreadable::default();
        let entity = Entity::new(tenant.clone(), (shard, epoch), Arc::clone(&self.world), unreadable.clone());
        let (actor, _) = Entity::spawn_linked(None, entity, (), myself.get_cell()).await?;
        let handle = Handle::new(actor, (shard, epoch), self.mailbox_max, unreadable);
        live.insert(tenant, handle.clone());
        // Whoever releases the shard closes it before looking for its entities: either it sees this one, or this sees that.
        if self.world.shards.here(shard) == Some(epoch) {
            return Ok(Activated::Handle(handle));
        }
        let _ = handle.actor().send_message(Message::Retire);
        Ok(Activated::NotHere)
    }
}

impl Actor for Supervisor {
    type Msg = Activate;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Activate>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Activate>,
        activate: Activate,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let Activate { tenant, epoch, reply } = activate;
        let activated = self.activate(&myself, tenant, epoch).await?;
        let _ = reply.send(activated);
        Ok(())
    }

    /// An entity that stopped is forgotten; the next command wakes a new one, from the log.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Activate>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                tracing::error!(%error, "an entity panicked; it will be read back from the log");
                self.world.live.forget(actor.get_id());
            }
            SupervisionEvent::ActorTerminated(actor, _, _) => self.world.live.forget(actor.get_id()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            #[expect(unreachable_patterns, reason = "variants exist only with features that another crate may turn on")]
            _ => {}
        }
        Ok(())
    }
}
