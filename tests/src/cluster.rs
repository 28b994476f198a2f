//! Members of a cluster in this process, each on a thread of its own, and a witness of what they believe.
//!
//! A member whose thread is held stands still altogether, as a process does that was sent SIGSTOP: its timers, its connection
//! and its tasks. Its beliefs can be asked for all the same: they are what the node would act on at its next step.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use wasmwiz_actors::{
    ids::Ids,
    ownership::{Owner, Ownership as _},
};
use wasmwiz_events::{
    id::NodeId,
    nats::NatsConfig,
    revision::Epoch,
    shard::{SHARDS, Shard},
    time::SystemClock,
};
use wasmwiz_node::cluster::{
    clock::{self, Mono},
    config::ClusterConfig,
    member::Refusal,
    membership::{Beliefs, Identity, Membership},
    shards::Shards,
};

/// How often the witness looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long a shard has something under way when it is released.
const UNDER_WAY: Duration = Duration::from_millis(5);

/// How long a member may take to hand over: as long as an operator may set.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// Settings of a cluster that moves fast: leases of two seconds, no tenure, no back-off.
pub fn settings(url: String) -> ClusterConfig {
    ClusterConfig {
        name: "test".into(),
        nats: NatsConfig { url, ..Default::default() },
        lease_ttl_ms: 2_000,
        lease_margin_ms: 500,
        moves_max: 64,
        tenure_ms: 0,
        flap_backoff_ms: 0,
        drain_ms: 1_000,
        ..Default::default()
    }
}

/// What a member is told.
enum Order {
    Leave,
    Hold(mpsc::Receiver<()>),
    Drop,
}

/// A member on a thread of its own. Dropped, it is gone without a word.
pub struct Member {
    name: NodeId,
    beliefs: Beliefs,
    orders: tokio::sync::mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// A member that stands still until this is dropped.
pub struct Held(#[expect(dead_code, reason = "its drop is what ends the holding")] mpsc::SyncSender<()>);

/// What serves the shards of a member: it sees that no shard is taken up twice.
#[derive(Default)]
struct Serving(Mutex<BTreeMap<Shard, Epoch>>);

#[async_trait]
impl Shards for Serving {
    fn take_up(&self, shard: Shard, epoch: Epoch) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, epoch);
        assert_eq!(before, None, "shard {shard} was taken up before it was released");
    }

    async fn release(&self, shard: Shard, epoch: Epoch) {
        tokio::time::sleep(UNDER_WAY).await;
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        assert_eq!(before, Some(epoch), "shard {shard} was released in another epoch");
    }

    fn lives_ended(&self) {}
}

impl Member {
    /// Starts one, and waits until it is a member or may not be one.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub async fn start(name: &str, config: ClusterConfig) -> anyhow::Result<Result<Self, Refusal>> {
        let name = NodeId::new(name)?;
        let (orders, mut received) = tokio::sync::mpsc::channel(1);
        let (joined, answer) = tokio::sync::oneshot::channel();
        let identity =
            Identity { node: name.clone(), boot: Ids.boot(), version: "0.0.0".into(), address: "127.0.0.1:1".into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let live = async move {
            let mut member = Membership::new(config, identity, Arc::new(SystemClock));
            member.begin(Arc::new(Serving::default()));
            let is_member = member.joined().await.map(|()| member.beliefs());
            let is_refused = is_member.is_err();
            let _ = joined.send(is_member);
            if is_refused {
                return;
            }
            loop {
                match received.recv().await {
                    Some(Order::Leave) => return member.leave(LEAVE_WITHIN).await,
                    Some(Order::Hold(until)) => drop(until.recv()),
                    Some(Order::Drop) | None => return,
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_string()).spawn(move || runtime.block_on(live))?;
        let answer = answer.await.context("a member ended before it was one")?;
        Ok(answer.map(|beliefs| Self { name, beliefs, orders, thread: Some(thread) }))
    }

    /// Its name.
    pub fn name(&self) -> &NodeId {
        &self.name
    }

    /// What it believes.
    pub fn beliefs(&self) -> &Beliefs {
        &self.beliefs
    }

    /// How many shards it believes to own.
    pub fn owns(&self) -> usize {
        Shard::all().filter(|shard| matches!(self.beliefs.owner(*shard), Owner::Here(_))).count()
    }

    /// Holds it.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn hold(&self) -> anyhow::Result<Held> {
        let (held, until) = mpsc::sync_channel(0);
        self.orders.send(Order::Hold(until)).await.ok().context("the member is gone")?;
        Ok(Held(held))
    }

    /// Has it leave, and waits until it has.
    ///
    /// # Errors
    /// When it failed.
    pub async fn leave(mut self) -> anyhow::Result<()> {
        self.orders.send(Order::Leave).await.ok().context("the member is gone")?;
        let thread = self.thread.take();
        let ended = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await?;
        ensure!(ended.is_none_or(|ended| ended.is_ok()), "the member failed");
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.orders.try_send(Order::Drop);
    }
}

/// When a node believed to own a shard in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// Seen first.
    pub first: Mono,
    /// Seen last.
    pub last: Mono,
}

