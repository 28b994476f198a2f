//! Memory that is shared by tenant: what all guests of a node hold, linear memory and kept outputs, counted before it
//! is taken. The input of asynchronous executions that run is shared by the same rule, from a budget of its own.
//!
//! What is free is free for everybody, but not to the last byte: **a tenant gets no more when it would then hold more
//! than [`OF_FREE`] times what stays free**, the rule by which [`places`](super::places) are shared. Alone, a tenant
//! has two thirds. One part in [`LIGHT_PART`] is beside that: it is for tenants that hold no more than [`LIGHT_BYTES`].
//! What the platform runs for itself has no share.
//!
//! A guest takes what it grows to. One that does not get it is ended and its memory given back; then it is run again
//! from its beginning, with what it [lacked](reservation) reserved for it and some more, as soon as there is so much.
//! Nobody has seen the first run, and what is run again is the same. A guest that waits holds nothing, so others get on
//! meanwhile.
//!
//! Guests wait in a line of their tenant, and the lines take turns. The first of a line keeps the others of its tenant
//! waiting, however little they want; the first ones of other lines get what it cannot have. Nobody else is woken.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::places::Whose;

/// How many times what stays free a tenant may hold. Less than of places: guests ask for memory in large pieces, and a
/// piece that is larger than all that is free helps nobody.
const OF_FREE: u64 = 2;

/// The part of the budget for tenants that hold little: one byte in so many.
const LIGHT_PART: u64 = 16;

/// What a tenant may hold to be one of those, in bytes, if that part is as large: some small guests with their outputs.
const LIGHT_BYTES: u64 = 4 << 20;

/// Guests of one tenant that may wait for memory before no further ones are let in: each of them holds a place.
const WAITING_PER_TENANT_MAX: usize = 4;

/// What is reserved beside what a guest lacked: one byte for so many of that. It grows on from there, mostly.
const SLACK_PART: u64 = 4;

/// The least of that, in bytes: memory grows by pages of 64 KiB.
const SLACK_MIN_BYTES: u64 = 1 << 20;

/// What is reserved for a guest that would have held `lacked_bytes`, when so much was reserved before. At least twice
/// as much each time: from one mebibyte to one gibibyte in ten.
pub(crate) fn reservation(lacked_bytes: u64, reserved_before_bytes: u64) -> u64 {
    let slack = (lacked_bytes / SLACK_PART).max(SLACK_MIN_BYTES);
    lacked_bytes.saturating_add(slack).max(reserved_before_bytes.saturating_mul(2))
}

/// Why there is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The guests of this tenant hold what it may have.
    Tenant,
    /// The guests of others do.
    Node,
    /// A guest never has so much here, also when nobody else holds any.
    Never {
        /// What one guest may have, in bytes.
        most_bytes: u64,
    },
}

/// For the owner of a guest that did not get it.
impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tenant => f.write_str(
                "the guests of this tenant hold the memory of this node that one tenant may have; run fewer of them at \
                 a time",
            ),
            Self::Node => f.write_str("the guests of this node hold the memory that they may have; run it again later"),
            Self::Never { most_bytes } => write!(
                f,
                "this node has {most_bytes} bytes of memory for one guest; its operator can raise \
                 executor.memory_budget_bytes"
            ),
        }
    }
}

/// How much there is, and who may have it.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    all_bytes: u64,
    light_part_bytes: u64,
}

impl Bounds {
    const fn of(all_bytes: u64) -> Self {
        Self { all_bytes, light_part_bytes: all_bytes / LIGHT_PART }
    }

    /// May a tenant that holds so much take so much more, when so much is free?
    fn may_take(&self, held: u64, more: u64, free: u64) -> bool {
        let (after, Some(left)) = (held.saturating_add(more), free.checked_sub(more)) else { return false };
        let is_light = after <= LIGHT_BYTES.min(self.light_part_bytes);
        is_light || left.checked_sub(self.light_part_bytes).is_some_and(|left| after <= left.saturating_mul(OF_FREE))
    }

    /// What one guest may have when nobody else has anything.
    const fn most_bytes(&self, is_platforms: bool) -> u64 {
        if is_platforms {
            return self.all_bytes;
        }
        self.all_bytes.saturating_sub(self.light_part_bytes) / (OF_FREE + 1) * OF_FREE
    }
}

/// What the guests of one tenant may have of so many bytes when nobody else has any, in bytes; so may one guest.
pub(crate) const fn most_per_tenant(all_bytes: u64) -> u64 {
    Bounds::of(all_bytes).most_bytes(false)
}

