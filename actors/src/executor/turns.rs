//! Whose guest runs next on a thread, in slices, and what each of them cost.
//!
//! A guest gives way at each tick, and in the middle of large operations. Then it stands in line before it gives its turn
//! back, so that whoever is next is chosen among all who want to go on:
//!
//! - **The tenant that has had least of this thread's processor time comes first.** However many guests a tenant has, each tenant
//!   that keeps the thread busy has as much of it as any other. One that comes, or comes back, begins where the one that has had least is: it has
//!   saved nothing up, and owes nothing for what it had alone.
//! - **Of one tenant, light guests come before heavy ones**, and each kind in order of arrival. A guest is heavy once it has used [a
//!   share of processor time](super::ExecutorConfig::heavy_after_ms).
//! - **A light guest comes before others' heavy ones**, as long as its tenant is not [so far](LEAD) ahead of the one that has had least: who is answered in
//!   microseconds does not wait for those who compute for minutes, and cannot live on that.
//!
//! It is the borrowed virtual time of K. Duda and D. Cheriton, "Borrowed-virtual-time (BVT) scheduling", SOSP 1999, with one
//! weight for all tenants and one warp, that of light guests.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use super::places::Whose;

/// How much more of a thread a tenant may have had than the one that has had least, for its light guests to come before heavy
/// ones of others. A light guest of a tenant that has heavy ones, too, is not kept by those from coming first.
const LEAD: Duration = Duration::from_millis(50);

/// How much a guest has used of the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Light,
    Heavy,
}

/// The turns of one thread: one guest has it at a time.
#[derive(Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Default)]
struct State {
    is_taken: bool,
    /// What the tenant has had that has had least, of those who want to go on.
    least: Duration,
    /// The lines of tenants of which a guest waits, or that have had more than `least`.
    lines: HashMap<Whose, Line>,
    /// Who came to wait last, by number.
    last: u64,
}

/// One tenant's.
struct Line {
    /// Processor time of this thread, since it was idle last.
    had: Duration,
    light: VecDeque<Waiter>,
    heavy: VecDeque<Waiter>,
}

struct Waiter {
    number: u64,
    told: oneshot::Sender<Turn>,
}

impl Line {
    const fn that_had(had: Duration) -> Self {
        Self { had, light: VecDeque::new(), heavy: VecDeque::new() }
    }

    fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Who comes sooner has less: the time that counts, then who came first.
    fn place(&self) -> Option<(Duration, u64)> {
        match (self.light.front(), self.heavy.front()) {
            (Some(first), _) => Some((self.had, first.number)),
            (None, Some(first)) => Some((self.had.saturating_add(LEAD), first.number)),
            (None, None) => None,
        }
    }
}

impl State {
    fn line(&mut self, whose: &Whose) -> &mut Line {
        let least = self.least;
        self.lines.entry(whose.clone()).or_insert_with(|| Line::that_had(least))
    }

    /// The one whose turn it is, taken from its line.
    fn next(&mut self) -> Option<(Whose, Waiter)> {
        let waiting = self.lines.values().filter(|line| !line.is_empty());
        if let Some(least) = waiting.map(|line| line.had).min() {
            self.least = self.least.max(least);
        }
        let least = self.least;
        self.lines.retain(|_, line| !line.is_empty() || line.had > least);
        let places = self.lines.iter_mut().filter_map(|(whose, line)| line.place().map(|place| (place, whose, line)));
        let (_, whose, line) = places.min_by_key(|(place, ..)| *place)?;
        let waiter = line.light.pop_front().or_else(|| line.heavy.pop_front())?;
        Some((whose.clone(), waiter))
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn, if nobody has it; a place in line otherwise.
    fn take(self: &Arc<Self>, whose: &Whose, weight: Weight) -> Result<Turn, Waiting> {
        {
            let mut state = self.state();
            if state.is_taken {
                return Err(wait(&mut state, whose, weight));
            }
            state.is_taken = true;
        }
        Ok(Turn { turns: Some(Arc::clone(self)), whose: whose.clone(), used: Duration::ZERO })
    }

    /// A place in line, for who has the turn.
    fn wait(&self, whose: &Whose, weight: Weight) -> Waiting {
        wait(&mut self.state(), whose, weight)
    }

    fn pass_on(self: Arc<Self>, whose: &Whose, used: Duration) {
        {
            let mut state = self.state();
            if state.lines.is_empty() {
                // Nobody waits, and nobody has anything ahead of others.
                state.is_taken = false;
                return;
            }
            let line = state.line(whose);
            line.had = line.had.saturating_add(used);
        }
        let mut turns = Some(self);
        while let Some(these) = turns.take() {
            let mut state = these.state();
            let Some((whose, waiter)) = state.next() else {
                // Whoever comes now finds the thread idle.
                state.lines.clear();
                state.is_taken = false;
                return;
            };
            drop(state);
            let turn = Turn { turns: Some(these), whose, used: Duration::ZERO };
            // One that is gone has no turn.
            turns = waiter.told.send(turn).err().and_then(|mut turn| turn.turns.take());
        }
    }
}

fn wait(state: &mut State, whose: &Whose, weight: Weight) -> Waiting {
    let (told, waiting) = oneshot::channel();
    state.last += 1;
    let waiter = Waiter { number: state.last, told };
    let least = state.least;
    let line = state.line(whose);
    line.had = line.had.max(least);
    match weight {
        Weight::Light => line.light.push_back(waiter),
        Weight::Heavy => line.heavy.push_back(waiter),
    }
    Waiting(waiting)
}

/// The turn of a thread. Dropped, it is the next one's.
struct Turn {
    /// `None` once it is somebody else's.
    turns: Option<Arc<Turns>>,
    whose: Whose,
    /// Processor time.
    used: Duration,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on(&self.whose, self.used);
        }
    }
}

