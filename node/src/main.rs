//! The `wasmwiz` command.

use std::process::ExitCode;

use clap::Parser as _;
use wasmwiz_node::cli::Cli;

/// A request makes and drops a hundred small values on several threads, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wasmwiz_node::cli::run(Cli::parse())
}
