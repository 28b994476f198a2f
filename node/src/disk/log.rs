//! The bound of a log on this machine, `log.sqlite.max_bytes`, and what is done as the log comes near it.
//!
//! ```text
//! nine tenths ≤ used            it is said
//!       bound < used            no modules, no executions that have not begun
//! bound + half the rest < used  only what ends something is written
//! bound + the rest              the log itself takes no more, which ends the node
//! ```
//! The rest is beyond the bound, so that what was accepted before it ends.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use wasmwiz_actors::disk_space::{DiskSpace, Level};
use wasmwiz_events::log::sqlite::SqliteLog;

use super::{Marks, metrics};

/// The rest is a sixteenth of the bound, and at least this, in bytes: ends of as many executions as a node runs at a time, whose outputs ride
/// with them.
const REST_MIN_BYTES: u64 = 64 << 20;

/// A bound of a log, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogBound(u64);

impl LogBound {
    pub(crate) const fn new(max_bytes: u64) -> Self {
        Self(max_bytes)
    }

    /// Where a log whose database takes so many bytes already takes no more: one that is at its end, as its bound was lowered or it was
    /// written full, has a little room for ends, too.
    pub(crate) fn last_bytes(self, database_bytes: u64) -> u64 {
        let last_bytes = self.0.saturating_add(self.rest_bytes());
        last_bytes.max(database_bytes.saturating_add(REST_MIN_BYTES / 2))
    }

    fn rest_bytes(self) -> u64 {
        (self.0 / 16).max(REST_MIN_BYTES)
    }

    fn level(self, before: Level, used_bytes: u64) -> Level {
        let rest_bytes = self.rest_bytes();
        let room_bytes = self.0.saturating_add(rest_bytes).saturating_sub(used_bytes);
        Marks { low_bytes: rest_bytes, least_bytes: rest_bytes / 2 }.level(before, room_bytes)
    }

    const fn is_near(self, used_bytes: u64) -> bool {
        used_bytes >= self.0 / 10 * 9
    }
}

/// A log that has a bound. It is not kept open by who looks at it.
pub(crate) struct BoundedLog {
    log: Weak<SqliteLog>,
    bound: LogBound,
    /// It was said that the bound is near.
    is_told: AtomicBool,
}

impl BoundedLog {
    pub(crate) fn new(log: &Arc<SqliteLog>, bound: LogBound) -> Self {
        Self { log: Arc::downgrade(log), bound, is_told: AtomicBool::new(false) }
    }

    /// Looks how much of it is used, and says so. Takes no more than a look.
    pub(super) fn look(&self, space: &DiskSpace) {
        let Some(log) = self.log.upgrade() else { return };
        let (used_bytes, LogBound(max_bytes)) = (log.used_bytes(), self.bound);
        ::metrics::gauge!(metrics::LOG_USED_BYTES).set(used_bytes as f64);
        ::metrics::gauge!(metrics::LOG_MAX_BYTES).set(max_bytes as f64);
        let level = self.bound.level(space.of_log(), used_bytes);
        let is_new = space.set_of_log(level);
        ::metrics::gauge!(metrics::LEVEL).set(f64::from(space.level() as u8));
        if is_new {
            match level {
                Level::Plenty => tracing::info!(used_bytes, max_bytes, "the log is below its bound again"),
                Level::Low => tracing::warn!(
                    used_bytes,
                    max_bytes,
                    "the log has reached log.sqlite.max_bytes: no modules are taken and no executions begun until it is raised"
                ),
                Level::Least => tracing::error!(
                    used_bytes,
                    max_bytes,
                    "the log is far beyond log.sqlite.max_bytes: only what ends something is written until it is raised"
                ),
            }
        } else if level == Level::Plenty
            && self.bound.is_near(used_bytes)
            && !self.is_told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                used_bytes,
                max_bytes,
                "the log has used nine tenths of log.sqlite.max_bytes; raise it in time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wasmwiz_events::log::sqlite::SqliteLogConfig;

    use super::{
        super::{Disk, DiskConfig},
        *,
    };

    const GIB: u64 = 1 << 30;

    #[test]
    fn everything_is_taken_up_to_the_bound_and_ends_beyond_it() {
        let bound = LogBound::new(64 * GIB);
        let level = |used_bytes| bound.level(Level::Plenty, used_bytes);
        assert_eq!([0, 64 * GIB].map(level), [Level::Plenty; 2]);
        assert_eq!([64 * GIB + 1, 66 * GIB].map(level), [Level::Low; 2]);
        assert_eq!([66 * GIB + 1, 68 * GIB, u64::MAX].map(level), [Level::Least; 3]);
        assert_eq!([0, 64 * GIB, 67 * GIB].map(|held| bound.last_bytes(held)), [68 * GIB; 3]);
        assert_eq!([bound.is_near(57 * GIB), bound.is_near(58 * GIB)], [false, true]);
    }

    #[test]
    fn a_small_bound_and_one_that_is_below_what_there_is_leave_room_for_ends() {
        let bound = LogBound::new(1 << 20);
        assert_eq!(bound.last_bytes(0), 65 << 20);
        assert_eq!(bound.last_bytes(1 << 30), (1 << 30) + (32 << 20));
        assert_eq!(bound.level(Level::Plenty, 1 << 30), Level::Least);
        assert_eq!(LogBound::new(u64::MAX).last_bytes(0), u64::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_looked_at_before_anything_is_taken_in_and_however_rarely_the_disk_is() {
        // Given a log over its bound, and a disk that is looked at once a minute.
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(SqliteLog::open(&folder.path().join("log"), SqliteLogConfig::default()).unwrap());
        let config = DiskConfig { reserve_bytes: 0, watch_ms: 60_000, ..DiskConfig::default() };
        let disk = Disk::open(folder.path(), config).unwrap();
        let space = disk.space();
        assert_eq!(space.of_log(), Level::Plenty);
        // When it is going to be watched, then it is known.
        let watch = disk.watch(Some(BoundedLog::new(&log, LogBound::new(1))));
        assert_eq!(space.of_log(), Level::Low);
        // When it was otherwise for a moment, then that is known soon.
        space.set_of_log(Level::Plenty);
        assert!(tokio::time::timeout(Duration::from_secs(1), watch).await.is_err());
        assert_eq!(space.of_log(), Level::Low);
    }
}
