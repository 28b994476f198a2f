//! One life of a node: what it knows, what it asks the servers, and what it waits for.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use uuid::Uuid;
use wasmwiz_actors::ownership::Owner;
use wasmwiz_events::{
    id::{BootId, NodeId},
    revision::Epoch,
    shard::Shard,
    time::Timestamp,
};
use wasmwiz_node::cluster::{
    belief::Belief,
    clock::Mono,
    lease::Lease,
    member::{Life, PROTOCOL, Record, Standing},
    placement::{
        Rules,
        table::{Founding, Table},
    },
    planner::Leader,
    roster::Roster,
};

use super::{
    ANSWER_WITHIN, MARGIN, Planted, TTL, TTL_MS,
    clocks::Clocks,
    keys, streams,
    world::{Answer, Process, Question, World},
};

/// The name of all clusters.
pub(super) const CLUSTER: &str = "s";

/// Why something ended, as in the node's own shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The member has left.
    Left,
    /// Its record is gone: another lease has to begin.
    Lease,
    /// Its name belongs to another.
    Refused,
    /// The connection is gone.
    Lost,
    /// No answer in time.
    TimedOut,
    /// Somebody else was faster.
    Conflict,
}

/// How far it is with staying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Staying,
    Leaving,
    Goodbye,
}

/// What it knows.
pub(super) struct State {
    pub(super) belief: Belief,
    pub(super) roster: Roster,
    pub(super) leader: Option<Leader>,
    pub(super) phase: Phase,
    pub(super) is_synced: bool,
    pub(super) founding: Option<(Founding, Mono)>,
    pub(super) outdated: BTreeMap<Shard, Epoch>,
}

/// What a node is, in all its lives.
pub(super) struct Settings {
    pub(super) name: NodeId,
    pub(super) clocks: Clocks,
    pub(super) weight: u32,
    pub(super) rules: Rules,
    /// How many shards a table has.
    pub(super) shards: usize,
    pub(super) planted: Planted,
}

/// One life of it.
pub(super) struct Node {
    pub(super) process: Process,
    pub(super) settings: Rc<Settings>,
    pub(super) world: Rc<World>,
    state: RefCell<State>,
    /// How often something has changed.
    changes: Cell<u64>,
    /// When it has to be woken: the first moment that any part of it waits for.
    due: Cell<Option<u64>>,
    connection: Cell<u64>,
    is_connection_lost: Cell<bool>,
    answers: RefCell<BTreeMap<u64, Answer>>,
    news: RefCell<VecDeque<keys::News>>,
}

impl Node {
    /// One that knows nothing yet.
    pub(super) fn new(process: Process, settings: Rc<Settings>, world: Rc<World>) -> Self {
        // Lives of one name have growing ids.
        let boot = BootId::new(Uuid::from_u128((u128::from(process.boot) << 64) + process.node as u128));
        let me = Life { node: settings.name.clone(), boot, lease: 0 };
        let state = State {
            belief: Belief::new(me, Lease::new(TTL, MARGIN)),
            roster: Roster::new(TTL),
            leader: None,
            phase: Phase::Staying,
            is_synced: false,
            founding: None,
            outdated: BTreeMap::new(),
        };
        Self {
            process,
            settings,
            world,
            state: RefCell::new(state),
            changes: Cell::default(),
            due: Cell::default(),
            connection: Cell::default(),
            is_connection_lost: Cell::default(),
            answers: RefCell::default(),
            news: RefCell::default(),
        }
    }

    /// What it knows. Never held while anything is waited for.
    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Who owns a shard, as it believes.
    pub(super) fn owner(&self, shard: Shard) -> Owner {
        self.state().belief.owner(shard, self.now())
    }

    /// Which life and lease it is.
    pub(super) fn life(&self) -> Life {
        self.state().belief.me().clone()
    }

    /// The clock that leases are measured by.
    pub(super) fn now(&self) -> Mono {
        match self.settings.planted {
            Planted::WallClockLease => self.settings.clocks.wall_as_steady(self.world.now()),
            _ => self.steady(),
        }
    }

    /// The clock that timers go by.
    pub(super) fn steady(&self) -> Mono {
        self.settings.clocks.steady(self.world.now())
    }

    /// The wall clock.
    pub(super) fn wall(&self) -> Timestamp {
        self.settings.clocks.wall(self.world.now())
    }

    /// What it says of itself.
    pub(super) fn record(&self) -> Record {
        let state = self.state();
        let table = state.belief.table().map(|(table, _)| table);
        let standing = match state.phase {
            Phase::Leaving | Phase::Goodbye => Standing::Leaving,
            Phase::Staying if state.is_synced && table.is_some() => Standing::Live,
            Phase::Staying => Standing::Joining,
        };
        Record {
            cluster: CLUSTER.to_owned(),
            life: state.belief.me().clone(),
            version: String::new(),
            protocol: PROTOCOL,
            address: String::new(),
            standing,
            weight: self.settings.weight,
            lease_ttl_ms: TTL_MS,
            founding: table.map(|table| table.founding().clone()),
        }
    }

    /// A table was read.
    pub(super) fn read_table(&self, table: Arc<Table>, revision: u64) {
        let (mut state, now) = (self.state(), self.now());
        if !state.belief.read(Arc::clone(&table), revision) {
            return;
        }
        if state.founding.as_ref().is_none_or(|(founding, _)| founding != table.founding()) {
            state.founding = Some((table.founding().clone(), now));
        }
        state.roster.named(table.owners(), now);
        state.roster.forget(table.owners(), now);
        drop(state);
        self.tell();
    }

