//! Simulated time, what is under way in it, and chance.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Range,
};

use super::{
    TTL_MS, keys,
    schedule::{Fault, Network, Ways},
    streams,
};
use crate::chance::Chance;

/// How long a message takes, in milliseconds, on a good way, on a bad one, and on the worst.
const SOON_MS: Range<u64> = 1..8;
const SLOW_MS: Range<u64> = 8..150;
const LATE_MS: Range<u64> = 150..TTL_MS * 2;

/// One of so many messages is slow while there are faults.
const SLOW_IN: u64 = 10;

/// One life of the process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    /// The number of the node.
    pub(super) node: usize,
    /// The number of the life.
    pub(super) boot: u32,
}

/// What is asked.
pub(super) enum Question {
    /// Of the buckets.
    Keys(keys::Ask),
    /// Of the log.
    Log(streams::Ask),
}

/// What is answered.
pub(super) enum Answer {
    /// By the buckets.
    Keys(keys::Said),
    /// By the log.
    Log(streams::Said),
}

/// Where a question comes from, and its answer goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Return {
    /// To whom.
    pub(super) to: Process,
    /// By which of its connections.
    pub(super) connection: u64,
    /// To which of its questions.
    pub(super) id: u64,
}

/// Something that is under way, or due.
pub(super) enum Event {
    /// What a process waits for has come, by its own clock.
    Due { of: Process },
    /// A question reaches the servers.
    Asked { back: Return, question: Question },
    /// An answer reaches who asked.
    Answered { back: Return, answer: Answer },
    /// The next news of a watch reach who watches.
    News { to: Process, connection: u64 },
    /// The servers look for records that are too old.
    Aged,
    /// A node is started.
    Start { node: usize },
    /// Something goes wrong.
    Fault(Fault),
    /// Nothing goes wrong from here on.
    Calm,
}

impl Event {
    /// Whose turn it is with this event, if it is a node's.
    pub(super) const fn addressee(&self) -> Option<Process> {
        match self {
            Self::Due { of: to } | Self::News { to, .. } | Self::Answered { back: Return { to, .. }, .. } => Some(*to),
            Self::Asked { .. } | Self::Aged | Self::Start { .. } | Self::Fault(_) | Self::Calm => None,
        }
    }
}

/// A way of a node, which may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the buckets.
    ToKeys,
    /// From them.
    FromKeys,
    /// To the log and back.
    Log,
}

/// Until when the ways of a node are cut.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    to_keys: u64,
    from_keys: u64,
    log: u64,
}

/// The world between nodes and servers.
pub(super) struct World {
    now: Cell<u64>,
    numbers: Cell<u64>,
    /// By when they are due, and then by when they were thought of.
    events: RefCell<BTreeMap<(u64, u64), Event>>,
    chance: RefCell<Chance>,
    network: Network,
    cuts: RefCell<Vec<Cut>>,
    is_calm: Cell<bool>,
    journal: Option<RefCell<Vec<String>>>,
}

impl World {
    /// One without anything in it yet, for so many nodes. It keeps a journal if that is wanted.
    pub(super) fn new(chance: Chance, network: Network, nodes: usize, has_journal: bool) -> Self {
        Self {
            now: Cell::default(),
            numbers: Cell::default(),
            events: RefCell::default(),
            chance: RefCell::new(chance),
            network,
            cuts: RefCell::new(vec![Cut::default(); nodes]),
            is_calm: Cell::default(),
            journal: has_journal.then(RefCell::default),
        }
    }

    /// Milliseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    /// A number that was not given before.
    pub(super) fn number(&self) -> u64 {
        let number = self.numbers.get() + 1;
        self.numbers.set(number);
        number
    }

    /// Lets this happen at that time, or now if that has passed.
    pub(super) fn at(&self, time: u64, event: Event) {
        let place = (time.max(self.now()), self.number());
        self.events.borrow_mut().insert(place, event);
    }

    /// What happens next. Its time is now.
    pub(super) fn next(&self) -> Option<Event> {
        let ((time, _), event) = self.events.borrow_mut().pop_first()?;
        self.now.set(time);
        Some(event)
    }

    /// A number of this range.
    pub(super) fn draw(&self, range: Range<u64>) -> u64 {
        self.chance.borrow_mut().within(range)
    }

