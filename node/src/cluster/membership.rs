//! The member: one life of a node in a cluster. It starts, recovers from whatever the bus does, and leaves.
//!
//! Without the bus it fences itself by its own clock, and comes back by itself when the bus does. Answers about ownership
//! come from memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use wasmwiz_actors::{
    ownership::{Owner, Ownership},
    topology::Topology,
};
use wasmwiz_events::{
    id::{BootId, NodeId},
    revision::Epoch,
    shard::Shard,
    time::Clock,
};

use super::{
    belief::Belief,
    buckets::{Buckets, Trouble},
    clock::{self, Mono},
    config::ClusterConfig,
    keeper::Act,
    lease::Lease,
    member::{Life, PROTOCOL, Record, Refusal, Standing},
    placement::table::{Founding, Table},
    planner::Leader,
    roster::Roster,
    session::{self, Ended},
    shards::Shards,
    status::{Movements, Sight},
};

/// How long to wait before the next connection, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What is said of a table that is gone.
const LOST: &str = "the table of owners is gone from the bucket WASMWIZ_CLUSTER: nobody owns anything until it is founded \
                    again, which takes one lease; epochs go on from the last that is known";

/// Who a member is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// Its version, for people.
    pub version: String,
    /// Where its API is, for people.
    pub address: String,
}

/// How far it is with staying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Staying,
    /// What it owns moves to others.
    Leaving,
    /// It decides nothing any more: its record is deleted.
    Goodbye,
}

/// What a member knows.
pub(super) struct State {
    pub(super) belief: Belief,
    pub(super) roster: Roster,
    pub(super) leader: Option<Leader>,
    pub(super) phase: Phase,
    /// Has it heard its own record, and so all that were there before it?
    pub(super) is_synced: bool,
    /// The founding of the table, and since when it is known here.
    pub(super) founding: Option<(Founding, Mono)>,
    /// When the table was last known to be the newest.
    table_read: Mono,
    /// Epochs that the log knows to be larger.
    pub(super) outdated: BTreeMap<Shard, Epoch>,
    trouble: Option<String>,
    refusal: Option<Refusal>,
    movements: Movements,
}

/// What all tasks of a member share.
pub(super) struct Shared {
    pub(super) config: ClusterConfig,
    pub(super) clock: Arc<dyn Clock>,
    identity: Identity,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// A member. Dropped without [`Self::leave`] it is like one that was killed: its lease ends by itself.
pub struct Membership {
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

/// What a member believes, for whoever asks who owns what.
#[derive(Clone)]
pub struct Beliefs(Arc<Shared>);

impl Membership {
    /// One that has not begun: it owns nothing, and its beliefs can be handed out.
    pub fn new(config: ClusterConfig, identity: Identity, clock: Arc<dyn Clock>) -> Self {
        let me = Life { node: identity.node.clone(), boot: identity.boot, lease: 0 };
        let state = State {
            belief: Belief::new(me, Lease::new(config.ttl(), config.margin())),
            roster: Roster::new(config.ttl()),
            leader: None,
            phase: Phase::Staying,
            is_synced: false,
            founding: None,
            table_read: Mono::default(),
            outdated: BTreeMap::new(),
            trouble: None,
            refusal: None,
            movements: Movements::default(),
        };
        let (changed, _) = watch::channel(0);
        let shared = Arc::new(Shared { config, clock, identity, state: Mutex::new(state), changed });
        Self { shared, running: None }
    }

    /// Begins to be a member, and goes on trying for as long as it lives. What it owns is served by `shards`.
    pub fn begin(&mut self, shards: Arc<dyn Shards>) {
        let shared = Arc::clone(&self.shared);
        let living = async move {
            tokio::select! {
                () = stay(&shared) => {}
                () = keep(&shared, &*shards) => {}
            }
        };
        self.running.get_or_insert_with(|| tokio::spawn(living));
    }

    /// Waits until it is a member.
    ///
    /// # Errors
    /// [`Refusal`] if it may not be one. A bus that is away is waited for.
    pub async fn joined(&self) -> Result<(), Refusal> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            {
                let state = self.shared.state();
                if let Some(refusal) = &state.refusal {
                    return Err(refusal.clone());
                }
                if state.is_synced && state.belief.lease.holds(clock::now()) {
                    return Ok(());
                }
            }
            // The sender is in `self`.
            let _ = changed.changed().await;
        }
    }

    /// What it believes.
    pub fn beliefs(&self) -> Beliefs {
        Beliefs(Arc::clone(&self.shared))
    }