/// What all guests of the node hold. Taken at growth, given back when it is gone.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: u64,
    /// What each holds, with what is reserved for it. One that holds nothing is not here.
    held: HashMap<Whose, u64>,
    /// Those who wait, by whose they are: no more than there are places, or lanes of the queue. An empty line is not
    /// here.
    lines: HashMap<Whose, VecDeque<Waiter>>,
    /// Whose turn is next, of those who wait. One that could not have what was free keeps its turn.
    turns: VecDeque<Whose>,
    last_waiter: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    bytes: u64,
    told: oneshot::Sender<()>,
}

impl State {
    fn take(&mut self, bounds: &Bounds, whose: &Whose, more: u64) -> Result<(), Full> {
        if more == 0 {
            return Ok(());
        }
        let held = self.held.get(whose).copied().unwrap_or_default();
        let may = |held: u64, free: u64| match whose {
            Some(_) => bounds.may_take(held, more, free),
            None => more <= free,
        };
        if !may(held, self.free) {
            // Would there be room if only this tenant's own guests held nothing?
            return Err(if may(0, self.free.saturating_add(held)) { Full::Tenant } else { Full::Node });
        }
        self.free = self.free.saturating_sub(more);
        match self.held.get_mut(whose) {
            Some(held) => *held = held.saturating_add(more),
            None => drop(self.held.insert(whose.clone(), more)),
        }
        Ok(())
    }

    fn give(&mut self, whose: &Whose, bytes: u64) {
        let Some(held) = self.held.get_mut(whose) else { return };
        let bytes = bytes.min(*held);
        *held -= bytes;
        self.free = self.free.saturating_add(bytes);
        if *held == 0 {
            self.held.remove(whose);
        }
    }

    /// Gives what is free to the first of each line that may have it, by turns.
    fn pass_on(&mut self, bounds: &Bounds) {
        let mut at = 0;
        while let Some(whose) = self.turns.remove(at) {
            let Some(bytes) = self.lines.get(&whose).and_then(VecDeque::front).map(|next| next.bytes) else { continue };
            if self.take(bounds, &whose, bytes).is_err() {
                // The next ones are asked for what is left.
                self.turns.insert(at, whose);
                at += 1;
                continue;
            }
            let Some(line) = self.lines.get_mut(&whose) else { continue };
            let next = line.pop_front();
            // One that does not wait any more leaves it to the next.
            if next.is_none_or(|next| next.told.send(()).is_err()) {
                self.give(&whose, bytes);
            }
            if self.lines.get(&whose).is_some_and(VecDeque::is_empty) {
                self.lines.remove(&whose);
            } else {
                self.turns.push_back(whose);
            }
        }
    }

    /// Takes it, if there is so much and no other guest of the same waits.
    fn enter(&mut self, bounds: &Bounds, whose: &Whose, bytes: u64) -> bool {
        !self.lines.contains_key(whose) && self.take(bounds, whose, bytes).is_ok()
    }

    fn line_up(&mut self, whose: &Whose, bytes: u64) -> (u64, oneshot::Receiver<()>) {
        let (told, given) = oneshot::channel();
        self.last_waiter = self.last_waiter.wrapping_add(1);
        let id = self.last_waiter;
        if !self.lines.contains_key(whose) {
            self.turns.push_back(whose.clone());
        }
        self.lines.entry(whose.clone()).or_default().push_back(Waiter { id, bytes, told });
        (id, given)
    }

    /// Leaves the line, if the waiter is still in it.
    fn step_out(&mut self, whose: &Whose, id: u64) {
        let Some(line) = self.lines.get_mut(whose) else { return };
        line.retain(|waiter| waiter.id != id);
        if line.is_empty() {
            self.lines.remove(whose);
            self.turns.retain(|turn| turn != whose);
        }
    }
}

