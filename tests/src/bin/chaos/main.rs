//! Faults on purpose: a node under load is killed, stopped, starved of room and time, and must have kept its promises.
//!
//! `cargo xtask chaos` runs it. Each scenario starts a node of its own, sends clients to work, does its disturbance, ends the
//! load, and holds the log, the list and every answer against each other. A scenario that could not disturb anything fails:
//! it would have shown nothing.

mod clock;
mod evidence;
mod freeze;
mod full_disk;
mod judge;
mod kill;
mod report;
mod scenario;
mod slow_disk;

use std::{
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, ValueEnum};

use self::{report::Report, scenario::Scenario};

/// Disturb a node under load, and check what it promised.
#[derive(Debug, Parser)]
#[command(name = "chaos", after_help = AFTER_HELP)]
struct Args {
    /// How much of it there is: `ci` takes less than three minutes, `nightly` about ten.
    #[arg(long, value_enum, default_value_t = Size::Ci)]
    size: Size,
    /// Only this scenario; may be given more than once. All, if it is not given.
    #[arg(long, value_enum, value_name = "SCENARIO")]
    only: Vec<Scenario>,
    /// Draws inputs, moments and sizes. A run prints its own; the same seed draws the same again.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How results are printed, on standard output.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The shared library of libfaketime, where it is not installed in its usual place.
    #[arg(long, value_name = "FILE")]
    faketime: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Scenarios that this machine cannot do are skipped, and the result says why: `full-disk` has to mount a file system in \
memory, as root or by sudo without a password, `slow-disk` needs strace, `clock` needs libfaketime. The exit code is 1 when a promise was broken.

Examples:
  cargo xtask chaos
  cargo xtask chaos -- --only kill --only freeze
  cargo xtask chaos -- --only kill --seed 42
  cargo xtask chaos -- --size nightly --output json

Another build of the node is disturbed when WASMWIZ_TESTS_NODE names its program.";

/// How much of it there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    /// What a change waits for.
    Ci,
    /// What a night has time for.
    Nightly,
}

impl Size {
    /// One of two numbers.
    const fn of(self, ci: u64, nightly: u64) -> u64 {
        match self {
            Self::Ci => ci,
            Self::Nightly => nightly,
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: one object.
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // Hash tables are keyed by the system's randomness: hashing with a fresh key is a way to it.
    let seed = args.seed.unwrap_or_else(|| u64::from(RandomState::new().hash_one("chaos") as u32));
    eprintln!("chaos: --seed {seed} draws this again");
    let scenarios = if args.only.is_empty() { Scenario::value_variants().to_vec() } else { args.only.clone() };
    let mut report = Report::new(seed);
    for scenario in scenarios {
        eprintln!("chaos: {}", scenario.name());
        report.add(scenario.run(&args, seed).await);
    }
    report.print(args.output)?;
    Ok(if report.all_held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_night_asks_for_is_the_size_of_a_night() {
        let workflow = include_str!("../../../../.github/workflows/nightly.yml");
        let words = workflow.lines().find_map(|line| line.trim().strip_prefix("chore: \"chaos -- "));
        let words = words.expect("nightly.yml runs it").trim_end_matches('"').split_whitespace();
        let args = Args::try_parse_from(std::iter::once("chaos").chain(words)).unwrap();
        assert_eq!(args.size, Size::Nightly);
    }
}
