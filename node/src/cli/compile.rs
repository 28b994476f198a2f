//! `wasmwiz __compile`: the child process in which one module is compiled.

use std::process::ExitCode;

use clap::Args;

/// Compile one module from standard input.
#[derive(Debug, Args)]
pub struct Compile {}

impl Compile {
    /// Compiles; the exit code tells the parent how it went.
    pub fn run(self) -> ExitCode {
        wasmwiz_actors::executor::compile::worker_main()
    }
}
