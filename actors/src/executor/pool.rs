//! The executors: one actix actor on an arbiter (a thread with its own runtime) for each core, and who watches them.
//!
//! A thread of its own makes the arbiters and then watches their actors: a panic in an actor closes its mailbox and tells
//! nobody. Every guest is a task of its own beside the actor, so that a panic loses one of them alone; who waits for a
//! lost guest sees its answer's channel close.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, Context, Handler, Message, dev::SendError};
use actix_rt::{Arbiter, System};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{Job, Prepared, Ran, Slot, budget::Account, metrics, run, turns::Turns};

/// How long an executor may take to answer that it lives. The longest step of a guest that cannot be interrupted, filling
/// its whole memory, is well below.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// One guest on its way to an executor.
pub(crate) struct Launch {
    pub(crate) prepared: Prepared,
    pub(crate) job: Job,
    pub(crate) slot: Slot,
    /// What its memory and outputs are taken from.
    pub(crate) account: Arc<Account>,
    /// Until when it may be set back.
    pub(crate) until: Instant,
    pub(crate) reply: oneshot::Sender<Ended>,
}

/// What became of it.
pub(crate) enum Ended {
    Ran(Box<Ran>),
    /// It was [set back](run::Ended::SetBack), and still has its place.
    SetBack(Slot, Box<Job>, run::Lack),
}

struct Envelope {
    launch: Box<Launch>,
    load: Load,
}

impl Message for Envelope {
    type Result = ();
}

struct Ping;

impl Message for Ping {
    type Result = ();
}

/// One guest counted towards the load of an executor while this lives.
struct Load(Arc<AtomicUsize>);

impl Load {
    fn on(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        ::metrics::gauge!(metrics::EXECUTIONS_RUNNING).increment(1.0);
        Self(Arc::clone(load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        ::metrics::gauge!(metrics::EXECUTIONS_RUNNING).decrement(1.0);
    }
}

struct Executor {
    node: Arc<run::Node>,
    turns: Arc<Turns>,
}

impl Executor {
    fn start_on(arbiter: &Arbiter, node: &Arc<run::Node>, mailbox: usize) -> Addr<Self> {
        let node = Arc::clone(node);
        Self::start_in_arbiter(&arbiter.handle(), move |context| {
            context.set_mailbox_capacity(mailbox);
            Self { node, turns: Arc::default() }
        })
    }
}

impl Actor for Executor {
    type Context = Context<Self>;
}

impl Handler<Ping> for Executor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
}

impl Handler<Envelope> for Executor {
    type Result = ();

    fn handle(&mut self, envelope: Envelope, _: &mut Self::Context) {
        let (node, turns) = (Arc::clone(&self.node), Arc::clone(&self.turns));
        let Envelope { launch, load } = envelope;
        actix_rt::spawn(async move {
            let Launch { prepared, job, slot, account, until, mut reply } = *launch;
            let memory = run::Memory { account: &account, until };
            let ended = run::run(
                &node,
                (turns, slot.whose().unwrap_or(&None)),
                prepared.instance(),
                &job,
                memory,
                reply.closed(),
            )
            .await;
            drop((load, account));
            let ended = match ended {
                run::Ended::Ran(ran) => {
                    // Free before the answer: who sees the answer finds the place free.
                    drop(slot);
                    Ended::Ran(Box::new(ran))
                }
                run::Ended::SetBack(lack) => Ended::SetBack(slot, Box::new(job), lack),
            };
            // Nobody may be waiting any more, then the guest was cancelled for that.
            let _ = reply.send(ended);
        });
    }
}

/// One executor, as the others see it.
struct Member {
    address: RwLock<Addr<Executor>>,
    load: Arc<AtomicUsize>,
    stalled: AtomicBool,
}

impl Member {
    fn try_send(&self, envelope: Envelope) -> Result<(), SendError<Envelope>> {
        self.address.read().unwrap_or_else(PoisonError::into_inner).try_send(envelope)
    }

