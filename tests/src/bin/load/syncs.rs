//! What a sync takes on the disk of the node, while the machine is as busy as it is with the load of a server.
//!
//! On an idle machine a sync may take many times longer, because the end of it is noticed only with the next tick of the
//! kernel; so it is not measured then.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;
use wasmwiz_tests::times::Times;

/// How many are measured at most.
const SYNCS: usize = 50_000;

/// What is appended before each, in bytes: a page of the log.
const APPENDED_BYTES: usize = 4 << 10;

/// Times of an append and its fdatasync.
#[derive(Debug)]
pub(crate) struct Syncs(Times);

/// Syncs that are being measured, one right after the other, until this is told to end.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Times>>,
}

impl Probe {
    /// Begins to measure in this folder.
    pub(crate) fn begin(folder: &Path) -> Self {
        let (stop, path) = (Arc::new(AtomicBool::new(false)), folder.join("sync.probe"));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || measure(&path, &stop)
        });
        Self { stop, thread }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When nothing could be written there.
    pub(crate) fn end(self) -> anyhow::Result<Syncs> {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join().ok().context("the probe of the disk panicked")?;
        Ok(Syncs(times.context("cannot write beside the node's data")?))
    }
}

fn measure(path: &Path, stop: &AtomicBool) -> anyhow::Result<Times> {
    let (mut file, mut times) = (File::create(path)?, Times::default());
    while !stop.load(Ordering::Relaxed) && times.count() < SYNCS {
        let begun = Instant::now();
        file.write_all(&[0x5a; APPENDED_BYTES])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    fs::remove_file(path)?;
    Ok(times)
}

impl Syncs {
    /// A percentile, in milliseconds.
    pub(crate) fn ms(&self, percent: usize) -> f64 {
        self.0.percentile(percent).max(Duration::from_micros(1)).as_secs_f64() * 1e3
    }
}
