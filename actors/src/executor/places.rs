//! Places of which a node has so many, whose turn it is, and who waits for one.
//!
//! A place is free for everybody, but not to the last one: **a tenant that holds as many places as [`OF_FREE`] times those that are free
//! gets no further one** until others let go. Alone, a tenant may have four fifths of all. Of n that want all there are, each ends up with
//! 4/(4n+1) of them as places are given back and taken again, and the rest is for those who hold little. No place is taken from anybody: n that come one
//! after the other and keep what they have leave 1/5ⁿ, until they let go. Nobody is asked to guess a share, and none is kept for
//! tenants that are not there. It is the dynamic threshold of A. Choudhury and E. Hahne, "Dynamic queue length thresholds for
//! shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.
//!
//! Those who wait do so in a line of their tenant, and the lines take turns. The room in all lines together is shared by the same rule. What the
//! platform runs for itself belongs to no tenant and has no share.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};
use wasmwiz_events::id::TenantId;

/// How many times what is free a tenant may hold.
const OF_FREE: u32 = 4;

/// May somebody who holds so many have one more, when so many are free?
const fn may_have(held: u32, free: u32) -> bool {
    free > 0 && held < free.saturating_mul(OF_FREE)
}

/// Whose a place is; `None`: the platform's own.
pub(crate) type Whose = Option<TenantId>;

/// One of the places. Dropped, it is the next one's.
pub(crate) struct Place {
    whose: Whose,
    places: Arc<Places>,
}

impl Place {
    /// Whose it is.
    pub(crate) const fn whose(&self) -> &Whose {
        &self.whose
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Place").field(&self.whose).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave(&self.whose);
    }
}

/// All of them, and who waits for one.
pub(crate) struct Places {
    state: Mutex<State>,
    /// Told when the last guest has left.
    empty: Notify,
    places_max: u32,
    waiting_max: u32,
}

#[derive(Default)]
struct State {
    free: u32,
    /// How many each has. Whoever has none is not here.
    held: HashMap<Whose, u32>,
    /// Those who wait, by whose they are. An empty line is not here.
    lines: HashMap<Whose, VecDeque<Waiter>>,
    /// Whose turn is next, of those who wait.
    turns: VecDeque<Whose>,
    waiting: u32,
    last_waiter: u64,
    is_closed: bool,
}

struct Waiter {
    id: u64,
    told: oneshot::Sender<()>,
}

impl State {
    fn held_by(&self, whose: &Whose) -> u32 {
        self.held.get(whose).copied().unwrap_or_default()
    }

    /// Is there a place that this one may have?
    fn has_place_for(&self, whose: &Whose) -> bool {
        let held = if whose.is_some() { self.held_by(whose) } else { 0 };
        !self.is_closed && may_have(held, self.free)
    }

    fn take(&mut self, whose: &Whose) {
        self.free = self.free.saturating_sub(1);
        let held = self.held.entry(whose.clone()).or_default();
        *held = held.saturating_add(1);
    }

