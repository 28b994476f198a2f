//! The clock of leases: it only goes forward, by nobody's hand, also while the machine is suspended.

use std::{fmt, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// A moment of this machine since its start. Moments of two machines do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(Duration);

impl Mono {
    /// The moment this long after the machine's start.
    pub const fn since_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// This moment and `more`.
    #[must_use]
    pub const fn plus(self, more: Duration) -> Self {
        Self(self.0.saturating_add(more))
    }

    /// How long from `earlier` to this moment; nothing if that is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}

/// Reads the clock. `CLOCK_BOOTTIME`: the monotonic clock of the standard library stands still while a machine sleeps, and
/// a lease does not.
pub fn now() -> Mono {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Mono(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_as_the_monotonic_clock_does() {
        let (before, after) = (now(), now());
        assert!(before <= after && before > Mono::default());
        assert_eq!(before.since(after.plus(Duration::from_secs(1))), Duration::ZERO);
    }
}
