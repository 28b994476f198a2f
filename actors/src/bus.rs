//! Any node answers any request, and the owner of the tenant decides.
//!
//! ```text
//! gateway, dispatch, sweep ─► bus ─┬─ owned here ──► region, a call in memory
//!                                  └─ elsewhere ───► frame ─► transport ─► server there ─► its region
//!                                                       ▲ nobody, moved: wait for the ownership to change, ask anew │
//!                                                       └───────────────────────────────────────────────────────────┘
//! ```
//! What is said of a command is true: `Busy` and refusals mean that nothing was decided, and where it is not known whether
//! the command was taken in, the answer says so. It is sent again only if that can do no harm (`bus/again`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use wasmwiz_events::{
    id::{NodeId, TenantId},
    key::Scope,
    revision::Epoch,
    shard::Shard,
};

use crate::{
    aggregate::Authority,
    ahead::{self, Ahead},
    codec::{Control, FrameError, Question, Reply},
    handle::{Ask, AskError, Decided, Full, Origin},
    ids::Ids,
    metrics,
    ownership::Owner,
    queue::Entering,
    region::{Asked, ENTITIES_TRIED, Region, contended, unavailable},
    tenant::Command,
    topology::Topology,
};

mod again;
mod server;
mod transport;

pub use server::Server;
pub use transport::{Letter, Transport, Unanswered};

/// The first pause before the owner of a tenant is looked up again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest of those: a new owner is asked soon, even if nobody told of the change.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long the answer of an owner is still waited for once it is none any more: one that hands over answers what it had
/// decided, one that has ended does not.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Bounds of what goes between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// Commands that may be under way to one other node; above it callers are turned away.
    pub asks_per_node_max: usize,
    /// Commands of other nodes that are dealt with at the same time, and as many reports of how executions ended.
    pub serving_max: usize,
    /// Milliseconds that one answer to a command which may be sent again is waited for.
    pub try_within_ms: u64,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self { asks_per_node_max: 512, serving_max: 1_024, try_within_ms: 2_500 }
    }
}

/// A clonable way in to all tenants, wherever they are.
#[derive(Clone)]
pub struct CommandBus {
    region: Region,
    /// `None` at a node that is alone.
    far: Option<Arc<Far>>,
}

/// The way to other nodes.
struct Far {
    transport: Arc<dyn Transport>,
    config: BusConfig,
    /// Places for commands under way, by node: one that does not answer keeps nobody from asking another.
    places: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
}

/// Where one letter goes.
struct To<'a> {
    tenant: &'a TenantId,
    shard: Shard,
    epoch: Epoch,
    node: &'a NodeId,
    within: Duration,
}

/// What became of one letter.
enum Tried {
    Decided(Decided),
    /// It was certainly not decided, and another may be asked.
    NotTaken(Arc<str>),
    /// It may have been.
    Unknown(Arc<str>),
}

impl CommandBus {
    /// The bus of a node that is alone: the region is all there is.
    pub const fn alone(region: Region) -> Self {
        Self { region, far: None }
    }

    /// The bus of a node among others.
    pub fn new(region: Region, transport: Arc<dyn Transport>, config: BusConfig) -> Self {
        Self { region, far: Some(Arc::new(Far { transport, config, places: Mutex::default() })) }
    }

    /// The tenants of this node.
    pub const fn region(&self) -> &Region {
        &self.region
    }

    /// The nodes and shards as this node sees them. From memory.
    pub fn topology(&self) -> Topology {
        self.region.ownership().topology()
    }

    /// Asks a tenant, wherever it is, and waits until the decision is durable.
    ///
    /// # Errors
    /// [`AskError`]. After `Unavailable` it may not be known whether the command took effect; the reason says so.
    pub async fn ask(&self, tenant: &TenantId, ask: Ask) -> Result<Decided, AskError> {
        self.ask_within(tenant, ask, self.region.answer_within()).await
    }

