//! What can be done to a node, and how one scenario is run from its beginning to its verdict.

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::{Instant, timeout};
use wasmwiz_tests::chance::Chance;

use crate::{
    Args, clock, freeze, full_disk,
    judge::Judged,
    kill,
    report::{Trial, Verdict},
    slow_disk,
};

/// How long one scenario may take. Generous: it is only spent when something hangs.
const WITHIN: Duration = Duration::from_secs(45 * 60);

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Killed (SIGKILL) at any moment, and started again, over and over.
    Kill,
    /// Stopped (SIGSTOP) at any moment, and let go on (SIGCONT).
    Freeze,
    /// No room left on its disk.
    FullDisk,
    /// A disk that takes long for every sync, and a kill while it does.
    SlowDisk,
    /// A wall clock that steps to and fro, by seconds and by days.
    Clock,
}

/// What came of a scenario that did not fail.
pub(crate) enum Done {
    /// It was done, and this was found.
    Judged(Judged),
    /// This machine cannot do it.
    Skipped(&'static str),
}

impl Scenario {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::FullDisk => "full-disk",
            Self::SlowDisk => "slow-disk",
            Self::Clock => "clock",
        }
    }

    /// Runs it. Alone or among others, the same seed draws the same for it.
    pub(crate) async fn run(self, args: &Args, seed: u64) -> Trial {
        let begun = Instant::now();
        let chance = Chance::new(seed.wrapping_add(self as u64));
        let verdict = match timeout(WITHIN, Box::pin(self.disturb(args, chance))).await {
            Ok(Ok(Done::Judged(judged))) => Verdict::of(judged),
            Ok(Ok(Done::Skipped(why))) => Verdict::Skipped { why },
            Ok(Err(error)) => Verdict::Failed { why: format!("{error:#}") },
            Err(_) => Verdict::Failed { why: format!("it did not end within {WITHIN:?}") },
        };
        Trial { scenario: self.name(), took_s: begun.elapsed().as_secs_f64(), verdict }
    }

    async fn disturb(self, args: &Args, chance: Chance) -> anyhow::Result<Done> {
        match self {
            Self::Kill => kill::run(args.size, chance).await,
            Self::Freeze => freeze::run(args.size, chance).await,
            Self::FullDisk => full_disk::run(args.size, chance).await,
            Self::SlowDisk => slow_disk::run(args.size, chance).await,
            Self::Clock => clock::run(args.size, chance, args.faketime.as_deref()).await,
        }
    }
}
