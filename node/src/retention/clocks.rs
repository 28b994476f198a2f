//! Whether the wall clock is to be believed: what it says is what tenants release by, and that is for good.

use wasmwiz_events::time::Moment;

/// How much further than the steady clock the wall's may go between two looks at both, in milliseconds: more than the network corrects,
/// and little beside the days for which something is kept.
const AHEAD_MAX_MS: u64 = 3_600_000;

/// Has the wall clock gone on with the time that has passed? Where it went back, nothing is released too early.
const fn clock_is_believed(wall_passed_ms: u64, steady_passed_ms: u64) -> bool {
    wall_passed_ms.saturating_sub(steady_passed_ms) <= AHEAD_MAX_MS
}

/// What both clocks said when they were last looked at.
#[derive(Debug)]
pub(super) struct Clocks {
    last: Moment,
}

impl Clocks {
    pub(super) const fn new(now: Moment) -> Self {
        Self { last: now }
    }

    /// Is what the wall clock says to be believed now? The next look goes by what it says, whatever that is: a clock that was set right
    /// counts from then on.
    pub(super) const fn are_believed(&mut self, now: Moment) -> bool {
        let Moment { wall, steady } = self.last;
        self.last = now;
        clock_is_believed(now.wall.ms_since(wall), now.steady.ms_since(steady))
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::time::{Clock as _, ManualClock, Timestamp};

    use super::*;

    const SWEEP_MS: u64 = 6 * AHEAD_MAX_MS;

    #[test]
    fn a_wall_clock_that_went_ahead_by_more_than_an_hour_is_not_believed() {
        assert!(clock_is_believed(SWEEP_MS, SWEEP_MS));
        assert!(clock_is_believed(SWEEP_MS + AHEAD_MAX_MS, SWEEP_MS));
        assert!(!clock_is_believed(SWEEP_MS + AHEAD_MAX_MS + 1, SWEEP_MS));
        assert!(!clock_is_believed(u64::MAX, 0));
        // It went back, or stood.
        assert!(clock_is_believed(0, SWEEP_MS));
    }

    #[test]
    fn what_a_clock_says_that_went_ahead_counts_one_look_later_and_not_at_all_if_it_is_set_back_before() {
        let clock = ManualClock::at(Timestamp::from_unix_ms(1_795_466_491_250));
        let mut clocks = Clocks::new(clock.moment());
        let mut after_a_sweep = |step_ms| {
            clock.advance_ms(SWEEP_MS);
            clock.step_wall_ms(step_ms);
            clocks.are_believed(clock.moment())
        };
        let year_ms = 366 * 86_400_000;
        assert!(after_a_sweep(0));
        assert_eq!([after_a_sweep(year_ms), after_a_sweep(0)], [false, true]);
        assert_eq!([after_a_sweep(year_ms), after_a_sweep(-year_ms)], [false, true]);
    }
}
