//! `wasmwiz audit list | head`: the tenant's history, as a node tells it.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Connect, Format, block_on, failure::EXIT_CODES, render};

/// List the events of your tenant, the newest first, as a node tells them.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExample:\n  wasmwiz audit list --type dev.wasmwiz.key.issued.v1"))]
pub struct List {
    /// Only events of this type, for instance dev.wasmwiz.key.issued.v1.
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    /// Only what this key, operator or system did.
    #[arg(long)]
    actor: Option<String>,
    /// Only what is about this, for instance keys/4kD2.
    #[arg(long)]
    subject: Option<String>,
    /// Only from this time on, as in RFC 3339.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

impl List {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.connect.api()?;
        let Self { type_name, actor, subject, from, to, limit, .. } = self;
        let filter = [("type", type_name), ("actor", actor), ("subject", subject), ("from", from), ("to", to)];
        let query: Vec<_> = filter.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let found = block_on(async { Ok(api.list(&["v1", "audit"], &query, limit.into()).await?) })?;
        render::show_list(self.output, found, &["REVISION", "TIME", "TYPE", "SUBJECT", "BY"], row)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row(event: &Value) -> Vec<String> {
    ["/revision", "/time", "/type", "/subject", "/actor"].map(|part| render::at(event, part)).into()
}

/// The end of the tenant's chain.
#[derive(Debug, Args)]
pub struct OwnHead {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

impl OwnHead {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.connect.api()?;
        let head = block_on(async { Ok(api.get(&["v1", "audit", "head"], &[]).await?) })?;
        render::show_one(self.output, &head)?;
        Ok(ExitCode::SUCCESS)
    }
}
