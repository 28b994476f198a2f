//! What the clocks of a node say at a moment of the simulation.

use std::{cell::Cell, time::Duration};

use wasmwiz_events::time::Timestamp;
use wasmwiz_node::cluster::clock::Mono;

use crate::chance::Chance;

/// When the simulation begins, by a wall clock that is right: the year 2027.
pub(super) const BEGINNING: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// The most that a wall clock is ahead or behind, in milliseconds.
pub(super) const WRONG_MS: u64 = 3_600_000;

/// How fast a steady clock runs, in thousandths of what is right. Two of them differ by less than the margin of a lease makes up
/// for: 107 / 93 is less than 3,000 / 2,500.
const RATES: std::ops::Range<u64> = 930..1_071;

/// The clocks of one machine.
pub(super) struct Clocks {
    /// What the steady one shows when the simulation begins, in microseconds.
    offset_us: u64,
    /// In thousandths: as many microseconds a millisecond.
    rate: u64,
    /// By how much the wall clock is ahead, in milliseconds.
    ahead_ms: Cell<i64>,
}

impl Clocks {
    /// Some clocks. The wall clock is right unless it may be wrong.
    pub(super) fn drawn(chance: &mut Chance, may_be_wrong: bool) -> Self {
        let (offset_us, rate) = (chance.within(0..1_000_000_000), chance.within(RATES));
        let ahead_ms = if may_be_wrong { drawn_jump(chance) } else { 0 };
        Self { offset_us, rate, ahead_ms: Cell::new(ahead_ms) }
    }

    /// The steady clock `at` milliseconds after the beginning.
    pub(super) const fn steady(&self, at: u64) -> Mono {
        Mono::since_start(Duration::from_micros(self.offset_us + at * self.rate))
    }

    /// The first millisecond at which the steady clock has reached this.
    pub(super) fn when(&self, moment: Mono) -> u64 {
        let shown = moment.since(Mono::default()).as_micros();
        u64::try_from(shown).unwrap_or(u64::MAX).saturating_sub(self.offset_us).div_ceil(self.rate)
    }

    /// The wall clock.
    pub(super) fn wall(&self, at: u64) -> Timestamp {
        Timestamp::from_unix_ms(BEGINNING.unix_ms() + self.ahead_ms.get()).plus_ms(at)
    }

    /// The wall clock, for who takes it for a steady one.
    pub(super) fn wall_as_steady(&self, at: u64) -> Mono {
        let a_day_before = Timestamp::from_unix_ms(BEGINNING.unix_ms() - 86_400_000);
        Mono::since_start(Duration::from_millis(self.wall(at).ms_since(a_day_before)))
    }

    /// Somebody sets the wall clock.
    pub(super) fn jump(&self, by_ms: i64) {
        self.ahead_ms.set(self.ahead_ms.get() + by_ms);
    }
}

/// By how much a wall clock is set, forward or back.
pub(super) fn drawn_jump(chance: &mut Chance) -> i64 {
    let size = i64::try_from(chance.within(1..WRONG_MS)).unwrap_or_default();
    if chance.within(0..2) == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_millisecond_at_which_a_moment_has_come_is_found() {
        let mut chance = Chance::new(7);
        for _ in 0..1_000 {
            let clocks = Clocks::drawn(&mut chance, true);
            let moment = clocks.steady(0).plus(Duration::from_micros(chance.within(1..10_000_000)));
            let at = clocks.when(moment);
            assert!(clocks.steady(at) >= moment && clocks.steady(at - 1) < moment);
        }
    }

    #[test]
    fn the_wall_clock_jumps_and_the_steady_one_does_not() {
        let clocks = Clocks::drawn(&mut Chance::new(7), false);
        let (steady, wall) = (clocks.steady(5), clocks.wall(5));
        clocks.jump(-3_000);
        assert_eq!(clocks.steady(5), steady);
        assert_eq!(wall.ms_since(clocks.wall(5)), 3_000);
        assert!(clocks.wall_as_steady(5) < clocks.wall_as_steady(3_006));
    }
}