impl MemoryBudget {
    /// So many bytes for all.
    pub(crate) fn new(all_bytes: u64) -> Arc<Self> {
        let state = State { free: all_bytes, ..State::default() };
        Arc::new(Self { bounds: Bounds::of(all_bytes), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held, and the most that may be, in bytes.
    pub(crate) fn state(&self) -> (u64, u64) {
        (self.bounds.all_bytes.saturating_sub(self.lock().free), self.bounds.all_bytes)
    }

    /// Do as many guests of this one wait for memory as may, before others are let in?
    pub(crate) fn is_waited_for(&self, whose: &Whose) -> bool {
        self.lock().lines.get(whose).is_some_and(|line| line.len() >= WAITING_PER_TENANT_MAX)
    }

    /// What a guest may take from here, without a reservation.
    pub(crate) fn account(self: &Arc<Self>, whose: Whose) -> Arc<Account> {
        Arc::new(Account {
            budget: Arc::clone(self),
            whose,
            taken_bytes: AtomicU64::new(0),
            reserved_bytes: AtomicU64::new(0),
            lacked_bytes: AtomicU64::new(0),
        })
    }

    /// The same with so many bytes reserved, or as many as one guest may have, as soon as there are so many and it is
    /// the turn of the line that it waits in. Dropping the future leaves the line.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        whose: Whose,
        wanted_bytes: u64,
        wait: Duration,
    ) -> Result<Arc<Account>, Full> {
        let account = self.account(whose);
        let bytes = wanted_bytes.min(self.bounds.most_bytes(account.whose.is_none()));
        let is_taken = self.lock().enter(&self.bounds, &account.whose, bytes);
        if !is_taken {
            let in_line = InLine::enter(self, &account.whose, bytes);
            let given = tokio::time::timeout(wait, in_line.given()).await;
            if !given.unwrap_or(false) {
                // Its time is over: it gets what there is, or is told what is in its way.
                self.lock().take(&self.bounds, &account.whose, bytes)?;
            }
        }
        account.reserved_bytes.store(bytes, Ordering::Relaxed);
        Ok(account)
    }

    fn give(&self, whose: &Whose, bytes: u64) {
        if bytes > 0 {
            let mut state = self.lock();
            state.give(whose, bytes);
            state.pass_on(&self.bounds);
        }
    }
}

/// A guest that waits for memory. Dropped, it does not wait any more; what it was given meanwhile is the next one's.
struct InLine<'a> {
    budget: &'a MemoryBudget,
    whose: &'a Whose,
    id: u64,
    bytes: u64,
    told: oneshot::Receiver<()>,
    has_left: bool,
}

impl<'a> InLine<'a> {
    fn enter(budget: &'a MemoryBudget, whose: &'a Whose, bytes: u64) -> Self {
        let mut state = budget.lock();
        let (id, told) = state.line_up(whose, bytes);
        // Some may have come free since it was looked for.
        state.pass_on(&budget.bounds);
        Self { budget, whose, id, bytes, told, has_left: false }
    }

    /// Waits until it has been given what it waits for.
    async fn given(mut self) -> bool {
        self.has_left = (&mut self.told).await.is_ok();
        self.has_left
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        let mut state = self.budget.lock();
        state.step_out(self.whose, self.id);
        // Under the lock nobody gives: either it was given some by now, or never will be.
        if self.told.try_recv().is_ok() {
            state.give(self.whose, self.bytes);
        }
        // The next of its line may want less.
        state.pass_on(&self.budget.bounds);
    }
}

/// What one guest has of the budget: its memory, its outputs, and what is reserved for it.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Arc<MemoryBudget>,
    whose: Whose,
    /// What its memory and outputs hold.
    taken_bytes: AtomicU64,
    /// What is reserved beside, and not taken yet.
    reserved_bytes: AtomicU64,
    /// What it would have held with what it was refused because others hold it, at most.
    lacked_bytes: AtomicU64,
}

impl Account {
    fn take(&self, more: u64) -> Result<(), Full> {
        let most_bytes = self.budget.bounds.most_bytes(self.whose.is_none());
        let after = self.taken_bytes.load(Ordering::Relaxed).saturating_add(more);
        if after > most_bytes {
            return Err(Full::Never { most_bytes });
        }
        let reserved = self.reserved_bytes.load(Ordering::Relaxed);
        let from_reserved = reserved.min(more);
        let taken = self.budget.lock().take(&self.budget.bounds, &self.whose, more - from_reserved);
        if let Err(full) = taken {
            self.lacked_bytes.fetch_max(after, Ordering::Relaxed);
            return Err(full);
        }
        // One guest takes one piece after the other.
        self.reserved_bytes.fetch_sub(from_reserved, Ordering::Relaxed);
        self.taken_bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn give(&self, bytes: u64) {
        self.taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.give(&self.whose, bytes);
    }

    /// What its guest would have held with what it was refused because others hold it, at most, in bytes.
    pub(crate) fn lacked_bytes(&self) -> u64 {
        self.lacked_bytes.load(Ordering::Relaxed)
    }

    /// Gives back what is reserved and not taken: its guest has ended.
    pub(crate) fn settle(&self) {
        let reserved = self.reserved_bytes.swap(0, Ordering::Relaxed);
        self.budget.give(&self.whose, reserved);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle();
    }
}

/// What one holder has taken from an account. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    account: Arc<Account>,
    bytes: u64,
}

impl Held {
    pub(crate) const fn nothing_of(account: Arc<Account>) -> Self {
        Self { account, bytes: 0 }
    }

    /// Takes `more` bytes, if there are so many for it.
    pub(crate) fn grow(&mut self, more: u64) -> Result<(), Full> {
        self.account.take(more)?;
        self.bytes += more;
        Ok(())
    }

    /// Gives back `bytes` of them.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.account.give(bytes);
        self.bytes -= bytes;
    }

    /// How many it has.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What they were taken from.
    pub(crate) fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.give(self.bytes);
    }
}

#[cfg(test)]
mod tests;
