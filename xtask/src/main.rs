//! The chores of the workspace, run as `cargo xtask <chore>`.
//!
//! One chore a file. A chore says what it does before it does it, on standard error, and stops at the first thing that
//! fails. Nothing here is part of the product: the node never depends on it.

mod bench;
mod ci;
mod guests;
mod mutant;
mod openapi;
mod process;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of the WasmWiz workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

const AFTER_HELP: &str = "\
On a fresh machine with the Rust toolchain, a C compiler and python3:
  cargo xtask test            install the test tools once, then run every test
  cargo xtask test hostile::  only the tests whose name contains `hostile::`
  cargo xtask ci              what a change must pass besides the tests
  cargo xtask mutant          whether the checker of histories catches a node without its fences
  cargo xtask openapi         write docs/openapi.json anew, after a change of the API
  .ci/run                     both, as the pipeline runs them";

#[derive(Debug, Subcommand)]
enum Chore {
    Setup(setup::Arguments),
    Test(test::Arguments),
    Ci(ci::Arguments),
    Bench(bench::Arguments),
    Openapi(openapi::Arguments),
    Mutant(mutant::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Setup(arguments) => setup::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Ci(arguments) => ci::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Mutant(arguments) => mutant::run(&arguments).map(|()| ExitCode::SUCCESS),
        Chore::Openapi(arguments) => openapi::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
