//! `wasmwiz config`: what a node would run with.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::output::{self, Output};

/// Print the effective configuration: defaults, the file, the environment; with a remark which of them each value is from.
/// Secrets are redacted.
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

/// The settings, and beside their sections where those are from that are no defaults.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    settings: &'a crate::config::Config,
    origins: BTreeMap<&'a str, String>,
}

impl<'a> Shown<'a> {
    fn of(loaded: &'a crate::config::Loaded) -> Self {
        let origins = loaded.origins().iter().map(|(key, origin)| (key.as_str(), origin.to_string()));
        Self { settings: &loaded.config, origins: origins.collect() }
    }
}

impl Config {
    /// Prints it.
    ///
    /// # Errors
    /// When the configuration cannot be used; the text names the key.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = crate::config::Config::load(self.config.as_deref())?;
        match self.output {
            Output::Table => output::line(loaded.to_toml()?.trim_end()),
            Output::Json => output::line(serde_json::to_string_pretty(&Shown::of(&loaded))?),
        }
        Ok(ExitCode::SUCCESS)
    }
}