    fn give_back(&mut self, whose: &Whose) {
        self.free = self.free.saturating_add(1);
        if let Some(held) = self.held.get_mut(whose) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(whose);
            }
        }
    }

    /// Gives what is free to those who wait and may have it, the lines by turns.
    fn pass_on(&mut self) {
        // All that are asked without success in a row could not have what is free now.
        let mut asked = 0;
        while self.free > 0 && asked < self.turns.len() {
            let Some(whose) = self.turns.pop_front() else { return };
            if !self.has_place_for(&whose) {
                self.turns.push_back(whose);
                asked += 1;
                continue;
            }
            let Some(line) = self.lines.get_mut(&whose) else { continue };
            let next = line.pop_front();
            if line.is_empty() {
                self.lines.remove(&whose);
            } else {
                self.turns.push_back(whose.clone());
            }
            let Some(waiter) = next else { continue };
            self.waiting = self.waiting.saturating_sub(1);
            // One that does not wait any more leaves it to the next.
            if waiter.told.send(()).is_ok() {
                self.take(&whose);
                asked = 0;
            }
        }
    }

    /// Enters the line, unless it is as long as it may be.
    fn line_up(&mut self, whose: &Whose, waiting_max: u32) -> Option<(u64, oneshot::Receiver<()>)> {
        let own = self.lines.get(whose).map_or(0, |line| u32::try_from(line.len()).unwrap_or(u32::MAX));
        let counted = if whose.is_some() { own } else { 0 };
        if self.is_closed || !may_have(counted, waiting_max.saturating_sub(self.waiting)) {
            return None;
        }
        let (told, place) = oneshot::channel();
        self.last_waiter = self.last_waiter.wrapping_add(1);
        let id = self.last_waiter;
        if own == 0 {
            self.turns.push_back(whose.clone());
        }
        self.lines.entry(whose.clone()).or_default().push_back(Waiter { id, told });
        self.waiting = self.waiting.saturating_add(1);
        // A place may have come free since it was looked for.
        self.pass_on();
        Some((id, place))
    }

    /// Leaves the line, if the waiter is still in it.
    fn step_out(&mut self, whose: &Whose, id: u64) {
        let Some(line) = self.lines.get_mut(whose) else { return };
        let before = line.len();
        line.retain(|waiter| waiter.id != id);
        if line.len() < before {
            self.waiting = self.waiting.saturating_sub(1);
        }
        if line.is_empty() {
            self.lines.remove(whose);
            self.turns.retain(|turn| turn != whose);
        }
    }
}

/// One that waits in line. Dropped, it does not wait any more; a place that it was given meanwhile is the next one's.
struct InLine<'a> {
    places: &'a Arc<Places>,
    whose: &'a Whose,
    id: u64,
    place: oneshot::Receiver<()>,
    has_left: bool,
}

impl InLine<'_> {
    async fn place(mut self) -> Option<Place> {
        let given = (&mut self.place).await.is_ok();
        self.has_left = given;
        given.then(|| Place { whose: self.whose.clone(), places: Arc::clone(self.places) })
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        let mut state = self.places.lock();
        state.step_out(self.whose, self.id);
        // Under the lock nobody gives: either it was given one by now, or never will be.
        if self.place.try_recv().is_ok() {
            self.places.take_back(&mut state, self.whose);
        }
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many places, for which so many may wait.
    pub(crate) fn new(places_max: u32, waiting_max: u32) -> Arc<Self> {
        let state = Mutex::new(State { free: places_max, ..State::default() });
        Arc::new(Self { state, empty: Notify::new(), places_max, waiting_max })
    }

    /// A place, as soon as there is one for it; `None` when the line is as long as it may be, or nobody is let in any more.
    pub(crate) async fn acquire(self: &Arc<Self>, whose: &Whose) -> Option<Place> {
        match self.enter(whose) {
            Some(place) => Some(place),
            None => self.line_up(whose)?.place().await,
        }
    }

    /// A place, if there is one for it now.
    pub(crate) fn enter(self: &Arc<Self>, whose: &Whose) -> Option<Place> {
        let mut state = self.lock();
        // Those who wait were here before, as far as they may have it.
        let is_next = state.has_place_for(whose) && !state.lines.contains_key(whose);
        is_next.then(|| {
            state.take(whose);
            Place { whose: whose.clone(), places: Arc::clone(self) }
        })
    }

    fn line_up<'a>(self: &'a Arc<Self>, whose: &'a Whose) -> Option<InLine<'a>> {
        let (id, place) = self.lock().line_up(whose, self.waiting_max)?;
        Some(InLine { places: self, whose, id, place, has_left: false })
    }

    fn leave(&self, whose: &Whose) {
        self.take_back(&mut self.lock(), whose);
    }

    fn take_back(&self, state: &mut State, whose: &Whose) {
        state.give_back(whose);
        state.pass_on();
        if state.free >= self.places_max {
            self.empty.notify_waiters();
        }
    }

    /// Are all of them taken?
    pub(crate) fn are_taken(&self) -> bool {
        self.lock().free == 0
    }

    /// Lets nobody in any more, and turns away those who wait.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.lines.clear();
        state.turns.clear();
        state.waiting = 0;
    }

    /// Waits until nobody has a place.
    pub(crate) async fn empty(&self) {
        loop {
            let told = self.empty.notified();
            if self.lock().free >= self.places_max {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests;
