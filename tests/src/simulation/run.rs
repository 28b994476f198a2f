//! One seed, from its beginning to its end: whatever happens next is handed to the node or the servers that it is for.

use std::{
    collections::VecDeque,
    rc::Rc,
    task::{Context, Waker},
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
    member::Life,
    placement::table::{Place, Table},
};

use super::{
    Planted, Report, TTL_MS, Violation,
    clocks::{BEGINNING, Clocks},
    keys::{self, Keys},
    node::{CLUSTER, Node, Settings},
    schedule::{Fault, Schedule, Ways},
    session::live,
    streams::{self, Streams},
    tasks::Task,
    witness::Witness,
    world::{Answer, Event, Process, Question, Return, Way, World},
};
use crate::chance::Chance;

/// Within this after the last fault is over, every shard has an owner again: who was away connects, waits for its own name and
/// for who is silent, and a table that was lost is founded and opened, each of which takes a lease.
const OWNED_WITHIN_MS: u64 = TTL_MS * 10;

/// For how long everything is well before the end, so that what never comes to rest is seen.
const REST_MS: u64 = TTL_MS;

/// When nodes are started, in milliseconds.
const STARTS_MS: std::ops::Range<u64> = 0..200;

/// How long ago a cluster that was stopped was founded, in milliseconds: a founding after it is above its epochs by far.
const FOUNDED_BEFORE_MS: i64 = 60_000;

/// How often a node may have something more to do while no time passes.
const POLLS_MAX: u32 = 1_000;

/// Goes through a seed.
///
/// # Errors
/// The first [`Violation`].
pub fn simulate(seed: u64, planted: Planted) -> Result<Report, Violation> {
    Run::new(seed, planted, false).through()
}

/// The same, with a journal of it.
pub fn told(seed: u64, planted: Planted) -> (Result<Report, Violation>, Vec<String>) {
    let run = Run::new(seed, planted, true);
    let world = Rc::clone(&run.world);
    let ended = run.through();
    (ended, world.journal())
}

/// A machine with a node.
struct Host {
    settings: Rc<Settings>,
    /// How many lives there have been.
    boots: u32,
    paused_until_ms: u64,
    /// How long it stays away after it has left.
    down_ms: u64,
    /// When it is woken next.
    woken_ms: Option<u64>,
    running: Option<Running>,
}

/// A process of it.
struct Running {
    node: Rc<Node>,
    life: Task<'static, ()>,
}

/// A watch of the buckets, with what it has to say.
struct Watcher {
    to: Process,
    connection: u64,
    news: VecDeque<keys::News>,
}

struct Run {
    world: Rc<World>,
    schedule: Schedule,
    keys: Keys,
    streams: Streams,
    witness: Witness,
    hosts: Vec<Host>,
    watchers: Vec<Watcher>,
    events: u64,
    conflicts: u64,
    /// When every shard had an owner, after the last fault.
    owned_ms: Option<u64>,
    /// Until when a lease may still hold whose record the servers' clock has ended before its time.
    ended_early_until_ms: u64,
}

#[expect(clippy::expect_used, reason = "a letter and a number are a name")]
fn name(number: usize) -> NodeId {
    NodeId::new(&format!("n{number}")).expect("the name is valid")
}

/// The table of a cluster that was stopped.
fn left_behind(shards: usize) -> Table {
    let by = Life { node: name(0), boot: BootId::new(Uuid::nil()), lease: 1 };
    let at = Timestamp::from_unix_ms(BEGINNING.unix_ms() - FOUNDED_BEFORE_MS);
    Table::founded(CLUSTER, by, at, Epoch::default()).of_first(shards).opened()
}