    /// Wakes a tenant, wherever it is, and waits until its entity has read its past: longer than a caller waits, if
    /// that takes long. What is asked of it next is answered in a caller's time.
    ///
    /// # Errors
    /// [`AskError::Unavailable`] when its past cannot be read, or it does not answer `within` that time; [`AskError::Busy`] when there was no room for it.
    pub async fn wake(&self, tenant: &TenantId, within: Duration) -> Result<(), AskError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Nothing follows from it, and what nobody waits for any more is dropped.
            let (command, origin) = (Command::Authorise(Scope::Operator), Origin::internal(Ids.command()));
            let ask = Ask { command, by: Authority::System, origin, payloads: vec![] };
            match self.ask_within(tenant, ask, left).await {
                // Others that are woken have all the room at the moment.
                Err(AskError::Busy { retry_after_ms }) if left > Duration::from_millis(retry_after_ms) => {
                    tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                }
                // Who refuses has read the past, also of a tenant that is not registered.
                Ok(_) | Err(AskError::Refused(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask_within(&self, tenant: &TenantId, ask: Ask, within: Duration) -> Result<Decided, AskError> {
        for _ in 0..ENTITIES_TRIED {
            match self.region.ask_one(tenant, ask.clone(), None, within).await? {
                Asked::Decided(decided) => return Ok(decided),
                Asked::Moved => {}
                Asked::NotHere => return Box::pin(self.ask_elsewhere(tenant, &ask, within)).await,
            }
        }
        Err(contended())
    }

    /// Asks for an admission. `ahead` is told of it as soon as it is decided here, or durable elsewhere. `None`: the
    /// entity has moved, and nothing was stored.
    pub(crate) async fn ask_ahead(
        &self,
        tenant: &TenantId,
        ask: Ask,
        ahead: Ahead,
    ) -> Result<Option<Decided>, AskError> {
        let within = self.region.answer_within();
        if self.is_here(tenant) {
            return match self.region.ask_one(tenant, ask, Some(ahead), within).await? {
                Asked::Decided(decided) => Ok(Some(decided)),
                Asked::Moved | Asked::NotHere => Ok(None),
            };
        }
        let decided = Box::pin(self.ask_elsewhere(tenant, &ask, within)).await?;
        ahead::tell(ahead, &decided.events, decided.time, decided.revision);
        Ok(Some(decided))
    }

    /// Room in the queue of this node for an execution that is about to be accepted. Elsewhere the owner sees to it.
    pub(crate) fn enter_queue(&self, tenant: &TenantId) -> Result<Option<Entering>, Full> {
        if !self.is_here(tenant) {
            return Ok(None);
        }
        self.region.enter_queue().map(Some).ok_or(Full)
    }

    /// Tells a node to end an execution that it runs. It may get lost: whoever asked may ask again.
    pub(crate) async fn tell(&self, node: &NodeId, control: Control) {
        let Some(far) = &self.far else { return };
        let told = match control.encode() {
            Ok(frame) => far.transport.tell(node, frame).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = told {
            tracing::warn!(%node, error, "another node could not be told what to do");
        }
    }

    /// Is there no other node?
    pub(crate) const fn is_alone(&self) -> bool {
        self.far.is_none()
    }

    /// A node that is alone need not look.
    pub(crate) fn is_here(&self, tenant: &TenantId) -> bool {
        self.far.is_none() || self.region.is_here(tenant)
    }

    /// Asks whoever owns the tenant, until somebody has decided or the time is over.
    async fn ask_elsewhere(&self, tenant: &TenantId, ask: &Ask, within: Duration) -> Result<Decided, AskError> {
        let Some(far) = &self.far else { return Err(not_taken("no node owns the tenant now")) };
        let (shard, repeatable) = (Shard::of(tenant), again::may_be(ask));
        let (deadline, mut pause) = (Instant::now() + within, FIRST_PAUSE);
        let mut unknown = None;
        loop {
            let owner = self.region.ownership().owner(shard);
            let left = deadline.saturating_duration_since(Instant::now());
            let tried = match &owner {
                Owner::Here(_) => self.ask_here(tenant, ask, within).await,
                Owner::There { node, epoch } => {
                    let within = if repeatable { left.min(far.try_within()) } else { left };
                    let to = To { tenant, shard, epoch: *epoch, node, within };
                    let answered = far.send(to, ask);
                    tokio::pin!(answered);
                    tokio::select! {
                        biased;
                        tried = &mut answered => tried,
                        () = self.region.ownership().changed(shard, &owner) => {
                            let grace = if repeatable { Duration::ZERO } else { LAST_ANSWER_WITHIN };
                            let tried = tokio::time::timeout(grace, answered).await;
                            tried.unwrap_or_else(|_| Ok(Tried::Unknown("it has moved".into())))
                        }
                    }
                }
                Owner::Nobody => Ok(Tried::NotTaken("no node owns the tenant now".into())),
            };
            let why = match tried {
                Ok(Tried::Decided(decided)) => return Ok(decided),
                Ok(Tried::NotTaken(why)) => why,
                Ok(Tried::Unknown(why)) if repeatable => unknown.insert(why).clone(),
                Ok(Tried::Unknown(why)) => return Err(not_known(&why)),
                // "Busy" says that nothing was decided. That is not known once it was sent before.
                Err(AskError::Busy { .. }) if unknown.is_some() => "too many commands are waiting".into(),
                Err(error) => return Err(error),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unknown.map_or_else(|| not_taken(&why), |why| not_known(&why)));
            }
            // A change may come without being told of.
            let changed = self.region.ownership().changed(shard, &owner);
            let _ = tokio::time::timeout(pause.min(left), changed).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// It has become this node's while it was looked for.
    async fn ask_here(&self, tenant: &TenantId, ask: &Ask, within: Duration) -> Result<Tried, AskError> {
        Ok(match self.region.ask_one(tenant, ask.clone(), None, within).await? {
            Asked::Decided(decided) => Tried::Decided(decided),
            Asked::Moved => Tried::NotTaken("the tenant's stream is contended".into()),
            Asked::NotHere => Tried::NotTaken("the tenant is on its way to another node".into()),
        })
    }
}

impl Far {
    const fn try_within(&self) -> Duration {
        Duration::from_millis(self.config.try_within_ms)
    }

    /// A place among the commands under way to a node. Reports need none: there is at most one for each execution here.
    fn place(&self, node: &NodeId, ask: &Ask) -> Result<Option<OwnedSemaphorePermit>, AskError> {
        if ask.command.is_report() {
            return Ok(None);
        }
        let places = {
            let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(node) {
                Some(places) => Arc::clone(places),
                None => {
                    let places = Arc::new(Semaphore::new(self.config.asks_per_node_max));
                    all.insert(node.clone(), Arc::clone(&places));
                    places
                }
            }
        };
        places.try_acquire_owned().map(Some).map_err(|_| {
            ::metrics::counter!(metrics::SHED_TOTAL, "bound" => "bus_asks").increment(1);
            AskError::Busy { retry_after_ms: 100 }
        })
    }

    /// Sends a command to an owner, and says what is known then.
    async fn send(&self, to: To<'_>, ask: &Ask) -> Result<Tried, AskError> {
        let To { tenant, shard, epoch, node, within } = to;
        let _place = self.place(node, ask)?;
        let question = Question { tenant: tenant.clone(), within, ask: ask.clone() };
        let frame = question.encode().map_err(|error| not_taken(&error.to_string()))?;
        let traceparent = ask.origin.traceparent.clone();
        let letter = Letter { shard, epoch, node: node.clone(), traceparent, frame, within };
        let answered = tokio::time::timeout(within, self.transport.request(letter)).await;
        let frame = match answered.unwrap_or(Err(Unanswered::TimedOut)) {
            Ok(frame) => frame,
            Err(error @ (Unanswered::NoResponders | Unanswered::NotSent(_))) => {
                return Ok(Tried::NotTaken(error.to_string().into()));
            }
            Err(error @ (Unanswered::TimedOut | Unanswered::Lost(_))) => {
                return Ok(Tried::Unknown(error.to_string().into()));
            }
        };
        match Reply::decode(&frame) {
            Ok(Reply::Decided(decided)) => Ok(Tried::Decided(decided)),
            Ok(Reply::Refused(refusal)) => Err(refusal.into()),
            Ok(Reply::Busy { retry_after_ms }) => Err(AskError::Busy { retry_after_ms }),
            Ok(Reply::NotHere) => Ok(Tried::NotTaken("the tenant is on its way to another node".into())),
            Ok(Reply::Unread { reason }) => Err(not_taken(&reason)),
            Ok(Reply::TooLate) => Ok(Tried::Unknown("no answer in time".into())),
            Ok(Reply::Unavailable { reason, retry_after_ms }) => Err(AskError::Unavailable { reason, retry_after_ms }),
            // Who answers so has read no more than the version.
            Err(error @ FrameError::Version(_)) => Err(not_taken(&error.to_string())),
            Err(error) => Ok(Tried::Unknown(error.to_string().into())),
        }
    }
}

fn not_taken(why: &str) -> AskError {
    unavailable(format!("{why}; nothing was decided"))
}

fn not_known(why: &str) -> AskError {
    unavailable(format!("{why}; it is not known whether the command was recorded"))
}
