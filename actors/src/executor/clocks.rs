//! Which clocks a guest reads, and what is kept of what they said.
//!
//! | | shows | after a sleep | kept |
//! |---|---|---|---|
//! | its own | the time by rule ([`time`](super::time)) | as much later as it asked for | nothing: the rule is all |
//! | the host's | the host's time, to the microsecond; the monotonic one from the guest's begin | whatever the host shows | each reading |
//! | recorded ones | what was kept of an earlier run, in its order | the same | – |
//!
//! What is kept is counted in the node's memory, and bounded, as what the guest writes is. A guest that reads more often goes on, nothing
//! more is kept and what was goes at once; its record says that it cannot be run again. One that is run again and reads more often than its
//! record has it is another guest: it ends there, and that it asked is remembered, whatever else is made of its end.

use std::sync::Arc;

use bytes::Bytes;
use rustix::time::{ClockId as HostClock, clock_gettime};
use wasmwiz_events::{
    settings::{Clock, Sleep},
    transcript::{self, READING_BYTES, Reading},
};

use super::{
    Job,
    budget::Account,
    run::HostCallError,
    sink::Sink,
    time::{READING_NS, Shown, VirtualTime},
};

/// Where the clocks of a guest come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clocks {
    /// Its own, which begin at its start time.
    Virtual,
    /// The host's.
    Host,
    /// The host's, as an earlier run has read them: its [transcript](wasmwiz_events::transcript).
    Recorded(Bytes),
}

impl From<Clock> for Clocks {
    fn from(clock: Clock) -> Self {
        match clock {
            Clock::Virtual => Self::Virtual,
            Clock::Host => Self::Host,
        }
    }
}

impl From<Reading> for Shown {
    fn from(reading: Reading) -> Self {
        Self::new(reading.wall_ns.saturating_sub(reading.elapsed_ns), reading.elapsed_ns)
    }
}

/// The time of one guest.
#[derive(Debug)]
pub(crate) struct GuestTime {
    source: Source,
    skips_sleep: bool,
}

#[derive(Debug)]
enum Source {
    Virtual(VirtualTime),
    Host { began_ns: u64, kept: Kept },
    Recorded { transcript: Bytes, read: usize, asked_for_more: bool },
}

/// What is kept of the readings of a guest.
#[derive(Debug)]
enum Kept {
    /// All of them.
    All(Sink),
    /// None: there was no room for one, and without that the others are of no use.
    Nothing(Unkept),
}

/// Why nothing is kept of what a guest was told by the host's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unkept {
    /// It asked more often than is kept of one guest.
    TooMany,
    /// The node's guests held all the memory that there is for them.
    NoMemory,
}

impl Kept {
    fn keep(&mut self, reading: Reading) {
        let Self::All(sink) = self else { return };
        sink.keep(&reading.to_bytes());
        if sink.is_truncated() {
            let why = if sink.cut().is_some() { Unkept::NoMemory } else { Unkept::TooMany };
            *self = Self::Nothing(why);
        }
    }
}

/// What a guest was told of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing: it never asked.
    Nothing,
    /// What follows from its start time.
    ByRule,
    /// This, by the host's clocks.
    ByHost(Bytes),
    /// Something by the host's clocks, of which nothing is kept.
    Unkept(Unkept),
}

impl GuestTime {
    /// The clocks that a job asks for.
    pub(crate) fn of(job: &Job, account: &Arc<Account>) -> Self {
        let source = match &job.clocks {
            Clocks::Virtual => Source::Virtual(VirtualTime::starting_at(job.start_time)),
            Clocks::Host => Source::Host {
                began_ns: host_ns(HostClock::Monotonic),
                kept: Kept::All(Sink::new(transcript::max_bytes(job.limits.stdout_bytes), account)),
            },
            Clocks::Recorded(transcript) => {
                Source::Recorded { transcript: transcript.clone(), read: 0, asked_for_more: false }
            }
        };
        Self { source, skips_sleep: job.sleep == Sleep::Skip }
    }

    /// Virtual time, of a guest that waits where it sleeps.
    pub(crate) const fn by_rule(time: VirtualTime) -> Self {
        Self { source: Source::Virtual(time), skips_sleep: false }
    }

    /// Is it not made to wait?
    pub(crate) const fn skips_sleep(&self) -> bool {
        self.skips_sleep
    }

    /// One reading.
    ///
    /// # Errors
    /// When the recorded ones are used up.
    pub(crate) fn read(&mut self) -> Result<Shown, HostCallError> {
        match &mut self.source {
            Source::Virtual(time) => Ok(time.read()),
            Source::Host { began_ns, kept } => {
                let reading = Reading {
                    wall_ns: whole_microseconds(host_ns(HostClock::Realtime)),
                    elapsed_ns: whole_microseconds(host_ns(HostClock::Monotonic).saturating_sub(*began_ns)),
                };
                kept.keep(reading);
                Ok(reading.into())
            }
            Source::Recorded { transcript, read, asked_for_more } => {
                let Some(reading) = Reading::of(transcript, *read) else {
                    *asked_for_more = true;
                    return Err(HostCallError::NoReading);
                };
                *read += 1;
                Ok(reading.into())
            }
        }
    }

    /// The guest has slept until it had run for so long. The host's clocks know by themselves.
    pub(crate) fn slept_until(&mut self, elapsed_ns: u64) {
        match &mut self.source {
            Source::Virtual(time) => time.slept_until(elapsed_ns),
            Source::Host { .. } | Source::Recorded { .. } => {}
        }
    }

