//! The entities of this node: found, woken, supervised and retired.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use wasmwiz_events::{
    id::{BootId, NodeId, TenantId},
    log::EventLog,
    revision::Epoch,
    time::Clock,
};

use crate::{
    entity::{Entity, Message, World},
    handle::{Answer, Ask, AskError, Decided, Full, Handle},
    ids::Ids,
    limits::Policy,
    metrics,
};

/// Bounds of the region and its entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegionConfig {
    /// Entities in memory at the same time. One idle entity is a few KiB.
    pub entities_max: usize,
    /// Commands that may wait for one entity; above it callers are turned away.
    pub mailbox_max: usize,
    /// Wake-ups that may wait for the region.
    pub activations_max: usize,
    /// Streams folded at the same time, so that a restart does not starve everything else.
    pub rehydrations_max: usize,
    /// Milliseconds without a command after which an entity leaves memory.
    pub passivate_after_ms: u64,
    /// Milliseconds between an entity's looks at its deadlines and its idleness.
    pub wake_every_ms: u64,
    /// Milliseconds that a caller waits for an answer before it is told that nobody knows.
    pub answer_within_ms: u64,
}

impl Default for RegionConfig {
    fn default() -> Self {
        Self {
            entities_max: 50_000,
            mailbox_max: 1_024,
            activations_max: 1_024,
            rehydrations_max: 8,
            passivate_after_ms: 120_000,
            wake_every_ms: 10_000,
            answer_within_ms: 10_000,
        }
    }
}

/// What the region needs from its node.
pub struct RegionDeps {
    /// Where decisions are kept.
    pub log: Arc<dyn EventLog>,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// What each tier allows.
    pub policy: Policy,
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// The epoch in which it owns its tenants.
    pub epoch: Epoch,
}

/// The region could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the region cannot be started: {0}")]
pub struct StartError(String);

/// A clonable way in to all tenants of this node.
#[derive(Clone)]
pub struct Region {
    live: Arc<Live>,
    supervisor: ActorRef<Activate>,
    activations: Arc<Semaphore>,
    closing: Arc<AtomicBool>,
    answer_within: Duration,
}

/// Handles of the entities that are in memory.
#[derive(Debug, Default)]
pub(crate) struct Live {
    index: RwLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_tenant: HashMap<TenantId, Handle>,
    /// Supervision names the actor that stopped, not its tenant.
    by_actor: HashMap<ActorId, TenantId>,
}

impl Live {
    fn get(&self, tenant: &TenantId) -> Option<Handle> {
        self.read().by_tenant.get(tenant).cloned()
    }

