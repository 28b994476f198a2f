//! A wall clock of a node's own that steps, by libfaketime. The monotonic clock goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tempfile::TempDir;

use crate::harness::Launch;

/// Where distributions put the library.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
];

/// The library, when it is installed.
pub fn library() -> Option<PathBuf> {
    PLACES.into_iter().map(PathBuf::from).find(|place| place.is_file())
}

/// A clock that can be set.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    folder: TempDir,
}

impl WallClock {
    /// One that is right, until it is set.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn right(library: &Path) -> anyhow::Result<Self> {
        let clock = Self { library: library.to_owned(), folder: tempfile::tempdir().context("no folder for a clock")? };
        clock.step_to("+0")?;
        Ok(clock)
    }

    /// Sets it to so much from the right time, as the library writes it: `-1s`, `+10m`, `+30d`. The node reads that at each
    /// look.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn step_to(&self, offset: &str) -> anyhow::Result<()> {
        let next = self.file().with_extension("next");
        fs::write(&next, offset)?;
        fs::rename(&next, self.file()).context("the clock cannot be set")
    }

    /// A node that has this clock.
    #[must_use]
    pub fn shown_to(&self, launch: Launch) -> Launch {
        launch
            .variable("LD_PRELOAD", &self.library)
            .variable("FAKETIME_TIMESTAMP_FILE", self.file())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("now")
    }
}
