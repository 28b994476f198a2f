//! `wasmwiz exec`: list, show, read, verify, run again and cancel executions.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::{Format, asking::Asking, block_on, failure::EXIT_CODES, http::Api, render, rerun::Rerun, verify::Verify};
use crate::cli::output;

/// List, show, read, verify, run again and cancel executions.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz exec list --module hello --outcome trapped\n  \
                        wasmwiz exec logs 0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f\n  \
                        wasmwiz exec verify --all --since 2026-11-29T00:00:00Z"))]
pub struct Exec {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List executions, the newest first.
    List(List),
    /// Show an execution.
    Show {
        /// Its id.
        id: String,
    },
    /// Print what an execution wrote: its standard output to standard output, its standard error to standard error.
    Logs {
        /// Its id.
        id: String,
    },
    /// Run executions again from their records, and compare.
    Verify(Verify),
    /// Run something again from the record of an execution.
    Rerun(Rerun),
    /// Cancel an execution that waits or runs.
    Cancel {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Args)]
struct List {
    /// Only of this module.
    #[arg(long)]
    module: Option<String>,
    /// Only those that ended like this, for instance trapped.
    #[arg(long)]
    outcome: Option<String>,
    /// Only those that this key asked for.
    #[arg(long, value_name = "KEY_ID")]
    key: Option<String>,
    /// Only those accepted at this time or later, as in RFC 3339.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only those accepted before this time.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
}

impl Exec {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.asking.connect.api()?;
        let is_well = block_on(self.action.run(&api, self.asking.output))?;
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Action {
    /// False: something was found that is not as it should be.
    async fn run(self, api: &Api, format: Format) -> anyhow::Result<bool> {
        match self {
            Self::Verify(verify) => return verify.run(api, format).await,
            Self::Rerun(rerun) => rerun.run(api, format).await?,
            Self::List(List { module, outcome, key, from, to, limit }) => {
                let filter = [("module", module), ("outcome", outcome), ("key", key), ("from", from), ("to", to)];
                let query: Vec<_> = filter.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
                let found = api.list(&["v1", "executions"], &query, limit.into()).await?;
                render::show_list(format, found, &["ID", "MODULE", "OUTCOME", "EXIT", "WALL MS", "ACCEPTED"], row)?;
            }
            Self::Show { id } => render::show_one(format, &api.get(&["v1", "executions", &id], &[]).await?)?,
            Self::Logs { id } => {
                output::raw(&api.bytes(&["v1", "executions", &id, "stdout"]).await?);
                output::raw_error(&api.bytes(&["v1", "executions", &id, "stderr"]).await?);
            }
            Self::Cancel { id } => {
                let cancelled = api.call(Method::DELETE, &["v1", "executions", &id], None).await?;
                if cancelled.is_null() {
                    output::progress(format_args!("cancelled {}", render::plain(&id)));
                } else {
                    render::show_one(format, &cancelled)?;
                }
            }
        }
        Ok(true)
    }
}

fn row(execution: &Value) -> Vec<String> {
    let module = match execution.pointer("/module/name") {
        Some(Value::String(name)) => format!("{name} v{}", render::at(execution, "/module/version")),
        _ => render::at(execution, "/module/digest").chars().take(19).collect(),
    };
    let at = |pointer| render::at(execution, pointer);
    // What has no outcome yet waits or runs; a node without a queue does not say which.
    let standing = [at("/outcome"), at("/status"), "running".to_owned()].into_iter().find(|word| word != "-");
    let outcome = standing.unwrap_or_default();
    vec![at("/id"), module, outcome, at("/exit_code"), at("/usage/wall_ms"), at("/accepted_at")]
}
