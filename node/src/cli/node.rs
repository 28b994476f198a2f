//! `wasmwiz node`: a node from its configuration, until it is told to stop.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::output;
use crate::{
    app::{self, App},
    bootstrap,
    config::Config,
    ready::Ready,
    telemetry,
};

/// Start a node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wasmwiz config > wasmwiz.toml && wasmwiz node --config wasmwiz.toml\n  \
                        WASMWIZ_NODE__DATA_DIR=/var/lib/wasmwiz wasmwiz node\n\nSIGTERM stops it, within \
                        shutdown.within_ms: it answers \"not ready\", serves what is under way, ends what takes longer and \
                        records that, and exits with 0. A second one ends it at once.\n\nExit codes: 0 stopped in order; 1 \
                        cannot start; 74 the log has failed; 75 cut off, as it did not stop in time; 130, 143 ended at \
                        once by a second SIGINT, SIGTERM")]
pub struct Node {
    /// The configuration file (TOML). `wasmwiz config` prints one with every setting.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write this file, as JSON, once the node serves.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Node {
    /// Runs the node.
    ///
    /// # Errors
    /// When it cannot start, or its log fails.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(self.config.as_deref())?.config;
        let _telemetry = telemetry::init(&config.telemetry, &config.node.name)?;
        app::run(&config, async |app: &App| {
            let operator = bootstrap::operator(app, &config).await?;
            if let Some(key) = &operator {
                output::line(
                    "This is the operator's API key. It is shown once; set auth.operator_key to have another.",
                );
                output::line(key.text());
            }
            app.until_keys_are_known().await;
            if let Some(path) = &self.ready_file {
                let operator_token = operator.map(|key| key.text().to_owned());
                let ready = Ready { operator_token, ..app.ready() };
                ready.write(path)?;
            }
            Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