    /// What it was told until its end.
    pub(crate) fn told(&self) -> Told {
        match &self.source {
            Source::Virtual(time) if time.was_read() => Told::ByRule,
            Source::Virtual(_) => Told::Nothing,
            Source::Host { kept: Kept::All(kept), .. } => by_host(kept.take().bytes),
            Source::Host { kept: Kept::Nothing(why), .. } => Told::Unkept(*why),
            Source::Recorded { transcript, read, .. } => {
                by_host(transcript.slice(..read.saturating_mul(READING_BYTES).min(transcript.len())))
            }
        }
    }

    /// Was it run again, and did it ask for more readings than its record has?
    pub(crate) const fn asked_for_more(&self) -> bool {
        matches!(self.source, Source::Recorded { asked_for_more: true, .. })
    }
}

fn by_host(transcript: Bytes) -> Told {
    if transcript.is_empty() { Told::Nothing } else { Told::ByHost(transcript) }
}

/// What a clock of the host shows, in nanoseconds. Before 1970 it is 1970.
fn host_ns(clock: HostClock) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// No finer than the resolution that guests are told.
const fn whole_microseconds(ns: u64) -> u64 {
    ns - ns % READING_NS
}

#[cfg(test)]
mod tests {
    use super::{
        super::{budget::MemoryBudget, time::ClockId},
        *,
    };

    fn host(budget: &Arc<MemoryBudget>, limit_bytes: u64) -> GuestTime {
        let kept = Kept::All(Sink::new(limit_bytes, &budget.account(None)));
        let began_ns = host_ns(HostClock::Monotonic);
        GuestTime { source: Source::Host { began_ns, kept }, skips_sleep: false }
    }

    fn recorded(transcript: Bytes) -> GuestTime {
        GuestTime { source: Source::Recorded { transcript, read: 0, asked_for_more: false }, skips_sleep: true }
    }

    #[test]
    fn what_the_host_showed_is_shown_again_to_the_last_reading_and_no_further() {
        let mut time = host(&MemoryBudget::new(1 << 20), 1 << 20);
        assert_eq!(time.told(), Told::Nothing);
        let first: Vec<_> = (0..5).map(|_| time.read().unwrap()).collect();
        for shown in &first {
            assert_eq!((shown.on(ClockId::Wall) % READING_NS, shown.on(ClockId::Monotonic) % READING_NS), (0, 0));
            assert!(shown.on(ClockId::Monotonic) < 60_000_000_000, "from the guest's begin: {shown:?}");
            // 2020: it is the host's date, and not the guest's own.
            assert!(shown.on(ClockId::Wall) > 1_577_836_800_000_000_000, "{shown:?}");
        }
        assert!(first.is_sorted_by_key(|shown| shown.elapsed_ns()));
        let Told::ByHost(kept) = time.told() else { panic!("nothing was kept") };
        assert_eq!(kept.len(), 5 * READING_BYTES);
        let mut again = recorded(kept.clone());
        assert_eq!(again.told(), Told::Nothing);
        let second: Vec<_> = (0..5).map(|_| again.read().unwrap()).collect();
        assert_eq!((second, again.told()), (first, Told::ByHost(kept.clone())));
        assert!(!again.asked_for_more());
        assert_eq!(again.read(), Err(HostCallError::NoReading));
        assert!(again.asked_for_more());
        assert_eq!(again.told(), Told::ByHost(kept.clone()), "what it was told is what there was");
        let mut fewer = recorded(kept.clone());
        fewer.read().unwrap();
        assert_eq!(fewer.told(), Told::ByHost(kept.slice(..READING_BYTES)));
    }

    #[test]
    fn of_readings_without_room_nothing_is_kept_from_then_on_and_why_is_known() {
        let room = || MemoryBudget::new(1 << 20);
        for (budget, limit_bytes, why) in [
            (room(), 2 * READING_BYTES as u64, Unkept::TooMany),
            // No whole number of readings: what is left is room for none.
            (room(), 2 * READING_BYTES as u64 + 7, Unkept::TooMany),
            (MemoryBudget::new(0), 1 << 20, Unkept::NoMemory),
        ] {
            let mut time = host(&budget, limit_bytes);
            for _ in 0..3 {
                time.read().unwrap();
            }
            assert_eq!(budget.state().0, 0, "{why:?}: what was kept goes when it is of no use, not with the guest");
            time.read().unwrap();
            assert_eq!((time.told(), budget.state().0), (Told::Unkept(why), 0));
        }
        let mut enough = host(&room(), 2 * READING_BYTES as u64);
        for _ in 0..2 {
            enough.read().unwrap();
        }
        assert!(matches!(enough.told(), Told::ByHost(_)));
    }

    #[test]
    fn an_end_by_the_wall_clock_is_one_by_how_long_the_guest_runs() {
        let now = Shown::from(Reading { wall_ns: 1_000_000, elapsed_ns: 5_000 });
        assert_eq!((now.on(ClockId::Wall), now.on(ClockId::Monotonic)), (1_000_000, 5_000));
        assert_eq!(now.when(ClockId::Wall, 1_002_000), 7_000);
        assert_eq!((now.when(ClockId::Wall, 0), now.when(ClockId::Monotonic, 9_000)), (0, 9_000));
    }
}
