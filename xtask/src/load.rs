//! `cargo xtask load`: the program that keeps up a rate of requests.

use std::ffi::OsString;

use crate::process::{built, command, run as run_command};

/// Send requests at fixed rates, and compare the node with its baseline, or with that of another program
///
/// Builds the node and the load program of the tests crate with optimisations and runs it. Fails when the node has become
/// slower than `tests/load-baseline.json` allows, or with `-- --against PROGRAM` when it is surely slower than that program's.
/// Arguments go to the program: `cargo xtask load -- --help` lists them.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Build as the tests are built, without all optimisations: to work on the program itself, not to measure
    #[arg(long)]
    dev: bool,
    /// Arguments for the load program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "LOAD_ARGUMENTS")]
    load: Vec<OsString>,
}

/// How everything is built, and where that is put: as the benchmark is, or as the tests are.
const RELEASE: (&[&str], &str) = (&["--release", "--package", "wasmwiz", "--package", "wasmwiz-tests"], "release");
const DEV: (&[&str], &str) = (&["--workspace", "--all-features"], "debug");

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (how, folder) = if arguments.dev { DEV } else { RELEASE };
    // The program starts the node, and the bare server of the benchmark, beside it.
    run_command(command("cargo").arg("build").args(how).arg("--bins"))?;
    run_command(built(folder, "load")?.args(&arguments.load))
}