    /// Sends a question, by this connection. Gives the question's number.
    pub(super) fn ask(&self, by: Process, connection: u64, question: Question) -> u64 {
        let id = self.number();
        let way = match question {
            Question::Keys(_) => Way::ToKeys,
            Question::Log(_) => Way::Log,
        };
        if !self.is_lost() && self.cut_until(by.node, way).is_none() {
            self.at(self.now() + self.delay(), Event::Asked { back: Return { to: by, connection, id }, question });
        }
        id
    }

    /// Sends an answer.
    pub(super) fn answer(&self, back: Return, answer: Answer) {
        if !self.is_lost() {
            self.at(self.now() + self.delay(), Event::Answered { back, answer });
        }
    }

    /// Sends news. They are never lost, as a watch asks for what it has missed.
    pub(super) fn tell(&self, to: Process, connection: u64) {
        self.at(self.now() + self.delay(), Event::News { to, connection });
    }

    /// Until when this way is cut, if it is.
    pub(super) fn cut_until(&self, node: usize, way: Way) -> Option<u64> {
        let cut = self.cuts.borrow().get(node).copied().unwrap_or_default();
        let until = match way {
            Way::ToKeys => cut.to_keys,
            Way::FromKeys => cut.from_keys,
            Way::Log => cut.log,
        };
        (self.now() < until).then_some(until)
    }

    /// Cuts these ways of a node for so long.
    pub(super) fn cut(&self, node: usize, ways: Ways, ms: u64) {
        let until = self.now() + ms;
        if let Some(cut) = self.cuts.borrow_mut().get_mut(node) {
            let longer = |is_cut: bool, before: u64| if is_cut { before.max(until) } else { before };
            cut.to_keys = longer(ways.to_keys, cut.to_keys);
            cut.from_keys = longer(ways.from_keys, cut.from_keys);
            cut.log = longer(ways.log, cut.log);
        }
    }

    /// From here on every way is open, and every message arrives soon.
    pub(super) fn calm(&self) {
        self.is_calm.set(true);
        self.cuts.borrow_mut().fill(Cut::default());
    }

    /// Is it calm?
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.get()
    }

    /// Writes this down, if there is a journal.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(journal) = &self.journal {
            journal.borrow_mut().push(format!("{:>6} ms  {}", self.now(), line()));
        }
    }

    /// What was written down.
    pub(super) fn journal(&self) -> Vec<String> {
        self.journal.as_ref().map(RefCell::take).unwrap_or_default()
    }

    fn is_lost(&self) -> bool {
        !self.is_calm() && self.one_in(self.network.lost_in)
    }

    fn delay(&self) -> u64 {
        let range = match self.is_calm() {
            true => SOON_MS,
            false if self.one_in(self.network.late_in) => LATE_MS,
            false if self.one_in(SLOW_IN) => SLOW_MS,
            false => SOON_MS,
        };
        self.draw(range)
    }

    fn one_in(&self, number: u64) -> bool {
        number > 0 && self.draw(0..number) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_earlier_happens_first_and_then_what_was_thought_of_first() {
        let world = World::new(Chance::new(1), Network { lost_in: 0, late_in: 0 }, 1, false);
        world.at(5, Event::Start { node: 1 });
        world.at(3, Event::Start { node: 2 });
        world.at(5, Event::Start { node: 3 });
        let mut started = Vec::new();
        while let Some(Event::Start { node }) = world.next() {
            started.push((world.now(), node));
        }
        assert_eq!(started, [(3, 2), (5, 1), (5, 3)]);
    }

    #[test]
    fn a_way_is_cut_for_its_time_and_no_other_is() {
        let world = World::new(Chance::new(1), Network { lost_in: 0, late_in: 0 }, 2, false);
        world.cut(0, Ways { to_keys: true, from_keys: false, log: false }, 10);
        assert_eq!([0, 1].map(|node| world.cut_until(node, Way::ToKeys)), [Some(10), None]);
        assert_eq!(world.cut_until(0, Way::FromKeys), None);
        world.at(10, Event::Calm);
        world.next();
        assert_eq!(world.cut_until(0, Way::ToKeys), None);
    }
}
