//! A node that is slower than it was built: it stands still for a part of the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// How long it takes to stand still once and to go on once.
const PERIOD: Duration = Duration::from_millis(10);

/// Holds a process up until this is dropped.
#[derive(Debug)]
pub(crate) struct Handicap {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Handicap {
    /// Of so many percent of the time; of none, nothing is done.
    ///
    /// # Errors
    /// When that is no process.
    pub(crate) fn of(percent: u8, pid: u32) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        if percent == 0 {
            return Ok(Self { stop, thread: None });
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the node has no process")?;
        let still = PERIOD * u32::from(percent) / 100;
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                // A process that has ended is not to be held up any more.
                while !stop.load(Ordering::Relaxed) && kill_process(pid, Signal::STOP).is_ok() {
                    thread::sleep(still);
                    let _ = kill_process(pid, Signal::CONT);
                    thread::sleep(PERIOD - still);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Handicap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
