//! The `wasmwiz` command.

use std::process::ExitCode;

use clap::Parser as _;
use wasmwiz_node::cli::Cli;

fn main() -> ExitCode {
    wasmwiz_node::cli::run(Cli::parse())
}
