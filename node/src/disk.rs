//! The room on the node's disk: it is watched, and a part of it is held back for what must be written in any case.
//!
//! ```text
//! room ≥ low                everything
//!      least ≤ room < low   no modules, no executions that have not begun
//!              room < least  the first reserve is given up; only what ends something is written
//! start on a full disk      the second one is given up, as opening the log and the views writes
//! ```
//! The bound of the log, if it has one, gives a level of its own (`disk/log`); what holds is the lower room of both.
//! Room is what is free beside the reserves, whether they are held or given up, so that giving one up does not look like room.
//! The rule is `Marks::level`; everything else here only looks and acts.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use wasmwiz_actors::disk_space::{DiskSpace, Level};

use self::{log::BoundedLog, reserve::Reserve};

pub(crate) mod log;
pub mod metrics;
mod reserve;

/// Below the data folder: what is given up for ends, and what is given up for a start.
const RESERVES: [&str; 2] = ["reserve", "reserve-for-a-start"];

/// How often the log is looked at, at least.
const WATCH_LOG: Duration = Duration::from_millis(250);

/// What is done when the disk of the data folder becomes full. Zero bytes switch a bound off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// With less room than this, in bytes, no modules are taken and no executions begun.
    pub low_bytes: u64,
    /// With less room than this, in bytes, only what ends something is written: ends of executions, revocations, suspensions,
    /// deletions. Less than `low_bytes`; their difference is for the outputs of what runs when the disk becomes low.
    pub least_bytes: u64,
    /// Held back in two files of the data folder, in bytes: one half is given up when there is less room than `least_bytes`,
    /// for ends to be written, and the other when a node starts on a disk that is as full. Needs `least_bytes`.
    pub reserve_bytes: u64,
    /// How often the disk is looked at, in milliseconds. The bound of the log, which takes no asking, is at least four times a second.
    pub watch_ms: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self { low_bytes: 256 << 20, least_bytes: 64 << 20, reserve_bytes: 32 << 20, watch_ms: 250 }
    }
}

impl DiskConfig {
    /// # Errors
    /// The key that is wrong, and what to set.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.least_bytes > 0 && self.least_bytes >= self.low_bytes {
            return Err(("least_bytes", "must be less than disk.low_bytes"));
        }
        if self.reserve_bytes > 0 && self.least_bytes == 0 {
            return Err(("reserve_bytes", "is never given up without disk.least_bytes; set both, or neither"));
        }
        if !(10..=60_000).contains(&self.watch_ms) {
            return Err(("watch_ms", "must be from 10 to 60000"));
        }
        Ok(())
    }

    const fn marks(&self) -> Marks {
        Marks { low_bytes: self.low_bytes, least_bytes: self.least_bytes }
    }
}

/// Where one level ends and the next begins.
#[derive(Debug, Clone, Copy)]
struct Marks {
    low_bytes: u64,
    least_bytes: u64,
}

impl Marks {
    /// The level with so much room, after `before`: a level is left upwards with an eighth more room than it was entered
    /// with, so that it is not entered and left all the time.
    fn level(self, before: Level, room_bytes: u64) -> Level {
        let is_above = |mark: u64, was_above: bool| {
            let again = if was_above { 0 } else { mark / 8 };
            room_bytes >= mark.saturating_add(again)
        };
        match before {
            before if !is_above(self.least_bytes, before != Level::Least) => Level::Least,
            before if !is_above(self.low_bytes, before == Level::Plenty) => Level::Low,
            _ => Level::Plenty,
        }
    }
}

/// The disk of a data folder.
pub struct Disk {
    folder: PathBuf,
    config: DiskConfig,
    /// For ends, and for a start.
    reserves: [Reserve; 2],
    space: DiskSpace,
}

impl Disk {
    /// Looks at the disk of the data folder, before anything is opened in it: on a full one, all that is held back is given up
    /// first. Blocks.
    ///
    /// # Errors
    /// When the system does not say how full it is.
    pub fn open(folder: &Path, config: DiskConfig) -> anyhow::Result<Self> {
        let reserves = RESERVES.map(|name| Reserve::new(folder.join(name), config.reserve_bytes / 2));
        let disk = Self { folder: folder.to_owned(), config, reserves, space: DiskSpace::default() };
        disk.look().with_context(|| format!("it is not known how full the disk of {} is", folder.display()))?;
        if disk.space.of_disk() == Level::Least {
            disk.reserves.iter().for_each(Reserve::give_up);
        }
        Ok(disk)
    }

    /// What is known of its free space, for those who ask.
    pub fn space(&self) -> DiskSpace {
        self.space.clone()
    }

    /// Looks at the log, at once, and then again and again at it and at the disk, for as long as it is polled. A disk that hangs, or that
    /// is looked at rarely, does not keep the log from being looked at.
    pub(crate) fn watch(self, log: Option<BoundedLog>) -> impl Future<Output = ()> + Send {
        let (every, space) = (Duration::from_millis(self.config.watch_ms), self.space());
        log.iter().for_each(|log| log.look(&space));
        let of_log = async move {
            let Some(log) = log else { return };
            loop {
                tokio::time::sleep(every.min(WATCH_LOG)).await;
                log.look(&space);
            }
        };
        async move {
            tokio::join!(self.watch_disk(every), of_log);
        }
    }

