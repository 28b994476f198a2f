//! `wasmwiz completions`: what a shell needs to complete the commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, output};

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  wasmwiz completions bash > ~/.local/share/bash-completion/completions/wasmwiz")]
pub struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints them.
    ///
    /// # Errors
    /// None; the signature is that of all commands.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "wasmwiz", &mut script);
        output::raw(&script);
        Ok(ExitCode::SUCCESS)
    }
}
