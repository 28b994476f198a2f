//! The entities of this node: found, woken, supervised and retired.
//!
//! A region is the local part: it decides for tenants whose shard is owned here, in the epoch of that ownership, and says
//! of every other that it is not here. Who asks without knowing where asks through the [`bus`](crate::bus).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor as _, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use wasmwiz_events::{
    id::TenantId,
    log::EventLog,
    revision::Epoch,
    shard::Shard,
    time::{Clock, Timestamp},
};

use crate::{
    ahead::Ahead,
    entity::{Kept, Message, Skips, World},
    handle::{Answer, Ask, AskError, Decided, Full, Handle},
    ids::Ids,
    limits::Policy,
    metrics,
    ownership::Ownership,
    queue::{Entering, Queue, QueueConfig},
    snapshots::{SnapshotConfig, Snapshots},
};

mod live;
mod shards;
mod supervisor;

pub(crate) use live::Live;
pub(crate) use shards::Shards;
use supervisor::{Activate, Activated, Supervisor};

/// An entity that retires or loses its stream hands its commands to the next one; more than that is trouble.
pub(crate) const ENTITIES_TRIED: usize = 3;

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
    /// Milliseconds for which a commit is offered to a log that is busy, or of which it is not known whether it has it. Its entity
    /// keeps what it knows meanwhile; after that the next one reads the log.
    pub offer_within_ms: u64,
    /// Asynchronous executions.
    pub queue: QueueConfig,
    /// States of tenants that are kept, so that waking one need not read its whole past.
    pub snapshots: SnapshotConfig,
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
            offer_within_ms: 60_000,
            queue: QueueConfig::default(),
            snapshots: SnapshotConfig::default(),
        }
    }
}

/// Ends of streams that are looked at at the same time: each is read at the leader of the log, before what is written.
const LOOKS_MAX: usize = 32;

/// What the region needs from its node.
pub struct RegionDeps {
    /// Where decisions are kept.
    pub log: Arc<dyn EventLog>,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// What each tier allows.
    pub policy: Policy,
    /// Whose shards are whose, and which lives of nodes have ended.
    pub ownership: Arc<dyn Ownership>,
    /// Where states of tenants are kept. `None`: nowhere, and each is read from its beginning.
    pub snapshots: Option<Arc<dyn Snapshots>>,
}

/// The region could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the region cannot be started: {0}")]
pub struct StartError(String);

/// A shard was not given up in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("appends in shard {0} are still in flight; give it more time, or let its lease end")]
pub struct StillBusy(pub Shard);

/// A clonable way in to all tenants of this node.
#[derive(Clone)]
pub struct Region {
    live: Arc<Live>,
    supervisor: ActorRef<Activate>,
    activations: Arc<Semaphore>,
    closing: Arc<AtomicBool>,
    shards: Arc<Shards>,
    answer_within: Duration,
    clock: Arc<dyn Clock>,
    queue: Queue,
}

/// What became of a command that was given to this node.
#[derive(Debug)]
pub(crate) enum Asked {
    /// It is decided, and durable.
    Decided(Decided),
    /// The entity has moved, nothing was stored, and the tenant's next entity may be asked.
    Moved,
    /// Another node owns the tenant, or none does. Nothing was decided.
    NotHere,
}

impl Region {
    /// Starts a region without entities; they wake when they are asked.
    ///
    /// # Errors
    /// [`StartError`] when its supervisor cannot be spawned.
    pub async fn start(config: RegionConfig, deps: RegionDeps) -> Result<Self, StartError> {
        let (live, shards) = (Arc::new(Live::default()), Arc::new(Shards::new(deps.ownership)));
        let (clock, queue) = (Arc::clone(&deps.clock), Queue::new(config.queue));
        let world = World {
            log: deps.log,
            clock: deps.clock,
            policy: deps.policy,
            ids: Ids,
            shards: Arc::clone(&shards),
            passivate_after_ms: config.passivate_after_ms,
            wake_every_ms: config.wake_every_ms,
            offer_within_ms: config.offer_within_ms,
            rehydrations: Arc::new(Semaphore::new(config.rehydrations_max)),
            looks: Semaphore::new(LOOKS_MAX),
            live: Arc::clone(&live),
            queue: queue.clone(),
            kept: Kept::new(deps.snapshots, config.snapshots),
            skips: Skips::new(),
        };
        let RegionConfig { entities_max, mailbox_max, .. } = config;
        let supervisor = Supervisor { world: Arc::new(world), entities_max, mailbox_max };
        let spawned = Supervisor::spawn(None, supervisor, ()).await;
        let (supervisor, _) = spawned.map_err(|error| StartError(error.to_string()))?;
        Ok(Self {
            live,
            supervisor,
            activations: Arc::new(Semaphore::new(config.activations_max)),
            closing: Arc::new(AtomicBool::new(false)),
            shards,
            answer_within: Duration::from_millis(config.answer_within_ms),
            clock,
            queue,
        })
    }