    /// There is no table where there was one, since this revision; 0 in a bucket that was made anew.
    pub(super) fn lost_table(&self, since: u64) {
        let was_there = self.state().belief.lost_table(since);
        if was_there {
            self.tell();
        }
    }

    /// The last revision of the table that it knows of.
    pub(super) fn revision(&self) -> u64 {
        self.state().belief.revision()
    }

    /// Somebody plans.
    pub(super) fn learn_leader(&self, leader: Leader) {
        let (mut state, now) = (self.state(), self.now());
        state.roster.named([&leader.life], now);
        state.leader = Some(leader);
        drop(state);
        self.tell();
    }

    /// It is told to stop.
    pub(super) fn leave(&self) {
        if self.state().phase == Phase::Staying {
            self.enter(Phase::Leaving);
        }
    }

    /// It is so far with leaving.
    pub(super) fn enter(&self, phase: Phase) {
        self.state().phase = phase;
        self.tell();
    }

    /// Something has changed.
    pub(super) fn tell(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// How often something has changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// When it wants to be woken, for what it waits for since it was asked last.
    pub(super) fn take_due(&self) -> Option<u64> {
        self.due.take()
    }

    /// Which connection it has.
    pub(super) fn connection(&self) -> u64 {
        self.connection.get()
    }

    /// Its connection ends.
    pub(super) fn lose_connection(&self) {
        self.is_connection_lost.set(true);
    }

    /// An answer has come.
    pub(super) fn answered(&self, id: u64, answer: Answer) {
        self.answers.borrow_mut().insert(id, answer);
    }

    /// News have come.
    pub(super) fn heard(&self, news: keys::News) {
        self.news.borrow_mut().push_back(news);
    }

    /// Connects anew.
    pub(super) async fn open(&self) -> Result<(), Ended> {
        self.connection.set(self.world.number());
        self.is_connection_lost.set(false);
        self.answers.borrow_mut().clear();
        self.news.borrow_mut().clear();
        self.keys(keys::Ask::Open).await.map(drop)
    }

    /// Resolves once the connection is gone.
    pub(super) async fn connection_lost(&self) -> Ended {
        poll_fn(|_| if self.is_connection_lost.get() { Poll::Ready(Ended::Lost) } else { Poll::Pending }).await
    }

    /// What its watches say next.
    pub(super) async fn next_news(&self) -> keys::News {
        poll_fn(|_| self.news.borrow_mut().pop_front().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Asks the buckets.
    pub(super) async fn keys(&self, ask: keys::Ask) -> Result<keys::Said, Ended> {
        match self.ask(Question::Keys(ask)).await? {
            Answer::Keys(said) => Ok(said),
            Answer::Log(_) => Err(Ended::TimedOut),
        }
    }

    /// Writes something into the buckets. Gives its revision.
    pub(super) async fn write(&self, ask: keys::Ask) -> Result<u64, Ended> {
        match self.keys(ask).await? {
            keys::Said::Written(revision) => Ok(revision),
            keys::Said::Conflict => Err(Ended::Conflict),
            _ => Err(Ended::TimedOut),
        }
    }

    /// The record of a name, with its revision.
    pub(super) async fn member(&self, name: &NodeId) -> Result<(Option<Rc<Record>>, u64), Ended> {
        match self.keys(keys::Ask::Member(name.clone())).await? {
            keys::Said::Member(record, revision) => Ok((record, revision)),
            _ => Err(Ended::TimedOut),
        }
    }

    /// Asks the log.
    pub(super) async fn log(&self, ask: streams::Ask) -> Result<streams::Said, Ended> {
        match self.ask(Question::Log(ask)).await? {
            Answer::Log(said) => Ok(said),
            Answer::Keys(_) => Err(Ended::TimedOut),
        }
    }

    async fn ask(&self, question: Question) -> Result<Answer, Ended> {
        let id = self.world.ask(self.process, self.connection(), question);
        let until = self.after(ANSWER_WITHIN);
        poll_fn(|_| {
            let answer = self.answers.borrow_mut().remove(&id);
            match answer {
                Some(answer) => Poll::Ready(Ok(answer)),
                None if self.has_come(until) => Poll::Ready(Err(Ended::TimedOut)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The moment so long after this one.
    pub(super) fn after(&self, duration: Duration) -> Mono {
        self.steady().plus(duration)
    }

    /// Waits for so long.
    pub(super) async fn sleep(&self, duration: Duration) {
        let until = self.after(duration);
        poll_fn(|_| if self.has_come(until) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits until something has changed since `seen`.
    pub(super) async fn changed(&self, seen: &mut u64) {
        poll_fn(|_| if self.has_changed(seen) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// The same, and for so long at the most.
    pub(super) async fn changed_within(&self, seen: &mut u64, duration: Duration) {
        let until = self.after(duration);
        poll_fn(|_| if self.has_changed(seen) || self.has_come(until) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn has_changed(&self, seen: &mut u64) -> bool {
        let before = std::mem::replace(seen, self.changes());
        before != *seen
    }

    /// Has this moment come? If not, the node is woken then.
    fn has_come(&self, moment: Mono) -> bool {
        if self.steady() >= moment {
            return true;
        }
        let at = self.settings.clocks.when(moment);
        self.due.set(Some(self.due.get().map_or(at, |due| due.min(at))));
        false
    }
}