impl Run {
    fn new(seed: u64, planted: Planted, has_journal: bool) -> Self {
        let mut chance = Chance::new(seed);
        let schedule = Schedule::of(seed, &mut chance);
        let host = |(number, weight): (usize, &u32)| Host {
            settings: Rc::new(Settings {
                name: name(number),
                clocks: Clocks::drawn(&mut chance, schedule.has_wrong_clocks),
                weight: *weight,
                rules: schedule.rules,
                shards: schedule.shards,
                planted,
            }),
            boots: 0,
            paused_until_ms: 0,
            down_ms: 0,
            woken_ms: None,
            running: None,
        };
        let hosts: Vec<Host> = schedule.weights.iter().enumerate().map(host).collect();
        let table = schedule.is_founded.then(|| left_behind(schedule.shards));
        let given_max = schedule.shards * (hosts.len() + 2);
        let world = World::new(chance, schedule.network, hosts.len(), has_journal);
        for node in 0..hosts.len() {
            world.at(world.draw(STARTS_MS), Event::Start { node });
        }
        for (at, fault) in &schedule.faults {
            world.at(*at, Event::Fault(*fault));
        }
        world.at(schedule.over_ms, Event::Calm);
        world.note(|| format!("{schedule:?}"));
        Self {
            world: Rc::new(world),
            keys: Keys::new(table, planted != Planted::AssignmentWithoutCompare),
            streams: Streams::new(planted != Planted::AppendWithoutCompare),
            witness: Witness::new(schedule.rules.moves_max, given_max as u64),
            schedule,
            hosts,
            watchers: Vec::new(),
            events: 0,
            conflicts: 0,
            owned_ms: None,
            ended_early_until_ms: 0,
        }
    }

    fn through(mut self) -> Result<Report, Violation> {
        while let Some(event) = self.world.next() {
            self.events += 1;
            self.happen(event)?;
            if self.is_over()? {
                break;
            }
        }
        let ((given, appends), (refused, stale)) = (self.witness.counts(), self.streams.refused());
        Ok(Report {
            seeds: 1,
            events: self.events,
            leases: self.keys.leases(),
            given,
            conflicts: self.conflicts,
            appends,
            refused,
            stale,
            recovered_ms: self.owned_ms.unwrap_or_default().saturating_sub(self.schedule.over_ms),
        })
    }

    /// Has every shard an owner, and had everything its rest?
    fn is_over(&mut self) -> Result<bool, Violation> {
        let (now, over) = (self.world.now(), self.schedule.over_ms);
        if !self.world.is_calm() {
            return Ok(false);
        }
        if let Some(owned) = self.owned_ms {
            return Ok(now >= owned + REST_MS);
        }
        match self.without_owner() {
            None => self.owned_ms = Some(now),
            Some(shard) if now > over + OWNED_WITHIN_MS => {
                return Err(Violation::NoOwner { shard, within_ms: OWNED_WITHIN_MS });
            }
            Some(_) => {}
        }
        Ok(false)
    }

    fn without_owner(&self) -> Option<Shard> {
        let is_owned = |shard: Shard| self.nodes().any(|node| matches!(node.owner(shard), Owner::Here(_)));
        Shard::all().take(self.schedule.shards).find(|shard| !is_owned(*shard))
    }

    /// The nodes that run.
    fn nodes(&self) -> impl Iterator<Item = &Rc<Node>> {
        self.hosts.iter().filter_map(|host| host.running.as_ref()).map(|running| &running.node)
    }

    fn node(&self, number: usize) -> Option<Rc<Node>> {
        let running = self.hosts.get(number)?.running.as_ref()?;
        Some(Rc::clone(&running.node))
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        if let Some(to) = event.addressee() {
            let Some(host) = self.hosts.get(to.node) else { return Ok(()) };
            if host.running.as_ref().is_none_or(|running| running.node.process != to) {
                return Ok(());
            }
            if host.paused_until_ms > self.world.now() {
                self.world.at(host.paused_until_ms, event);
                return Ok(());
            }
        }
        match event {
            Event::Due { of } => self.due(of.node),
            Event::Asked { back, question } => self.asked(back, question),
            Event::Answered { back, answer } => self.answered(back, answer),
            Event::News { to, connection } => self.news(to, connection),
            Event::Start { node } => self.start(node),
            Event::Fault(fault) => {
                self.go_wrong(fault);
                Ok(())
            }
            Event::Aged => {
                self.remove_old();
                Ok(())
            }
            Event::Calm => {
                self.world.calm();
                self.world.note(|| "calm".to_owned());
                Ok(())
            }
        }
    }

    /// A process goes on as far as it can, and then everybody is asked what they believe.
    fn step(&mut self, number: usize) -> Result<(), Violation> {
        let Some(host) = self.hosts.get_mut(number) else { return Ok(()) };
        let Some(running) = &mut host.running else { return Ok(()) };
        let (mut context, mut polls) = (Context::from_waker(Waker::noop()), 0);
        let has_ended = loop {
            let changes = running.node.changes();
            running.node.take_due();
            if running.life.as_mut().poll(&mut context).is_ready() {
                break true;
            }
            // What one part of it has changed, another may have been waiting for.
            if running.node.changes() == changes {
                break false;
            }
            polls += 1;
            if polls > POLLS_MAX {
                return Err(Violation::Circles { node: host.settings.name.clone() });
            }
        };
        if has_ended {
            host.running = None;
            self.world.at(self.world.now() + host.down_ms, Event::Start { node: number });
            return Ok(());
        }
        if let Some(at) = running.node.take_due()
            && host.woken_ms.is_none_or(|woken| at < woken)
        {
            host.woken_ms = Some(at);
            self.world.at(at, Event::Due { of: running.node.process });
        }
        self.look(number)
    }

