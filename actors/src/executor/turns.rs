//! Fairness between the guests of one thread, and what each of them cost.
//!
//! Every guest yields at each tick. Without more, a guest that has just come would wait one tick for every spinning guest
//! of its thread. So a guest that has used its share of CPU time becomes *heavy*: the heavy guests of a thread pass one
//! permit around, first come first served, and only its holder is ready to run. A light guest waits for one slice.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

type Breath = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A guest's future, cut in slices.
pub(crate) struct Sliced<'a, F> {
    guest: Pin<&'a mut F>,
    cpu: Duration,
    heavy_after: Duration,
    turns: PollSemaphore,
    turn: Option<OwnedSemaphorePermit>,
    breath: Option<Breath>,
}

impl<'a, F: Future> Sliced<'a, F> {
    /// `turns` is the one permit of the heavy guests of this thread.
    pub(crate) fn new(guest: Pin<&'a mut F>, heavy_after: Duration, turns: Arc<Semaphore>) -> Self {
        let turns = PollSemaphore::new(turns);
        Self { guest, cpu: Duration::ZERO, heavy_after, turns, turn: None, breath: None }
    }

    /// CPU time of all slices so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.cpu
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn.is_none() {
            self.turn = ready!(self.turns.poll_acquire(cx));
            // The thread looks after its timers and its mailbox between any two heavy slices: a permit that passes
            // straight from guest to guest would keep it from that.
            self.breath = Some(Box::pin(tokio::task::yield_now()));
        }
        if let Some(breath) = &mut self.breath {
            ready!(breath.as_mut().poll(cx));
            self.breath = None;
        }
        Poll::Ready(())
    }
}

impl<F: Future> Future for Sliced<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if this.cpu >= this.heavy_after {
            ready!(this.poll_turn(cx));
        }
        let before = thread_cpu();
        let polled = this.guest.as_mut().poll(cx);
        this.cpu += thread_cpu().saturating_sub(before);
        // Given back also when the guest sleeps in a host call: nobody waits for a sleeper.
        this.turn = None;
        polled
    }
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
