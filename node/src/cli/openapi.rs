//! `wasmwiz openapi`: the document of the HTTP API, as the node serves it.

use std::process::ExitCode;

use clap::Args;

use super::output;

/// Print the OpenAPI document of the HTTP API.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  wasmwiz openapi > openapi.json")]
pub struct Openapi {}

impl Openapi {
    /// Prints it.
    ///
    /// # Errors
    /// None; the signature is that of all commands.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        output::line(wasmwiz_gateway::openapi_document());
        Ok(ExitCode::SUCCESS)
    }
}