    /// Hands over what it owns, and ends. What could not be handed over in time is found by the others at once.
    pub async fn leave(mut self, within: Duration) {
        self.shared.enter(Phase::Leaving);
        let config = &self.shared.config;
        // Most of it for handing over; but the others are to be told in any case.
        let (most, rest) = (within * 3 / 5, within / 5);
        let leave = Duration::from_millis(config.leave_ms).min(most);
        let (drain, goodbye) = (Duration::from_millis(config.drain_ms).min(rest), config.ttl().min(rest));
        let handed_over = self.until(|state| {
            let me = state.belief.me();
            let owned = |table: &Arc<Table>| table.owners().any(|owner| owner.node == me.node && owner.boot == me.boot);
            let is_held = state.belief.lease.holds(clock::now());
            state.belief.keeper.is_idle() && !(is_held && state.belief.table().is_some_and(|(table, _)| owned(table)))
        });
        if timeout(leave, handed_over).await.is_err() {
            tracing::warn!(
                leave_ms = leave.as_millis(),
                "not all shards could be handed over in time; the others take them"
            );
        }
        // In this order: whoever finds the record deleted takes it that this node decides nothing any more.
        self.shared.state().belief.lease.end_now();
        self.shared.tell();
        let _ = timeout(drain, self.until(|state| state.belief.keeper.is_idle())).await;
        self.shared.enter(Phase::Goodbye);
        let Some(running) = &mut self.running else { return };
        if timeout(goodbye, running).await.is_err() {
            tracing::warn!("the bus is away; the others find out by the lease that this node has left");
        }
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !holds(&self.shared.state()) {
            let _ = changed.changed().await;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Beliefs {
    /// The cluster as this node sees it.
    pub fn topology(&self) -> Topology {
        let (now, state) = (clock::now(), self.0.state());
        let sight = Sight {
            cluster: &self.0.config.name,
            node: &self.0.identity.node,
            leader: state.leader.as_ref().map(|leader| &leader.life.node),
            lease: state.belief.lease.until().map_or(Duration::ZERO, |until| until.since(now)),
            trouble: state.trouble.as_deref(),
            table: state.belief.table().map(|(table, _)| (&**table, state.table_read)),
            roster: &state.roster,
            movements: &state.movements,
        };
        sight.topology(now)
    }
}

#[async_trait]
impl Ownership for Beliefs {
    fn owner(&self, shard: Shard) -> Owner {
        // In this order: a thread that is held up between the two finds the lease older, never younger.
        let state = self.0.state();
        state.belief.owner(shard, clock::now())
    }

    async fn changed(&self, shard: Shard, seen: &Owner) {
        let mut changed = self.0.changed.subscribe();
        while self.owner(shard) == *seen {
            let ends = self.0.state().belief.lease.until().map(|until| until.since(clock::now()));
            let by_itself = async {
                match ends {
                    Some(left) if !left.is_zero() => sleep(left).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = by_itself => {}
            }
        }
    }

    fn has_ended(&self, node: &NodeId, boot: BootId) -> bool {
        self.0.state().belief.table().is_some_and(|(table, _)| table.has_ended(node, boot))
    }

    fn is_outdated(&self, shard: Shard, current: Epoch) {
        let known = &mut self.0.state().outdated;
        let epoch = known.entry(shard).or_default();
        *epoch = current.max(*epoch);
        self.0.tell();
    }

    fn topology(&self) -> Topology {
        Self::topology(self)
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed.
    pub(super) fn tell(&self) {
        self.changed.send_modify(|times| *times = times.wrapping_add(1));
    }

    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn enter(&self, phase: Phase) {
        self.state().phase = phase;
        self.tell();
    }

    /// What it says of itself now.
    pub(super) fn record(&self) -> Record {
        let state = self.state();
        let table = state.belief.table().map(|(table, _)| table);
        let standing = match state.phase {
            Phase::Leaving | Phase::Goodbye => Standing::Leaving,
            Phase::Staying if state.is_synced && table.is_some() => Standing::Live,
            Phase::Staying => Standing::Joining,
        };
        Record {
            cluster: self.config.name.clone(),
            life: state.belief.me().clone(),
            version: self.identity.version.clone(),
            protocol: PROTOCOL,
            address: self.identity.address.clone(),
            standing,
            weight: self.config.weight,
            lease_ttl_ms: self.config.lease_ttl_ms,
            founding: table.map(|table| table.founding().clone()),
        }
    }

    /// A table was read.
    pub(super) fn read_table(&self, table: Table, revision: u64) {
        let (table, now) = (Arc::new(table), clock::now());
        let mut state = self.state();
        let before = state.belief.table().map(|(table, _)| Arc::clone(table));
        let is_news = state.belief.read(Arc::clone(&table), revision);
        // One that is older than what is known says nothing of now.
        if state.belief.table().is_some_and(|(_, known)| known == revision) {
            state.table_read = now;
        }
        if !is_news {
            return;
        }
        if state.founding.as_ref().is_none_or(|(founding, _)| founding != table.founding()) {
            if state.founding.is_some() {
                state.trouble = Some(LOST.to_owned());
            }
            state.founding = Some((table.founding().clone(), now));
        }
        state.roster.named(table.owners(), now);
        state.roster.forget(table.owners(), now);
        if let Some(before) = before {
            state.movements.note(&before, &table, self.clock.now());
        }
        if table.is_open() {
            state.trouble = None;
        }
        drop(state);
        self.tell();
    }

    /// There is no table where there was one, since this revision; 0 in a bucket that was made anew.
    pub(super) fn lost_table(&self, since: u64) {
        let mut state = self.state();
        if state.belief.lost_table(since) {
            tracing::error!("{LOST}");
            state.trouble = Some(LOST.to_owned());
            drop(state);
            self.tell();
        }
    }

    /// It may be a member after all.
    pub(super) fn admitted(&self) {
        let state = &mut self.state();
        if state.refusal.take().is_some() {
            state.trouble = None;
        }
    }

    fn note(&self, trouble: &str) {
        let mut state = self.state();
        if state.trouble.as_deref() != Some(trouble) {
            tracing::warn!(trouble, "this node cannot speak to its cluster; its lease goes on until it ends");
            state.trouble = Some(trouble.to_owned());
        }
        drop(state);
        self.tell();
    }
}

/// One connection after the other, until it has left.
async fn stay(shared: &Shared) {
    let mut pause = PAUSE.0;
    loop {
        let began = clock::now();
        let ended = match Buckets::open(&shared.config).await {
            Ok(buckets) => session::run(shared, &buckets).await,
            Err(trouble) => trouble.into(),
        };
        match ended {
            Ended::Left => return,
            Ended::Lease => tracing::warn!("the lease has ended; another one is begun"),
            Ended::Trouble(trouble) => shared.note(&trouble.to_string()),
            Ended::Refused(refusal) => {
                tracing::error!(%refusal, "this node may not be a member");
                shared.state().refusal = Some(refusal.clone());
                shared.note(&refusal.to_string());
            }
        }
        if shared.state().phase == Phase::Goodbye {
            return;
        }
        // A connection that was of use begins the pauses anew.
        pause = if clock::now().since(began) > shared.config.ttl() { PAUSE.0 } else { pause };
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Takes up and releases shards as beliefs change: also when the lease ends and nothing else happens. What lives of nodes
/// ran is looked for when they have ended.
async fn keep(shared: &Shared, shards: &dyn Shards) {
    let (mut changed, mut releasing) = (shared.listen(), FuturesUnordered::new());
    let drain = Duration::from_millis(shared.config.drain_ms);
    let (mut seen, mut lives) = (0, Vec::new());
    loop {
        let ended = {
            let state = shared.state();
            let news = state.belief.table().filter(|(_, revision)| *revision != seen);
            news.is_some_and(|(table, revision)| {
                let now: Vec<_> = table.lives().map(|(node, boot, is_over)| (node.clone(), boot, is_over)).collect();
                let are_others = lives != now;
                (seen, lives) = (revision, now);
                are_others
            })
        };
        if ended {
            shards.lives_ended();
        }
        let (acts, ends) = {
            let (mut state, now) = (shared.state(), clock::now());
            let wanted = state.belief.wanted(now);
            let ends = state.belief.lease.until().map(|until| until.since(now)).filter(|left| !left.is_zero());
            (state.belief.keeper.acts(&wanted), ends)
        };
        for act in &acts {
            match *act {
                Act::TakeUp(shard, epoch) => {
                    tracing::debug!(%shard, %epoch, "a shard is taken up");
                    shards.take_up(shard, epoch);
                    shared.state().belief.keeper.taken_up(shard, epoch);
                }
                Act::Release(shard, epoch) => releasing.push(async move {
                    let released = timeout(drain, shards.release(shard, epoch)).await;
                    (shard, epoch, released.is_ok())
                }),
            }
        }
        if !acts.is_empty() {
            shared.tell();
        }
        tokio::select! {
            _ = changed.changed() => {}
            Some((shard, epoch, in_time)) = releasing.next() => {
                if !in_time {
                    tracing::warn!(%shard, %epoch, "a shard was not released in time; the log refuses what is under way");
                }
                tracing::debug!(%shard, %epoch, "a shard is released");
                shared.state().belief.keeper.released(shard);
                shared.tell();
            }
            () = sleep(ends.unwrap_or(shared.config.ttl())) => {}
        }
    }
}

/// As JSON, to be stored.
pub(super) fn json(value: &impl serde::Serialize) -> Result<Bytes, Trouble> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Trouble::JetStream(error.to_string()))
}
