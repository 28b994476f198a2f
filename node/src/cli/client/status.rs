//! `wasmwiz status`: how a node is, part by part. Needs no key.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Connect, Format, block_on, failure::EXIT_CODES, render, table::Table};

/// How a node is: its log, its views, and whether a real module runs. Exit code 0 when all is well, 1 when something is not.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExample:\n  wasmwiz status --url http://127.0.0.1:8080"))]
pub struct Status {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.connect.anonymous()?;
        let health = block_on(async { Ok(api.health().await?) })?;
        render::show(self.output, &health, |health| {
            let mut table = Table::new(&["CHECK", "STATUS", "MESSAGE"]);
            table.row(["node".to_owned(), render::at(health, "/status"), api.url().to_owned()]);
            for (name, check) in health.get("checks").and_then(Value::as_object).into_iter().flatten() {
                table.row([name.clone(), render::at(check, "/status"), render::at(check, "/message")]);
            }
            table
        })?;
        let well = health.get("status").and_then(Value::as_str) == Some("ok");
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
