//! `cargo xtask bench`: the benchmark program.

use std::ffi::OsString;

use crate::process::{command, run as run_command};

/// Measure a node that is built for release
///
/// Builds the node and the benchmark program of the tests crate with optimisations and runs it. Arguments go to the
/// program: `cargo xtask bench --help` lists this chore's, `cargo xtask bench -- --help` the program's.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Arguments for the benchmark program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "BENCH_ARGUMENTS")]
    bench: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // The program starts the node beside it, so both are built with the same settings.
    run_command(command("cargo").args([
        "build",
        "--release",
        "--package",
        "wasmwiz",
        "--package",
        "wasmwiz-tests",
        "--bins",
    ]))?;
    let mut bench = command("cargo");
    bench.args(["run", "--release", "--quiet", "--package", "wasmwiz-tests", "--bin", "bench", "--"]);
    run_command(bench.args(&arguments.bench))
}
