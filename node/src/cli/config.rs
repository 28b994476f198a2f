//! `wasmwiz config`: what a node would run with.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::output::{self, Output};

/// Print the effective configuration: defaults, the file, the environment. Secrets are redacted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wasmwiz config > wasmwiz.toml                 every setting with its default\n  \
                        WASMWIZ_LISTEN__API=0.0.0.0:80 wasmwiz config --config wasmwiz.toml")]
pub struct Config {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// TOML for people and files, or JSON.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Config {
    /// Prints it.
    ///
    /// # Errors
    /// When the configuration cannot be used; the text names the key.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = crate::config::Config::load(self.config.as_deref())?;
        match self.output {
            Output::Table => output::line(config.to_toml()?.trim_end()),
            Output::Json => output::line(serde_json::to_string_pretty(&config)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}
