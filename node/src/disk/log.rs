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

    /// Where a log that has so many bytes already takes no more: a bound that was lowered leaves room for ends, too.
    pub(crate) fn last_bytes(self, held_bytes: u64) -> u64 {
        self.0.max(held_bytes).saturating_add(self.rest_bytes())
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
        if space.set_of_log(level) {
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
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn everything_is_taken_up_to_the_bound_and_ends_beyond_it() {
        let bound = LogBound::new(64 * GIB);
        let level = |used_bytes| bound.level(Level::Plenty, used_bytes);
        assert_eq!([0, 64 * GIB].map(level), [Level::Plenty; 2]);
        assert_eq!([64 * GIB + 1, 66 * GIB].map(level), [Level::Low; 2]);
        assert_eq!([66 * GIB + 1, 68 * GIB, u64::MAX].map(level), [Level::Least; 3]);
        assert_eq!(bound.last_bytes(0), 68 * GIB);
        assert_eq!([bound.is_near(57 * GIB), bound.is_near(58 * GIB)], [false, true]);
    }

    #[test]
    fn a_small_bound_and_one_that_is_below_what_there_is_leave_room_for_ends() {
        let bound = LogBound::new(1 << 20);
        assert_eq!(bound.last_bytes(0), 65 << 20);
        assert_eq!(bound.last_bytes(1 << 30), (1 << 30) + (64 << 20));
        assert_eq!(bound.level(Level::Plenty, 1 << 30), Level::Least);
        assert_eq!(LogBound::new(u64::MAX).last_bytes(0), u64::MAX);
    }
}
