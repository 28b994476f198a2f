//! `cargo xtask chaos`: the program that disturbs a node on purpose.

use std::ffi::OsString;

use crate::process::{built, command, run as run_command};

/// Disturb a node under load, and check what it promised
///
/// Builds the node and the chaos program of the tests crate and runs it: kills, stops, a full disk, a slow one, a clock that
/// steps. Fails when a promise was broken. Arguments go to the program: `cargo xtask chaos -- --help` lists them.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for the chaos program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CHAOS_ARGUMENTS")]
    chaos: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // As the tests are built, so that one build serves both.
    run_command(command("cargo").args(["build", "--workspace", "--all-features", "--bins"]))?;
    run_command(built("debug", "chaos")?.args(&arguments.chaos))
}
