//! Requests at fixed rates, whether or not the last was answered: what users see of a node, compared with its baseline.
//!
//! `cargo xtask load` runs it. Latency counts from the moment at which a request was due, so a node that stands still is
//! charged for all that should have been sent meanwhile (coordinated omission). Every rate is sent to the node and, in the
//! same minute, to the bare server of the benchmark, which runs the same module and records nothing; the node's latency is
//! given as a ratio to that of the bare server and of the two syncs that a record takes on this disk. Ratios, unlike
//! milliseconds, can be compared with those of another machine; but they still
//! move with the machine. `--against` has no baseline: two programs have the same rates in turns, and what the machine does
//! meanwhile is done to both.

mod against;
mod baseline;
mod comparison;
mod handicap;
mod measure;
mod open_loop;
mod report;
mod servers;
mod syncs;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};

use self::{
    baseline::Baseline,
    comparison::Compared,
    report::{Alternation, Report},
};

/// Send requests at fixed rates, and compare the node with its baseline, or with that of another program.
#[derive(Debug, Parser)]
#[command(name = "load", after_help = AFTER_HELP)]
struct Args {
    /// How much of it there is: `ci` takes less than three minutes, `nightly` about six, and nine with `--against`.
    #[arg(long, value_enum, default_value_t = Size::Ci)]
    size: Size,
    /// How results are printed, on standard output.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// What ratios and how much more is allowed.
    #[arg(long, value_name = "FILE", default_value = "tests/load-baseline.json")]
    baseline: PathBuf,
    /// Write what was measured into the baseline, in place of the same rates there. Its tolerances stay.
    #[arg(long)]
    write_baseline: bool,
    /// Compare the node in turns with that of this program, and not with the baseline. It is an earlier commit's, built in the
    /// same way; a relative path begins at the root of the workspace.
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["baseline", "write_baseline"])]
    against: Option<PathBuf>,
    /// The folder below which the node keeps its data: its disk is part of what is measured.
    #[arg(long, value_name = "FOLDER", default_value = "target/load")]
    data: PathBuf,
    /// Let the node stand still (SIGSTOP) for so many percent of the time: a node that was slowed on purpose must fail. That of
    /// `--against` is left alone.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=90))]
    handicap: u8,
}

const AFTER_HELP: &str = "\
The exit code is 1 when the node is slower than the baseline and its tolerance allow, or serves less. With --against it is 1 \
when the whole interval of a ratio is beyond its bound: 1.10 for p50, 1.25 for p99, and 0.995 for what is served.

Examples:
  cargo xtask load
  cargo xtask load -- --size nightly --output json
  cargo xtask load -- --write-baseline
  cargo xtask load -- --handicap 70
  cargo xtask load -- --against ../earlier/target/release/wasmwiz

Another build of the node is measured when WASMWIZ_TESTS_NODE names its program.";

/// How much of it there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    /// What a change waits for.
    Ci,
    /// What a night has time for.
    Nightly,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: one object.
    Json,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(other) = &args.against {
        let compared = against::compared(&args, other).await?;
        let worse: Vec<_> = compared.iter().flat_map(Compared::worse).collect();
        Alternation { compared: &compared, worse: &worse }.print(args.output)?;
        return Ok(exit_code(worse.is_empty()));
    }
    if args.write_baseline {
        let steps = measure::steps(&args).await?;
        Baseline::read_or_new(&args.baseline)?.with(&steps).write(&args.baseline)?;
        Report { steps: &steps, slower: None }.print(args.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Read first: without one there is nothing to measure for.
    let baseline = Baseline::read(&args.baseline)?;
    let steps = measure::steps(&args).await?;
    let slower = baseline.slower(&steps);
    Report { steps: &steps, slower: Some(&slower) }.print(args.output)?;
    Ok(exit_code(slower.is_empty()))
}

fn exit_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_night_asks_for_is_the_size_of_a_night() {
        let workflow = include_str!("../../../../.github/workflows/nightly.yml");
        let words = workflow.lines().find_map(|line| line.trim().strip_prefix("chore: \"load -- "));
        let words = words.expect("nightly.yml runs it").trim_end_matches('"').split_whitespace();
        let args = Args::try_parse_from(std::iter::once("load").chain(words)).unwrap();
        assert_eq!(args.size, Size::Nightly);
    }

    #[test]
    fn another_program_is_compared_with_at_each_size_and_has_no_baseline() {
        let parsed = |words: &str| Args::try_parse_from(words.split_whitespace());
        let args = parsed("load --against other --size nightly --output json --handicap 70").unwrap();
        assert_eq!((args.against, args.handicap), (Some("other".into()), 70));
        assert!(parsed("load --against other --write-baseline").is_err());
        assert!(parsed("load --against other --baseline file.json").is_err());
    }
}
