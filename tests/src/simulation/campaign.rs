//! Many seeds, on all processors. The smallest that breaks something is found, and told.

use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{Planted, Report, Violation, simulate, told};
use crate::chance;

/// Environment variable that names the one seed to go through, or the first of as many as [`SEEDS`] says.
pub const SEED: &str = "WASMWIZ_TESTS_SIMULATION_SEED";

/// Environment variable that says how many seeds are gone through.
pub const SEEDS: &str = "WASMWIZ_TESTS_SIMULATION_SEEDS";

/// How many, if it does not.
const SEEDS_DEFAULT: u64 = 10_000;

/// How many lines of the journal are told of a seed that broke something.
const LINES: usize = 80;

/// The seeds that the variables ask for. Without them always the same, unless [`chance::SEED`] says where to begin.
///
/// # Errors
/// When one of the variables holds no number.
pub fn asked_for() -> anyhow::Result<Range<u64>> {
    let one = chance::given(SEED)?;
    let first = match one {
        Some(seed) => seed,
        None => chance::setting(chance::SEED, 0)?,
    };
    let seeds = chance::setting(SEEDS, if one.is_some() { 1 } else { SEEDS_DEFAULT })?;
    Ok(first..first.saturating_add(seeds))
}

/// A seed that breaks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub seed: u64,
    /// What it breaks.
    pub violation: Violation,
    /// What happened until then.
    pub journal: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation, journal } = self;
        let left_out = journal.len().saturating_sub(LINES);
        let schedule = journal.first().filter(|_| left_out > 0);
        let last = journal.iter().skip(left_out);
        writeln!(f, "{SEED}={seed} breaks what must always hold:")?;
        schedule.into_iter().chain(last).try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "{violation}")
    }
}

impl std::error::Error for Found {}

/// Says which seed it was that panicked.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{SEED}={}", self.0);
        }
    }
}

/// What a thread has found: the smallest of its seeds that breaks something.
type Broken = Option<(u64, Violation)>;

/// Goes through these seeds.
///
/// # Errors
/// The smallest of them that breaks something.
pub fn campaign(seeds: Range<u64>, planted: Planted) -> Result<Report, Box<Found>> {
    let (next, least) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut report, mut broken): (Report, Broken) = (Report::default(), None);
    let (next, end, least) = (&next, seeds.end, &least);
    thread::scope(|scope| {
        let working: Vec<_> = (0..threads).map(|_| scope.spawn(move || some_of(next, end, least, planted))).collect();
        for thread in working {
            match thread.join() {
                Ok((part, found)) => {
                    report.add(&part);
                    broken = [broken.take(), found].into_iter().flatten().min_by_key(|(seed, _)| *seed);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let Some((seed, violation)) = broken else { return Ok(report) };
    let (again, mut journal) = told(seed, planted);
    if again.as_ref() != Err(&violation) {
        journal.push(format!("it went another way when it was told: {again:?}"));
    }
    Err(Box::new(Found { seed, violation, journal }))
}

/// Takes one seed after the other, until there are none left or a smaller one was found.
fn some_of(next: &AtomicU64, end: u64, least: &AtomicU64, planted: Planted) -> (Report, Broken) {
    let mut report = Report::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || seed > least.load(Ordering::Relaxed) {
            return (report, None);
        }
        let _named = Named(seed);
        match simulate(seed, planted) {
            Ok(part) => report.add(&part),
            // Later ones of this thread are larger.
            Err(violation) => {
                least.fetch_min(seed, Ordering::Relaxed);
                return (report, Some((seed, violation)));
            }
        }
    }
}
