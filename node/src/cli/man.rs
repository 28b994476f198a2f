//! `wasmwiz man`: the pages of the manual, one a command.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::{Cli, output};

/// Write the manual, a page a command.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  wasmwiz man man1 && man ./man1/wasmwiz-run.1")]
pub struct Man {
    /// Where to write the pages. Made if it is not there.
    dir: PathBuf,
}

impl Man {
    /// Writes it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let written = std::fs::create_dir_all(&self.dir);
        let written = written.and_then(|()| clap_mangen::generate_to(Cli::command(), &self.dir));
        written.with_context(|| format!("the manual cannot be written to {}", self.dir.display()))?;
        output::progress(format_args!("wrote the manual to {}", self.dir.display()));
        Ok(ExitCode::SUCCESS)
    }
}
