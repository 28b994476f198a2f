//! A version and the one before it on one log, both ways.
//!
//! `cargo xtask upgrade` builds both and runs it. The program of the version before makes a history of every kind that it can, and is
//! killed; this version has to prove that log, to answer what was answered of it, and to go on with it. Then the version before is
//! asked whether it can read what has become of it: if it says so, it has to; if it does not, nothing may be lost. What this
//! version writes with forms that the one before knows, the one before has to read.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

mod backward;
mod forward;
mod history;
mod left;
mod programs;
mod record;

use std::{fmt::Display, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Parser;

use self::{left::Left, programs::Programs};

/// Try a version and the one before it on one log, both ways.
#[derive(Debug, Parser)]
#[command(name = "upgrade", after_help = AFTER_HELP)]
struct Args {
    /// The program of the version before.
    #[arg(long, value_name = "FILE")]
    previous: PathBuf,
    /// The commit that it was built from, for the record.
    #[arg(long, value_name = "COMMIT")]
    commit: String,
    /// Write the log that the version before has left, with its heads and what it answered, below this folder.
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
This version is the program that was built beside this one, or the one that WASMWIZ_TESTS_NODE names. The exit code is 1 when something \
that has to hold does not.";

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => {
            said("each reads what the other has written, as far as it says so");
            ExitCode::SUCCESS
        }
        Err(error) => {
            said(format_args!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let programs = Programs::new(args.previous.clone())?;
    let left = Left::by(&programs).await.context("the history of the version before")?;
    if let Some(folder) = &args.record {
        record::record(&left, &args.commit, folder)?;
    }
    // Each is tried, also when another one fails: who reads this wants to know all of it.
    let trials = [
        there_and_back(&programs, &left).await,
        backward::of_known_forms(&programs, &left).await.context("backward, with forms that both know"),
    ];
    let failures: Vec<_> = trials.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\nupgrade: FAILED: "))
}

async fn there_and_back(programs: &Programs, left: &Left) -> anyhow::Result<()> {
    let newer = forward::forward(programs, left).await.context("forward")?;
    backward::of_all_forms(programs, &newer).await.context("backward, with what this version can write")
}

/// What was found, on standard error.
fn said(what: impl Display) {
    eprintln!("upgrade: {what}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
