//! How a node is told to stop, and how long it may take.
//!
//! ```text
//! signal ─ announce ─┬─ guests end by themselves ─┬─ the others are ended, ─┬─ entities, feed, ─┬─ log ─ within_ms
//!                    │                            │  and that is recorded   │  views            │
//!              listener closed             guests_until             (member: shards handed over)
//! ```
//! One budget bounds all of it, [`ShutdownConfig::within_ms`]: whoever stops a node kills it when that is over (Kubernetes
//! after 30 seconds), and then nothing more is recorded. What is left when it is over is cut off by a thread that waits for
//! nothing else. A second signal ends the process at once.

use std::{process, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

use crate::{config::ShutdownConfig, telemetry};

/// The exit code of a stop that was cut off at the end of its time: `EX_TEMPFAIL` of BSD's sysexits.
pub const EXIT_CUT_OFF: i32 = 75;

/// The most that is kept of the time for the last words of a process that has closed its log.
const LAST_MAX: Duration = Duration::from_millis(500);

/// The most that is kept of the time for what comes after the guests: a commit takes milliseconds, a stuck disk longer.
const RESERVE_MAX: Duration = Duration::from_secs(5);

/// A signal that stops a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// By who runs it.
    Terminate,
    /// From a terminal.
    Interrupt,
}

impl Told {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// The exit code of a process that it ends at once, as a shell has it.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Terminate => 128 + 15,
            Self::Interrupt => 128 + 2,
        }
    }
}

/// Hears SIGTERM and SIGINT from the moment it is made: until then they end the process at once. SIGHUP, which a terminal
/// sends that is closed, ends nothing from here on.
#[derive(Debug, Clone)]
pub struct Signals(watch::Receiver<Heard>);

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    times: u32,
    last: Option<Told>,
    /// When the first came.
    first_at: Option<Instant>,
}

impl Signals {
    /// Installs the handlers. A task of its own hears them, whatever else is blocked.
    ///
    /// # Errors
    /// When the system does not take them.
    pub fn install() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let (tell, heard) = watch::channel(Heard::default());
        tokio::spawn(async move {
            loop {
                let told = tokio::select! {
                    _ = terminate.recv() => Told::Terminate,
                    _ = interrupt.recv() => Told::Interrupt,
                    _ = hangup.recv() => {
                        tracing::info!("SIGHUP ends nothing; the certificates are read again if there are any");
                        continue;
                    }
                };
                tell.send_modify(|heard| {
                    let first_at = heard.first_at.or_else(|| Some(Instant::now()));
                    *heard = Heard { times: heard.times.saturating_add(1), last: Some(told), first_at };
                });
            }
        });
        Ok(Self(heard))
    }

    /// Waits for a signal and says which.
    pub async fn requested(&mut self) -> Told {
        self.times(1).await
    }

    /// The time that a stop has: from the first signal on, or from now if there was none.
    pub fn budget(&self) -> Budget {
        self.0.borrow().first_at.map_or_else(Budget::begin, |begun| Budget { begun })
    }

    /// Waits for a second one.
    pub async fn again(&mut self) -> Told {
        self.times(2).await
    }

    async fn times(&mut self, times: u32) -> Told {
        // Who tells lives as long as the runtime.
        let heard = self.0.wait_for(|heard| heard.times >= times).await.map(|heard| heard.last);
        match heard {
            Ok(Some(told)) => told,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Sees to it that a stop ends: at once with a second signal, and within its time in any case.
pub fn enforce(mut signals: Signals, within: Duration) {
    tokio::spawn(async move {
        signals.requested().await;
        cut_off_after(within);
        let told = signals.again().await;
        tracing::warn!(signal = told.name(), "the node is told again to stop, and ends at once");
        exit(told.exit_code());
    });
}

/// Ends the process when the time is over, whatever hangs: a disk, a terminal that nobody reads.
pub fn cut_off_after(within: Duration) {
    let watchdog = std::thread::Builder::new().name("cut-off".into()).spawn(move || {
        std::thread::sleep(within);
        let within_ms = within.as_millis();
        tracing::error!(within_ms, "the node did not stop in the time of shutdown.within_ms, and is cut off");
        exit(EXIT_CUT_OFF);
    });
    if let Err(error) = watchdog {
        tracing::error!(%error, "nobody watches that the node stops in time");
    }
}

/// Ends the process at once, with what it has to say.
pub fn exit(code: i32) -> ! {
    telemetry::flush();
    process::exit(code)
}

/// When each part of a stop has to be over, from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// "Not ready" is answered until then, and requests are served.
    pub announce: Duration,
    /// Guests may end by themselves until then.
    pub guests_until: Duration,
    /// Guests that were ended are recorded until then.
    pub ends_until: Duration,
    /// A member hands over its shards until then.
    pub leave_until: Duration,
    /// Entities, feed, views and executors have ended until then.
    pub settle_until: Duration,
    /// The log is closed until then.
    pub end: Duration,
}

impl Plan {
    /// Divides the time. A member of a cluster takes up to `leave` for handing over.
    pub fn of(config: &ShutdownConfig, leave: Duration) -> Self {
        let end = config.within().saturating_sub(LAST_MAX.min(config.within() / 20));
        let (reserve, leave) = (RESERVE_MAX.min(end / 5), leave.min(end / 5));
        let announce = Duration::from_millis(config.announce_ms).min(end / 4);
        let most = end.saturating_sub(reserve).saturating_sub(leave);
        let guests_until = announce.saturating_add(Duration::from_millis(config.executions_ms)).min(most);
        let ends_until = guests_until + reserve / 2;
        let leave_until = ends_until + leave;
        // Closing the log is the last, and what it has not written is not remembered.
        let settle_until = end.saturating_sub(reserve / 5);
        Self { announce, guests_until, ends_until, leave_until, settle_until, end }
    }
}

/// A stop that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    begun: Instant,
}

