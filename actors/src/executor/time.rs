//! Virtual time: what a guest sees of clocks.
//!
//! ```text
//! accepted at 20:41:31.000        reading   reading      sleep of 5 ms       reading
//! wall clock                     .000001   .000002  ─────────────────────►  .005003
//! monotonic clock                  1 µs      2 µs                            5003 µs
//! ```
//! A guest's clocks start at the moment at which its execution was accepted, and go on by rule: with each reading by
//! [`READING_NS`], and by as long as the guest sleeps. Nothing else moves them, so that a run from the record reads the same,
//! and no guest can time its neighbours or itself. It still sleeps in the host's time as well, up to its deadline, unless its version
//! says otherwise or it is run again only to be compared. Those who want the host's clocks get [others](super::clocks).
//!
//! A guest that waits by reading the clock again and again waits a million readings for each second: about as long as
//! it meant to. Why not by the instructions it has executed: see ADR 050.

use wasmtime::{Caller, Linker};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};
use wasmwiz_events::time::Timestamp;

use super::{engine::IMPORT_MODULE, memory, run::Guest};

/// How far each reading moves the clocks, in nanoseconds. It is their resolution, too.
pub(crate) const READING_NS: u64 = 1_000;

/// Numbers of WASI preview 1 for what went wrong.
pub(crate) mod errno {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const BADF: i32 = 8;
    pub(crate) const INVAL: i32 = 28;
    pub(crate) const NOMEM: i32 = 48;
}

/// The clocks that WASI preview 1 knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockId {
    /// The time of day.
    Wall,
    /// How long it runs.
    Monotonic,
}

impl ClockId {
    /// The clock of this number.
    ///
    /// # Errors
    /// What is answered instead: nobody counts a guest's processor time for it, and there are no more clocks.
    pub(crate) const fn of(number: u32) -> Result<Self, i32> {
        match number {
            0 => Ok(Self::Wall),
            1 => Ok(Self::Monotonic),
            2 | 3 => Err(errno::BADF),
            _ => Err(errno::INVAL),
        }
    }
}

/// What one reading says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// What the wall clock showed when the monotonic one was at 0, as far as can be told now.
    start_ns: u64,
    elapsed_ns: u64,
}

impl Shown {
    pub(crate) const fn new(start_ns: u64, elapsed_ns: u64) -> Self {
        Self { start_ns, elapsed_ns }
    }

    /// How long the guest runs, in nanoseconds.
    pub(crate) const fn elapsed_ns(self) -> u64 {
        self.elapsed_ns
    }

    /// What one of the clocks shows.
    pub(crate) const fn on(self, clock: ClockId) -> u64 {
        match clock {
            ClockId::Wall => self.start_ns.saturating_add(self.elapsed_ns),
            ClockId::Monotonic => self.elapsed_ns,
        }
    }

    /// How long the guest will have run when one of its clocks shows this.
    pub(crate) const fn when(self, clock: ClockId, shows_ns: u64) -> u64 {
        match clock {
            ClockId::Wall => shows_ns.saturating_sub(self.start_ns),
            ClockId::Monotonic => shows_ns,
        }
    }
}

/// The time of one guest, by rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VirtualTime {
    /// Nanoseconds from 1970 to where the clocks start; at most some five centuries, which is all that a guest can be told.
    start_ns: u64,
    /// Nanoseconds since then.
    elapsed_ns: u64,
    was_read: bool,
}

impl VirtualTime {
    /// Clocks that start at this moment.
    pub(crate) fn starting_at(start: Timestamp) -> Self {
        let start_ms = u64::try_from(start.unix_ms()).unwrap_or_default();
        Self { start_ns: start_ms.saturating_mul(1_000_000), elapsed_ns: 0, was_read: false }
    }

    /// One reading.
    pub(crate) const fn read(&mut self) -> Shown {
        self.was_read = true;
        self.elapsed_ns = self.elapsed_ns.saturating_add(READING_NS);
        Shown::new(self.start_ns, self.elapsed_ns)
    }

    /// The guest has slept until it had run for so long.
    pub(crate) fn slept_until(&mut self, elapsed_ns: u64) {
        self.elapsed_ns = self.elapsed_ns.max(elapsed_ns);
    }

    /// Has the guest looked at a clock?
    pub(crate) const fn was_read(&self) -> bool {
        self.was_read
    }
}

/// Stands in for the host's clocks wherever the library would reach for one: no host time gets to a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoClock;

impl HostWallClock for NoClock {
    fn resolution(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(READING_NS)
    }

    fn now(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

impl HostMonotonicClock for NoClock {
    fn resolution(&self) -> u64 {
        READING_NS
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Replaces what reads clocks.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    fn answer(mut caller: Caller<'_, Guest>, at: i32, number: u64) -> wasmtime::Result<i32> {
        let memory = memory::of(&mut caller)?;
        let place = memory::range(memory.data_size(&caller), at, size_of_val(&number))?;
        memory::write(memory.data_mut(&mut caller), place.start, &number.to_le_bytes())?;
        Ok(errno::SUCCESS)
    }
    linker.func_wrap(
        IMPORT_MODULE,
        "clock_res_get",
        |caller: Caller<'_, Guest>, clock: i32, at: i32| match ClockId::of(clock.cast_unsigned()) {
            Ok(_) => answer(caller, at, READING_NS),
            Err(errno) => Ok(errno),
        },
    )?;
    linker.func_wrap(
        IMPORT_MODULE,
        "clock_time_get",
        |mut caller: Caller<'_, Guest>, clock: i32, _precision: i64, at: i32| {
            let clock = match ClockId::of(clock.cast_unsigned()) {
                Ok(clock) => clock,
                Err(errno) => return Ok(errno),
            };
            let now = caller.data_mut().time.read()?;
            answer(caller, at, now.on(clock))
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_795_953_600_000;

    #[test]
    fn clocks_start_at_the_acceptance_and_move_with_each_reading_and_each_sleep() {
        let mut time = VirtualTime::starting_at(Timestamp::from_unix_ms(NOON));
        let noon_ns = NOON.cast_unsigned() * 1_000_000;
        assert!(!time.was_read());
        assert_eq!(time.read().on(ClockId::Wall), noon_ns + READING_NS);
        let now = time.read();
        assert_eq!(now.on(ClockId::Monotonic), 2 * READING_NS);
        assert!(time.was_read());
        time.slept_until(now.when(ClockId::Wall, noon_ns + 5_000_000));
        assert_eq!(time.read().on(ClockId::Monotonic), 5_000_000 + READING_NS);
        time.slept_until(7);
        assert_eq!(time.read().on(ClockId::Monotonic), 5_000_000 + 2 * READING_NS, "time never goes back");
    }

    #[test]
    fn the_ends_of_time_are_not_passed() {
        for start in [Timestamp::EARLIEST, Timestamp::LATEST, Timestamp::from_unix_ms(i64::MAX)] {
            let mut time = VirtualTime::starting_at(start);
            time.slept_until(u64::MAX);
            let now = time.read();
            assert_eq!((now.on(ClockId::Wall), now.on(ClockId::Monotonic)), (u64::MAX, u64::MAX));
        }
        assert_eq!(VirtualTime::starting_at(Timestamp::EARLIEST).read().when(ClockId::Wall, 9), 9);
    }
}