    fn insert(&self, tenant: TenantId, handle: Handle) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.by_actor.insert(handle.actor_id(), tenant.clone());
        index.by_tenant.insert(tenant, handle);
        ::metrics::gauge!(metrics::ENTITIES).set(index.by_tenant.len() as f64);
    }

    /// Forgets an entity that has stopped, unless its tenant has a younger one already.
    pub(crate) fn forget(&self, actor: ActorId) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(tenant) = index.by_actor.remove(&actor) else { return };
        if index.by_tenant.get(&tenant).is_some_and(|handle| handle.actor_id() == actor) {
            index.by_tenant.remove(&tenant);
        }
        ::metrics::gauge!(metrics::ENTITIES).set(index.by_tenant.len() as f64);
    }

    fn len(&self) -> usize {
        self.read().by_tenant.len()
    }

    fn all(&self) -> Vec<Handle> {
        self.read().by_tenant.values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Region {
    /// Starts a region without entities; they wake when they are asked.
    ///
    /// # Errors
    /// [`StartError`] when its supervisor cannot be spawned.
    pub async fn start(config: RegionConfig, deps: RegionDeps) -> Result<Self, StartError> {
        let live = Arc::new(Live::default());
        let world = World {
            log: deps.log,
            clock: deps.clock,
            policy: deps.policy,
            ids: Ids,
            node: deps.node,
            boot: deps.boot,
            epoch: deps.epoch,
            passivate_after_ms: config.passivate_after_ms,
            wake_every_ms: config.wake_every_ms,
            rehydrations: Arc::new(Semaphore::new(config.rehydrations_max)),
            live: Arc::clone(&live),
        };
        let supervisor = Supervisor { world: Arc::new(world), config };
        let spawned = Supervisor::spawn(None, supervisor, ()).await;
        let (supervisor, _) = spawned.map_err(|error| StartError(error.to_string()))?;
        Ok(Self {
            live,
            supervisor,
            activations: Arc::new(Semaphore::new(config.activations_max)),
            closing: Arc::new(AtomicBool::new(false)),
            answer_within: Duration::from_millis(config.answer_within_ms),
        })
    }

    /// Asks a tenant's entity, waking it first if need be, and waits until the decision is durable.
    ///
    /// # Errors
    /// [`AskError`]. After `Unavailable` it may not be known whether the command took effect.
    pub async fn ask(&self, tenant: &TenantId, ask: Ask) -> Result<Decided, AskError> {
        // An entity that retires or loses its stream hands its commands to the next one; more than that is trouble.
        const ENTITIES_TRIED: usize = 3;
        for _ in 0..ENTITIES_TRIED {
            if self.closing.load(Ordering::Acquire) {
                return Err(unavailable("the node is stopping"));
            }
            let handle = match self.live.get(tenant) {
                Some(handle) => handle,
                None => self.activate(tenant).await?,
            };
            let Some(answer) = handle.enter(ask.clone()).map_err(|Full| AskError::Busy { retry_after_ms: 100 })? else {
                self.live.forget(handle.actor_id());
                continue;
            };
            match tokio::time::timeout(self.answer_within, answer).await {
                Ok(Ok(Answer::Decided(decided))) => return Ok(decided),
                Ok(Ok(Answer::Refused(refusal))) => return Err(refusal.into()),
                Ok(Ok(Answer::Moved)) => self.live.forget(handle.actor_id()),
                Ok(Ok(Answer::Unavailable(reason))) => return Err(unavailable(reason)),
                Ok(Err(_)) => return Err(unavailable("the tenant's entity failed; it is not known what it recorded")),
                Err(_) => return Err(unavailable("no answer in time; it is not known whether it was recorded")),
            }
        }
        Err(unavailable("the tenant's stream is contended"))
    }

    /// How many entities are in memory.
    pub fn entities(&self) -> usize {
        self.live.len()
    }

    /// Turns new commands away, lets what is in flight become durable, and stops all entities. Gives up on those that
    /// take longer than `deadline`: what they have in flight is in the log or not, and nobody has been told otherwise.
    pub async fn shutdown(&self, deadline: Duration) {
        self.closing.store(true, Ordering::Release);
        let stopping = async {
            for handle in self.live.all() {
                let _ = handle.actor().send_message(Message::Retire);
            }
            for handle in self.live.all() {
                let _ = handle.actor().get_cell().wait(None).await;
            }
        };
        if tokio::time::timeout(deadline, stopping).await.is_err() {
            tracing::warn!("entities did not stop in time");
        }
        self.supervisor.stop(None);
    }

    async fn activate(&self, tenant: &TenantId) -> Result<Handle, AskError> {
        let Ok(_permit) = self.activations.try_acquire() else {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "activations").increment(1);
            return Err(AskError::Busy { retry_after_ms: 1_000 });
        };
        let (reply, handle) = oneshot::channel();
        let activate = Activate { tenant: tenant.clone(), reply };
        self.supervisor.send_message(activate).map_err(|_| unavailable("the node is stopping"))?;
        match handle.await {
            Ok(Some(handle)) => Ok(handle),
            Ok(None) => Err(AskError::Busy { retry_after_ms: 1_000 }),
            Err(_) => Err(unavailable("the node is stopping")),
        }
    }
}

fn unavailable(reason: impl Into<Arc<str>>) -> AskError {
    AskError::Unavailable { reason: reason.into(), retry_after_ms: 1_000 }
}

/// Asks the supervisor for a tenant's entity; answered with `None` when there are as many as may be.
#[derive(Debug)]
struct Activate {
    tenant: TenantId,
    reply: oneshot::Sender<Option<Handle>>,
}

/// The parent of all entities.
struct Supervisor {
    world: Arc<World>,
    config: RegionConfig,
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
        let Activate { tenant, reply } = activate;
        let live = &self.world.live;
        let handle = match live.get(&tenant) {
            Some(handle) => Some(handle),
            None if live.len() >= self.config.entities_max => {
                ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "entities").increment(1);
                None
            }
            None => {
                let entity = Entity::new(tenant.clone(), Arc::clone(&self.world));
                let (actor, _) = Entity::spawn_linked(None, entity, (), myself.get_cell()).await?;
                let handle = Handle::new(actor, self.config.mailbox_max);
                live.insert(tenant, handle.clone());
                Some(handle)
            }
        };
        let _ = reply.send(handle);
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