    /// Asks a tenant's entity, waking it first if need be, and waits until the decision is durable.
    ///
    /// # Errors
    /// [`AskError`]. After `Unavailable` it may not be known whether the command took effect; when it is because the tenant
    /// is not owned here, nothing was decided.
    pub async fn ask(&self, tenant: &TenantId, ask: Ask) -> Result<Decided, AskError> {
        for _ in 0..ENTITIES_TRIED {
            match self.ask_one(tenant, ask.clone(), None, self.answer_within).await? {
                Asked::Decided(decided) => return Ok(decided),
                Asked::Moved => {}
                Asked::NotHere => return Err(unavailable("another node owns the tenant; nothing was decided here")),
            }
        }
        Err(contended())
    }

    /// Asks the entity that lives now, and waits for its answer `within` that time. `ahead` is told of an admission as
    /// soon as this entity has decided it.
    pub(crate) async fn ask_one(
        &self,
        tenant: &TenantId,
        ask: Ask,
        ahead: Option<Ahead>,
        within: Duration,
    ) -> Result<Asked, AskError> {
        if self.is_closing() {
            return Err(unavailable("the node is stopping"));
        }
        let Some(handle) = self.entity(tenant).await? else { return Ok(Asked::NotHere) };
        let entered = handle.enter(ask, ahead).map_err(|Full| AskError::Busy { retry_after_ms: 100 })?;
        let Some(answer) = entered else { return self.moved(&handle) };
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(Answer::Decided(decided))) => Ok(Asked::Decided(decided)),
            Ok(Ok(Answer::Refused(refusal))) => Err(refusal.into()),
            Ok(Ok(Answer::Moved)) => self.moved(&handle),
            Ok(Ok(Answer::NotHere)) => Ok(Asked::NotHere),
            Ok(Ok(Answer::Unavailable(reason))) => Err(unavailable(reason)),
            Ok(Err(_)) => Err(unavailable("the tenant's entity failed; it is not known what it recorded")),
            Err(_) => Err(unavailable("no answer in time; it is not known whether it was recorded")),
        }
    }

    /// An entity has stopped with a command undecided: the tenant's next one may be asked, unless it would meet the same stream.
    fn moved(&self, handle: &Handle) -> Result<Asked, AskError> {
        self.live.forget(handle.actor_id());
        handle.unreadable().map_or(Ok(Asked::Moved), |reason| Err(unavailable(reason)))
    }

    /// The entity of a tenant, in the epoch in which this node owns its shard; `None` when it does not.
    async fn entity(&self, tenant: &TenantId) -> Result<Option<Handle>, AskError> {
        let Some(handle) = self.live.get(tenant) else {
            let here = self.shards.here(Shard::of(tenant));
            return match here {
                Some(epoch) => self.activate(tenant, epoch).await,
                None => Ok(None),
            };
        };
        match self.shards.here(handle.shard()) {
            Some(epoch) if epoch == handle.epoch() => Ok(Some(handle)),
            here => {
                // What it has in flight is answered before the next one reads the log.
                let _ = handle.actor().send_message(Message::Retire);
                let Some(epoch) = here else { return Ok(None) };
                if handle.actor().get_cell().wait(Some(self.answer_within)).await.is_err() {
                    return Err(unavailable("what the tenant's entity has in flight takes long; nothing was decided"));
                }
                self.live.forget(handle.actor_id());
                self.activate(tenant, epoch).await
            }
        }
    }

    /// Is it being stopped?
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Does this node decide for the tenant?
    pub(crate) fn is_here(&self, tenant: &TenantId) -> bool {
        self.shards.here(Shard::of(tenant)).is_some()
    }

    /// Does this node decide in the shard?
    pub fn owns(&self, shard: Shard) -> bool {
        self.shards.here(shard).is_some()
    }

    /// Who owns what, as this node knows.
    pub(crate) fn ownership(&self) -> &Arc<dyn Ownership> {
        self.shards.ownership()
    }

    /// How long a caller waits for an answer.
    pub(crate) const fn answer_within(&self) -> Duration {
        self.answer_within
    }

    /// Gives a shard up: from now on nothing is decided here in its epoch, its entities retire, and what they have in
    /// flight is waited for. Another node may own it as soon as this has returned.
    ///
    /// # Errors
    /// [`StillBusy`] when appends were still in flight after `within`. Should one of them come late, the log takes it only
    /// if the next owner has not written yet.
    pub async fn release(&self, shard: Shard, within: Duration) -> Result<(), StillBusy> {
        let youngest = self.live.of(shard).iter().map(Handle::epoch).chain(self.shards.here(shard)).max();
        if let Some(epoch) = youngest {
            tracing::debug!(%shard, %epoch, "an epoch of a shard is over here");
            self.shards.close(shard, epoch);
        }
        let retiring = async {
            loop {
                let handles = self.live.of(shard);
                if handles.is_empty() {
                    return;
                }
                for handle in &handles {
                    let _ = handle.actor().send_message(Message::Retire);
                }
                for handle in handles {
                    let _ = handle.actor().get_cell().wait(None).await;
                    self.live.forget(handle.actor_id());
                }
            }
        };
        tokio::time::timeout(within, retiring).await.map_err(|_| StillBusy(shard))
    }

    /// Takes a shard up in an epoch: entities of an older one retire, and others wake when they are asked. Somebody must
    /// look for open executions, see [`Region::next_taken_up`].
    pub fn take_up(&self, shard: Shard, epoch: Epoch) {
        for handle in self.live.of(shard) {
            if handle.epoch() < epoch {
                let _ = handle.actor().send_message(Message::Retire);
            }
        }
        self.shards.take_up(shard, epoch);
    }

    /// Lives of nodes have ended: every entity in memory looks for what they ran now, and not when its turn comes.
    pub fn look(&self) {
        for handle in self.live.all() {
            // One that has stopped runs nothing.
            let _ = handle.actor().send_message(Message::Look);
        }
    }

    /// Waits until shards are taken up, and gives all that were since the last time. Cancelling it loses nothing.
    pub async fn next_taken_up(&self) -> BTreeSet<Shard> {
        self.shards.next_taken_up().await
    }

    /// Room in the queue for an execution that is about to be accepted here; `None` when there is none.
    pub(crate) fn enter_queue(&self) -> Option<Entering> {
        self.queue.enter()
    }

    /// The moment, as its entities see it.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What its entities have to be run.
    pub(crate) const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Sets the gauges of what waits now. For whoever reads metrics, when it reads them.
    pub fn observe(&self) {
        let (waiting, longest) = self.live.waiting();
        ::metrics::gauge!(metrics::COMMANDS_WAITING).set(waiting as f64);
        ::metrics::gauge!(metrics::COMMANDS_WAITING_LONGEST).set(longest as f64);
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

    async fn activate(&self, tenant: &TenantId, epoch: Epoch) -> Result<Option<Handle>, AskError> {
        let Ok(_permit) = self.activations.try_acquire() else {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "activations").increment(1);
            return Err(AskError::Busy { retry_after_ms: 1_000 });
        };
        let (reply, activated) = oneshot::channel();
        let activate = Activate { tenant: tenant.clone(), epoch, reply };
        self.supervisor.send_message(activate).map_err(|_| unavailable("the node is stopping"))?;
        match activated.await {
            Ok(Activated::Handle(handle)) => Ok(Some(handle)),
            Ok(Activated::NotHere) => Ok(None),
            Ok(Activated::Full) => Err(AskError::Busy { retry_after_ms: 1_000 }),
            Err(_) => Err(unavailable("the node is stopping")),
        }
    }
}

/// What is said when as many entities as are asked had lost their stream.
pub(crate) fn contended() -> AskError {
    unavailable("the tenant's stream is contended")
}

pub(crate) fn unavailable(reason: impl Into<Arc<str>>) -> AskError {
    AskError::Unavailable { reason: reason.into(), retry_after_ms: 1_000 }
}