    /// Whoever believes to own a shard is the only one, and in its own epoch.
    fn look(&mut self, number: usize) -> Result<(), Violation> {
        let Some(node) = self.node(number) else { return Ok(()) };
        let one = node.life();
        for shard in Shard::all().take(self.schedule.shards) {
            let Owner::Here(epoch) = node.owner(shard) else { continue };
            self.witness.is_of(shard, epoch, &one)?;
            for other in self.nodes().filter(|other| other.process != node.process) {
                if let Owner::Here(other_epoch) = other.owner(shard) {
                    // Then the log alone decides, as the younger one has the larger epoch.
                    if epoch != other_epoch && self.world.now() < self.ended_early_until_ms {
                        continue;
                    }
                    let other = other.life();
                    return Err(Violation::TwoOwners { shard, one, epoch, other, other_epoch });
                }
            }
        }
        Ok(())
    }

    fn due(&mut self, number: usize) -> Result<(), Violation> {
        let now = self.world.now();
        if let Some(host) = self.hosts.get_mut(number) {
            host.woken_ms = host.woken_ms.filter(|woken| *woken > now);
        }
        self.step(number)
    }

    fn start(&mut self, number: usize) -> Result<(), Violation> {
        let Some(host) = self.hosts.get_mut(number).filter(|host| host.running.is_none()) else { return Ok(()) };
        host.boots += 1;
        (host.paused_until_ms, host.down_ms, host.woken_ms) = (0, 0, None);
        let process = Process { node: number, boot: host.boots };
        let node = Rc::new(Node::new(process, Rc::clone(&host.settings), Rc::clone(&self.world)));
        let life: Task<'static, ()> = Box::pin(live(Rc::clone(&node)));
        host.running = Some(Running { node, life });
        self.world.note(|| format!("{} starts, for the {}. time", name(number), process.boot));
        self.step(number)
    }

    fn asked(&mut self, back: Return, question: Question) -> Result<(), Violation> {
        let answer = match question {
            Question::Keys(ask) => Answer::Keys(self.keys_asked(back, ask)?),
            Question::Log(ask) => {
                let said = self.streams.answer(&ask);
                if let (streams::Ask::Publish(commit), streams::Said::Stored(_)) = (&ask, &said) {
                    self.witness.took(commit)?;
                }
                Answer::Log(said)
            }
        };
        self.world.answer(back, answer);
        Ok(())
    }

    fn keys_asked(&mut self, back: Return, ask: keys::Ask) -> Result<keys::Said, Violation> {
        if matches!(ask, keys::Ask::Open) {
            self.watch(back.to, back.connection);
        }
        let (now, before, mut news) = (self.world.now(), self.keys.table(), Vec::new());
        let is_table = matches!(ask, keys::Ask::PutTable(..));
        let is_record = matches!(ask, keys::Ask::PutMember(..));
        let said = self.keys.answer(now, ask, &mut news);
        match &said {
            keys::Said::Written(_) if is_record => self.world.at(now + TTL_MS, Event::Aged),
            keys::Said::Written(revision) if is_table => {
                if let Some(after) = self.keys.table() {
                    self.world.note(|| shown(&after, *revision));
                    self.witness.changed(before.as_deref(), &after, self.world.is_calm())?;
                }
            }
            keys::Said::Conflict => self.conflicts += 1,
            _ => {}
        }
        self.broadcast(&news);
        Ok(said)
    }

    fn watch(&mut self, to: Process, connection: u64) {
        let news = VecDeque::from(self.keys.history());
        for _ in 0..news.len() {
            self.world.tell(to, connection);
        }
        self.watchers.push(Watcher { to, connection, news });
    }