/// A place in line.
struct Waiting(oneshot::Receiver<Turn>);

/// How a guest tells who polls it that it stops for the others only.
#[derive(Clone, Default)]
pub(crate) struct Pause(Option<Arc<AtomicBool>>);

impl Pause {
    /// For a guest that is [sliced](Sliced). Without, `default`, it gives way to the other tasks of its thread.
    pub(crate) fn of_slices() -> Self {
        Self(Some(Arc::default()))
    }

    /// Lets the others have their turns.
    pub(crate) fn give_way(&self) -> impl Future<Output = ()> + Send + 'static {
        let told = self.0.clone();
        async move {
            match told {
                Some(told) => GiveWay(Some(told)).await,
                None => tokio::task::yield_now().await,
            }
        }
    }

    fn take(&self) -> bool {
        self.0.as_ref().is_some_and(|told| told.swap(false, Ordering::Relaxed))
    }
}

/// Wakes nobody: the guest is polled again in its turn.
struct GiveWay(Option<Arc<AtomicBool>>);

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match self.0.take() {
            Some(told) => {
                told.store(true, Ordering::Relaxed);
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

type Breath = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a guest is between two polls.
enum Stage {
    /// Not in line: it begins, or waits for something else.
    Away,
    Waiting(Waiting),
    /// It is told. The thread looks after its timers and its mailbox between any two slices: a turn that passes straight from
    /// guest to guest would keep it from that.
    Next(Turn, Breath),
}

/// A guest's future, cut in slices.
pub(crate) struct Sliced<'a, F> {
    guest: Pin<&'a mut F>,
    pause: Pause,
    whose: &'a Whose,
    cpu: Duration,
    heavy_after: Duration,
    turns: Arc<Turns>,
    stage: Stage,
}

impl<'a, F: Future> Sliced<'a, F> {
    /// A guest of `whose` that tells by `pause` that it stops for others, and is heavy when it has used so much. `turns` are
    /// those of this thread.
    pub(crate) fn new(
        guest: Pin<&'a mut F>,
        pause: Pause,
        whose: &'a Whose,
        heavy_after: Duration,
        turns: Arc<Turns>,
    ) -> Self {
        Self { guest, pause, whose, cpu: Duration::ZERO, heavy_after, turns, stage: Stage::Away }
    }

    /// CPU time of all slices so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.cpu
    }

    fn weight(&self) -> Weight {
        if self.cpu < self.heavy_after { Weight::Light } else { Weight::Heavy }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Away) {
                Stage::Away => match self.turns.take(self.whose, self.weight()) {
                    Ok(turn) => return Poll::Ready(turn),
                    Err(waiting) => Stage::Waiting(waiting),
                },
                Stage::Waiting(mut waiting) => match Pin::new(&mut waiting.0).poll(cx) {
                    Poll::Ready(Ok(turn)) => Stage::Next(turn, Box::pin(tokio::task::yield_now())),
                    // Nobody forgets who waits; then it begins anew.
                    Poll::Ready(Err(_)) => Stage::Away,
                    Poll::Pending => {
                        self.stage = Stage::Waiting(waiting);
                        return Poll::Pending;
                    }
                },
                Stage::Next(turn, mut breath) => {
                    if breath.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(turn);
                    }
                    self.stage = Stage::Next(turn, breath);
                    return Poll::Pending;
                }
            };
        }
    }
}

impl<F: Future> Future for Sliced<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let mut turn = ready!(this.poll_turn(cx));
        let before = thread_cpu();
        let polled = this.guest.as_mut().poll(cx);
        turn.used = thread_cpu().saturating_sub(before);
        this.cpu += turn.used;
        if polled.is_ready() || !this.pause.take() {
            // Given back also when the guest sleeps in a host call: nobody waits for a sleeper.
            return polled;
        }
        this.stage = Stage::Waiting(this.turns.wait(this.whose, this.weight()));
        drop(turn);
        // It may be its own turn again; then the thread has its breath first.
        match this.poll_turn(cx) {
            Poll::Pending => {}
            Poll::Ready(turn) => {
                this.stage = Stage::Next(turn, Box::pin(std::future::ready(())));
                cx.waker().wake_by_ref();
            }
        }
        polled
    }
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