    async fn watch_disk(self, every: Duration) {
        let disk = Arc::new(self);
        loop {
            tokio::time::sleep(every).await;
            let looking = Arc::clone(&disk);
            // A disk that hangs must not hold up a thread that serves.
            match tokio::task::spawn_blocking(move || looking.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "it is not known how full the disk is; it is looked at again"),
                Err(error) => tracing::error!(%error, "the disk was not looked at; it is looked at again"),
            }
        }
    }

    /// Looks, acts, and says.
    fn look(&self) -> io::Result<()> {
        let free_bytes = free_bytes(&self.folder)?;
        let held_bytes: u64 = self.reserves.iter().map(Reserve::held_bytes).sum();
        let missing_bytes = self.reserves.iter().map(|reserve| reserve.bytes()).sum::<u64>().saturating_sub(held_bytes);
        let level = self.config.marks().level(self.space.of_disk(), free_bytes.saturating_sub(missing_bytes));
        let [for_ends, _] = &self.reserves;
        if level == Level::Least {
            for_ends.give_up();
        } else if missing_bytes > 0 && free_bytes / 2 >= missing_bytes {
            // Only where it is not the last room that is taken: what is written meanwhile must not meet the end of the disk.
            self.reserves.iter().for_each(Reserve::hold);
        }
        ::metrics::gauge!(metrics::FREE_BYTES).set(free_bytes as f64);
        let held_bytes: u64 = self.reserves.iter().map(Reserve::held_bytes).sum();
        ::metrics::gauge!(metrics::RESERVE_BYTES).set(held_bytes as f64);
        let is_new = self.space.set(level);
        ::metrics::gauge!(metrics::LEVEL).set(f64::from(self.space.level() as u8));
        if is_new {
            match level {
                Level::Plenty => tracing::info!(free_bytes, "the disk has room again"),
                Level::Low => tracing::warn!(
                    free_bytes,
                    low_bytes = self.config.low_bytes,
                    "the disk is nearly full: no modules are taken and no executions begun until there is more room"
                ),
                Level::Least => tracing::error!(
                    free_bytes,
                    least_bytes = self.config.least_bytes,
                    "the disk is full: only what ends something is written until there is more room"
                ),
            }
        }
        Ok(())
    }
}

/// What is free for a user who is not root.
///
/// # Errors
/// When the system does not say.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let found = statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARKS: Marks = Marks { low_bytes: 800, least_bytes: 80 };

    #[test]
    fn a_level_is_left_upwards_with_more_room_than_it_was_entered_with() {
        let mut level = Level::Plenty;
        let mut at = |room_bytes| {
            level = MARKS.level(level, room_bytes);
            level
        };
        assert_eq!([at(800), at(799), at(800), at(899), at(900)], {
            use Level::*;
            [Plenty, Low, Low, Low, Plenty]
        });
        assert_eq!([at(79), at(80), at(89), at(90), at(0), at(900)], {
            use Level::*;
            [Least, Least, Least, Low, Least, Plenty]
        });
    }

    #[test]
    fn a_bound_of_zero_is_never_met() {
        let marks = Marks { low_bytes: 0, least_bytes: 0 };
        assert_eq!([Level::Plenty, Level::Low, Level::Least].map(|before| marks.level(before, 0)), [Level::Plenty; 3]);
    }

    proptest! {
        #[test]
        fn more_room_is_never_a_lower_level(before in 0_u8..3, room in 0_u64..1_000, more in 0_u64..1_000) {
            let before = [Level::Plenty, Level::Low, Level::Least][usize::from(before)];
            prop_assert!(MARKS.level(before, room + more) <= MARKS.level(before, room));
            // Looking twice is looking once.
            let level = MARKS.level(before, room);
            prop_assert_eq!(MARKS.level(level, room), level);
        }
    }

    #[test]
    fn marks_in_the_wrong_order_are_refused() {
        assert_eq!(DiskConfig::default().check(), Ok(()));
        let wrong = DiskConfig { low_bytes: 5, least_bytes: 5, ..DiskConfig::default() };
        assert_eq!(wrong.check().unwrap_err().0, "least_bytes");
        let held_for_ever = DiskConfig { low_bytes: 5, least_bytes: 0, ..DiskConfig::default() };
        assert_eq!(held_for_ever.check().unwrap_err().0, "reserve_bytes");
        let off = DiskConfig { low_bytes: 0, least_bytes: 0, reserve_bytes: 0, ..DiskConfig::default() };
        assert_eq!(off.check(), Ok(()));
        assert_eq!(DiskConfig { watch_ms: 0, ..DiskConfig::default() }.check().unwrap_err().0, "watch_ms");
    }

    #[test]
    fn a_disk_with_less_room_than_the_least_gives_its_reserves_up_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = || RESERVES.map(|name| std::fs::metadata(folder.path().join(name)).map_or(0, |file| file.len()));
        let free = free_bytes(folder.path()).unwrap();
        let roomy = DiskConfig { low_bytes: 2, least_bytes: 1, reserve_bytes: 2 << 20, watch_ms: 250 };
        // The same disk, and marks that it cannot meet.
        let full = DiskConfig { low_bytes: free * 4, least_bytes: free * 2, ..roomy };

        let disk = Disk::open(folder.path(), roomy).unwrap();
        assert_eq!((disk.space().level(), sizes()), (Level::Plenty, [1 << 20; 2]));

        // While it runs, and when it starts.
        let disk = Disk { config: full, ..disk };
        disk.look().unwrap();
        assert_eq!((disk.space().level(), sizes()), (Level::Least, [0, 1 << 20]));
        let disk = Disk::open(folder.path(), full).unwrap();
        assert_eq!((disk.space().level(), sizes()), (Level::Least, [0; 2]));

        let disk = Disk::open(folder.path(), roomy).unwrap();
        assert_eq!((disk.space().level(), sizes()), (Level::Plenty, [1 << 20; 2]));
    }
}