/// All that was believed: by shard and epoch, who did and when.
pub type Testimony = BTreeMap<(Shard, Epoch), BTreeMap<String, Believed>>;

/// Looks at what members believe, all the time.
pub struct Witness {
    stop: Arc<AtomicBool>,
    watched: Arc<Mutex<Vec<(String, Beliefs)>>>,
    seen: Arc<Mutex<Testimony>>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// One that watches nobody yet.
    pub fn start() -> Self {
        let (stop, watched, seen) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let thread = thread::spawn({
            let (stop, watched, seen) = (Arc::clone(&stop), Arc::clone(&watched), Arc::clone(&seen));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    look(&watched, &seen);
                    thread::sleep(LOOK_EVERY);
                }
            }
        });
        Self { stop, watched, seen, thread: Some(thread) }
    }

    /// Watches this member too. Its life has this name here.
    pub fn watch(&self, life: &str, member: &Member) {
        let watched = (life.to_owned(), member.beliefs().clone());
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }

    /// What was believed until now.
    pub fn testimony(&self) -> Testimony {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That no epoch of a shard was believed by two, that the belief in an epoch had ended before that in the next began,
    /// and that all of that was seen.
    ///
    /// # Errors
    /// Names the first that were not so.
    pub fn nobody_overlapped(&self) -> anyhow::Result<Testimony> {
        // What has just begun may not have been seen yet.
        look(&self.watched, &self.seen);
        let testimony = self.testimony();
        for shard in Shard::all() {
            let epochs = testimony.range((shard, Epoch::default())..=(shard, Epoch::new(u64::MAX)));
            let mut before: Option<(Epoch, &str, Believed)> = None;
            for ((_, epoch), believers) in epochs {
                ensure!(believers.len() == 1, "shard {shard} in epoch {epoch} was believed by {believers:?}");
                for (life, believed) in believers {
                    if let Some((earlier, whose, ended)) = before {
                        ensure!(
                            ended.last < believed.first,
                            "shard {shard}: {whose} believed in epoch {earlier} until {}, {life} in {epoch} since {}",
                            ended.last,
                            believed.first
                        );
                    }
                    before = Some((*epoch, life, *believed));
                }
            }
        }
        let shards: std::collections::BTreeSet<_> = testimony.keys().map(|(shard, _)| shard).collect();
        ensure!(shards.len() == SHARDS, "the witness saw owners of {} shards only", shards.len());
        Ok(testimony)
    }
}

fn look(watched: &Mutex<Vec<(String, Beliefs)>>, seen: &Mutex<Testimony>) {
    let watched = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // For all of it: of two who look at the same time, one could write down late what it saw before the other.
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for (life, beliefs) in &watched {
        for shard in Shard::all() {
            if let Owner::Here(epoch) = beliefs.owner(shard) {
                // After the look: whoever is asked later cannot have believed before.
                let now = clock::now();
                let believers = seen.entry((shard, epoch)).or_default();
                believers.entry(life.clone()).or_insert(Believed { first: now, last: now }).last = now;
            }
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
