//! The one thread that makes running guests yield: it moves the engines' epochs on, and sleeps while nothing runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use wasmtime::Engine;

/// Ticks without a guest before the thread sleeps: waking it costs more than a few idle ticks, and requests come in rows.
const IDLE_TICKS: u32 = 50;

/// Counts running guests. Dropped with the executors, it ends its thread.
pub(crate) struct Ticker {
    state: Arc<State>,
    sleeper: Thread,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engines: [Engine; 2], tick: Duration) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread =
            thread::Builder::new().name("guest-ticker".into()).spawn(move || tick_on(&shared, &engines, tick))?;
        Ok(Self { state, sleeper: thread.thread().clone(), thread: Some(thread) })
    }

    /// A guest runs while the returned value lives.
    pub(crate) fn guest_runs(&self) -> Running<'_> {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        if self.state.parked.swap(false, Ordering::SeqCst) {
            self.sleeper.unpark();
        }
        Running(&self.state.running)
    }
}

/// See [`Ticker::guest_runs`].
pub(crate) struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.sleeper.unpark();
        if let Some(thread) = self.thread.take() {
            // It has nothing to fail with, and it ends within a tick.
            let _ = thread.join();
        }
    }
}

fn tick_on(state: &State, engines: &[Engine], tick: Duration) {
    let mut idle = 0;
    while !state.stopped.load(Ordering::SeqCst) {
        if state.running.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > IDLE_TICKS {
            state.parked.store(true, Ordering::SeqCst);
            // A guest that started between the two lines sees `parked` and wakes this thread, or is seen here.
            if state.running.load(Ordering::SeqCst) == 0 && !state.stopped.load(Ordering::SeqCst) {
                thread::park();
            }
            state.parked.store(false, Ordering::SeqCst);
            idle = 0;
        }
        thread::sleep(tick);
        engines.iter().for_each(Engine::increment_epoch);
    }
}