    /// Every watch says this, after what it has to say already.
    fn broadcast(&mut self, news: &[keys::News]) {
        let Self { world, hosts, watchers, .. } = self;
        watchers.retain(|watcher| {
            let running = hosts.get(watcher.to.node).and_then(|host| host.running.as_ref());
            running.is_some_and(|running| {
                running.node.process == watcher.to && running.node.connection() == watcher.connection
            })
        });
        for watcher in watchers {
            for news in news {
                watcher.news.push_back(news.clone());
                world.tell(watcher.to, watcher.connection);
            }
        }
    }

    fn news(&mut self, to: Process, connection: u64) -> Result<(), Violation> {
        if let Some(until) = self.world.cut_until(to.node, Way::FromKeys) {
            self.world.at(until, Event::News { to, connection });
            return Ok(());
        }
        let watcher = self.watchers.iter_mut().find(|watcher| watcher.to == to && watcher.connection == connection);
        let Some(news) = watcher.and_then(|watcher| watcher.news.pop_front()) else { return Ok(()) };
        let Some(node) = self.node(to.node).filter(|node| node.connection() == connection) else { return Ok(()) };
        node.heard(news);
        self.step(to.node)
    }

    fn answered(&mut self, back: Return, answer: Answer) -> Result<(), Violation> {
        let Some(node) = self.node(back.to.node) else { return Ok(()) };
        let (way, is_by_another) = match answer {
            Answer::Keys(_) => (Way::FromKeys, node.connection() != back.connection),
            // The log has a connection of its own.
            Answer::Log(_) => (Way::Log, false),
        };
        if is_by_another || self.world.cut_until(back.to.node, way).is_some() {
            return Ok(());
        }
        node.answered(back.id, answer);
        self.step(back.to.node)
    }

    fn remove_old(&mut self) {
        let mut news = Vec::new();
        self.keys.remove_old(self.world.now(), &mut news);
        self.broadcast(&news);
    }

    /// Has the process look at what was done to it.
    fn wake(&self, node: &Node) {
        self.world.at(self.world.now(), Event::Due { of: node.process });
    }

    fn go_wrong(&mut self, fault: Fault) {
        self.world.note(|| format!("{fault:?}"));
        let now = self.world.now();
        match fault {
            Fault::Crash { node, down_ms } => {
                if self.hosts.get_mut(node).and_then(|host| host.running.take()).is_some() {
                    self.world.at(now + down_ms, Event::Start { node });
                }
            }
            Fault::Leave { node, down_ms } => {
                if let Some(host) = self.hosts.get_mut(node) {
                    host.down_ms = down_ms;
                }
                if let Some(node) = self.node(node) {
                    node.leave();
                    self.wake(&node);
                }
            }
            Fault::Pause { node, ms } => {
                if let Some(host) = self.hosts.get_mut(node) {
                    host.paused_until_ms = host.paused_until_ms.max(now + ms);
                }
            }
            Fault::Cut { node, ways, ms } => self.world.cut(node, ways, ms),
            Fault::Outage { ms } => (0..self.hosts.len()).for_each(|node| self.world.cut(node, Ways::ALL, ms)),
            Fault::Reset { node } => {
                if let Some(node) = self.node(node) {
                    node.lose_connection();
                    self.wake(&node);
                }
            }
            Fault::Wall { node, by_ms } => {
                if let Some(host) = self.hosts.get(node) {
                    host.settings.clocks.jump(by_ms);
                }
            }
            Fault::ServersAhead => {
                self.keys.set_forward(TTL_MS);
                self.ended_early_until_ms = self.world.now() + TTL_MS;
                self.remove_old();
            }
            Fault::TableLost => {
                let mut news = Vec::new();
                self.keys.lose_table(&mut news);
                self.broadcast(&news);
            }
        }
    }
}

/// A table in one line: where each shard is, and in which epoch, counted from the smallest.
fn shown(table: &Table, revision: u64) -> String {
    let least = table.places().map(|(_, place)| place.epoch().get()).min().unwrap_or_default();
    let place = |(shard, place): (Shard, &Place)| {
        let epoch = place.epoch().get() - least;
        match place {
            Place::Owned { owner, .. } => format!("{shard}: {}/{} at {epoch}", owner.node, owner.lease),
            Place::Draining { owner, .. } => format!("{shard}: {}/{} drains {epoch}", owner.node, owner.lease),
            Place::Free { .. } => format!("{shard}: free after {epoch}"),
        }
    };
    let places: Vec<String> = table.places().map(place).collect();
    format!("table {revision}, epochs from {least}: {}", places.join(", "))
}