    fn address(&self) -> Addr<Executor> {
        self.address.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All executors of a node.
pub(crate) struct Pool {
    members: Arc<[Member]>,
    wake: Arc<Wake>,
    supervisor: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Wake {
    bell: Notify,
    stop: AtomicBool,
}

/// What the supervisor needs to make executors.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) node: Arc<run::Node>,
    pub(crate) threads: usize,
    /// Messages one executor may have waiting: as many as there are slots, so that a slot is always enough.
    pub(crate) mailbox: usize,
    pub(crate) watch: Duration,
}

impl Pool {
    /// Starts the threads; returns when every executor answers.
    pub(crate) fn start(plan: Plan) -> std::io::Result<Self> {
        let wake = Arc::new(Wake::default());
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let bell = Arc::clone(&wake);
        let supervisor = std::thread::Builder::new().name("executors".into()).spawn(move || {
            let system = System::new();
            system.block_on(supervise(&plan, &bell, |members| {
                // The receiver waits below for as long as this thread lives.
                let _ = ready.send(members);
            }));
        })?;
        let members = started.recv().map_err(|_| std::io::Error::other("the executor threads did not start"))?;
        Ok(Self { members, wake, supervisor: Some(supervisor) })
    }

    /// Hands a guest to the executor with the fewest. Gives it back when none of them takes it.
    pub(crate) fn launch(&self, launch: Launch) -> Result<(), Box<Launch>> {
        let mut launch = Box::new(launch);
        let idlest = self.members.iter().min_by_key(|member| {
            // One that does not answer is the last resort.
            (member.stalled.load(Ordering::Relaxed), member.load.load(Ordering::Relaxed))
        });
        for member in idlest.into_iter().chain(self.members.iter()) {
            match member.try_send(Envelope { launch, load: Load::on(&member.load) }) {
                Ok(()) => return Ok(()),
                Err(SendError::Full(envelope) | SendError::Closed(envelope)) => {
                    self.wake.bell.notify_one();
                    launch = envelope.launch;
                }
            }
        }
        Err(launch)
    }

    /// How many executors do not answer.
    pub(crate) fn stalled(&self) -> usize {
        self.members.iter().filter(|member| member.stalled.load(Ordering::Relaxed)).count()
    }

    /// Ends the threads, and the guests that still run on them. Does not wait for the threads.
    pub(crate) fn stop(&self) {
        self.wake.stop.store(true, Ordering::SeqCst);
        self.wake.bell.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
        if let Some(supervisor) = self.supervisor.take() {
            // A panic there has been reported where it happened.
            let _ = supervisor.join();
        }
    }
}

async fn supervise(plan: &Plan, wake: &Wake, ready: impl FnOnce(Arc<[Member]>)) {
    let mut arbiters: Vec<Arbiter> = (0..plan.threads.max(1)).map(|_| Arbiter::new()).collect();
    let members: Arc<[Member]> = arbiters
        .iter()
        .map(|arbiter| Member {
            address: RwLock::new(Executor::start_on(arbiter, &plan.node, plan.mailbox)),
            load: Arc::default(),
            stalled: AtomicBool::new(false),
        })
        .collect();
    for (member, arbiter) in members.iter().zip(&mut arbiters) {
        watch(member, arbiter, plan).await;
    }
    ready(Arc::clone(&members));
    while !wake.stop.load(Ordering::SeqCst) {
        // Rung, or time to look: both mean the same.
        let _ = tokio::time::timeout(plan.watch, wake.bell.notified()).await;
        for (member, arbiter) in members.iter().zip(&mut arbiters) {
            if !wake.stop.load(Ordering::SeqCst) {
                watch(member, arbiter, plan).await;
            }
        }
    }
    for arbiter in &arbiters {
        arbiter.stop();
    }
    for arbiter in arbiters {
        // What made it panic has been reported there.
        let _ = arbiter.join();
    }
}

/// Asks one executor whether it lives, and replaces it when it is dead: on its thread, or on a new one.
async fn watch(member: &Member, arbiter: &mut Arbiter, plan: &Plan) {
    match tokio::time::timeout(PING_TIMEOUT, member.address().send(Ping)).await {
        Ok(Ok(())) => member.stalled.store(false, Ordering::Relaxed),
        Ok(Err(_)) => {
            tracing::error!("an executor died and is started again");
            ::metrics::counter!(metrics::EXECUTOR_RESTARTS_TOTAL).increment(1);
            if !arbiter.alive() {
                *arbiter = Arbiter::new();
            }
            let address = Executor::start_on(arbiter, &plan.node, plan.mailbox);
            *member.address.write().unwrap_or_else(PoisonError::into_inner) = address;
        }
        Err(_) => {
            if !member.stalled.swap(true, Ordering::Relaxed) {
                tracing::error!("an executor does not answer");
            }
        }
    }
}

#[cfg(test)]
mod tests;