impl Budget {
    /// Begins now.
    pub fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    /// What is left until then.
    pub fn left(&self, until: Duration) -> Duration {
        until.saturating_sub(self.begun.elapsed())
    }

    /// Does it, until then at the latest. Says whether it was done.
    pub async fn until<T>(&self, until: Duration, what: &str, work: impl Future<Output = T>) -> Option<T> {
        let done = tokio::time::timeout(self.left(until), work).await.ok();
        if done.is_none() {
            tracing::warn!(what, "a part of the stop is given up, as its time is over");
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_parts_of_a_stop_follow_each_other_within_its_time_whatever_is_configured() {
        for within_ms in [1_000, 2_000, 25_000, 600_000] {
            for (announce_ms, executions_ms) in [(0, 0), (2_000, 20_000), (u64::MAX, u64::MAX)] {
                for leave in [0, 30_000] {
                    let config = ShutdownConfig { within_ms, announce_ms, executions_ms, entities_ms: 5_000 };
                    let Plan { announce, guests_until, ends_until, leave_until, settle_until, end } =
                        Plan::of(&config, ms(leave));
                    let order = [announce, guests_until, ends_until, leave_until, settle_until, end];
                    // What is given up in its time is told of before the process is cut off.
                    assert!(order.is_sorted() && end < ms(within_ms), "{config:?}: {order:?}");
                    assert!(ends_until > guests_until && settle_until > leave_until && end > settle_until);
                }
            }
        }
    }

    #[test]
    fn by_default_guests_have_most_of_the_time_and_a_kill_after_thirty_seconds_finds_nothing() {
        let plan = Plan::of(&ShutdownConfig::default(), Duration::ZERO);
        assert_eq!((plan.announce, plan.guests_until), (ms(2_000), ms(19_600)));
        assert_eq!((plan.ends_until, plan.settle_until, plan.end), (ms(22_050), ms(23_520), ms(24_500)));
        // What an operator sets is the most, not the least.
        let brief = ShutdownConfig { executions_ms: 1_000, ..ShutdownConfig::default() };
        assert_eq!(Plan::of(&brief, Duration::ZERO).guests_until, ms(3_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_is_given_up_when_its_time_is_over() {
        let budget = Budget::begin();
        assert_eq!(budget.until(ms(100), "a part that is done", async { 1 }).await, Some(1));
        assert_eq!(budget.until(ms(100), "a part that hangs", std::future::pending::<()>()).await, None);
        assert_eq!((budget.left(ms(150)), budget.left(ms(50))), (ms(50), Duration::ZERO));
    }
}
