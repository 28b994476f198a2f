//! `wasmwiz module`: publish, list, show, back-test and delete modules.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reqwest::{Method, header};
use serde_json::Value;
use wasmwiz_events::settings::{Clock, Sleep};

use super::{
    Format,
    asking::Asking,
    back_test::BackTest,
    block_on,
    failure::EXIT_CODES,
    file,
    http::{Api, UPLOAD_DEADLINE},
    progress, render,
};
use crate::cli::output;

/// Publish, list, show, back-test and delete modules.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz module push hello.wasm\n  wasmwiz module push \
                        target/app.wasm --name hello --sleep skip\n  wasmwiz module show hello\n  wasmwiz module back-test hello --version 2 --since 2026-11-29T00:00:00Z"))]
pub struct Module {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Publish a file as a version of a module. The same bytes as the latest version are no new one.
    Push {
        /// The WebAssembly file.
        file: PathBuf,
        /// What to call it; the file's name without its ending when absent.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// List modules, each with its latest version.
    List {
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
    },
    /// Show a module and its versions.
    Show {
        /// Its name.
        name: String,
    },
    /// Run recorded executions of a module with another version of it, and compare.
    BackTest(BackTest),
    /// Delete a module with all its versions. What ran stays in the record.
    Rm {
        /// Its name.
        name: String,
    },
}

/// How the executions of a version run. What is not said is the default, whatever the version before has.
#[derive(Debug, Args)]
struct Settings {
    /// What sleeping is to its guests: wait, or skip, where their own time moves and nobody waits.
    #[arg(long, value_name = "wait|skip")]
    sleep: Option<Sleep>,
    /// Which clocks its guests read: virtual, their own, or host; what the host's say is kept beside the record.
    #[arg(long, value_name = "virtual|host")]
    clock: Option<Clock>,
    /// Meter each of its executions: it ends when it has used up its fuel.
    #[arg(long)]
    metered: bool,
    /// How much fuel each has unless it asks for less, about a unit for each instruction.
    #[arg(long, value_name = "UNITS", requires = "metered")]
    fuel: Option<u64>,
}

impl Settings {
    fn query(&self) -> Vec<(&'static str, String)> {
        let metered = self.metered.then_some(true);
        [
            ("sleep", self.sleep.as_ref().map(ToString::to_string)),
            ("clock", self.clock.as_ref().map(ToString::to_string)),
            ("metered", metered.as_ref().map(ToString::to_string)),
            ("fuel", self.fuel.as_ref().map(ToString::to_string)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

impl Module {
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
            Self::BackTest(back_test) => return back_test.run(api, format).await,
            Self::Push { file, name, settings } => {
                let name = match name {
                    Some(name) => name,
                    None => {
                        let stem = file.file_stem().and_then(|stem| stem.to_str());
                        stem.context("the file's name is no name for a module; give one with --name")?.to_owned()
                    }
                };
                let wasm = file::module(&file)?;
                render::show_one(format, &push(api, &name, wasm, &settings).await?)?;
            }
            Self::List { limit } => {
                let found = api.list(&["v1", "modules"], &[], limit.into()).await?;
                render::show_list(format, found, COLUMNS, row)?;
            }
            Self::Show { name } => {
                let found = api.list(&["v1", "modules", &name, "versions"], &[], MOST_VERSIONS).await?;
                render::show_list(format, found, COLUMNS, row)?;
            }
            Self::Rm { name } => {
                api.call(Method::DELETE, &["v1", "modules", &name], None).await?;
                output::progress(format_args!("deleted {}", render::plain(&name)));
            }
        }
        Ok(true)
    }
}

/// The most versions that are shown of one module.
const MOST_VERSIONS: usize = 1_000;

async fn push(api: &Api, name: &str, wasm: Vec<u8>, settings: &Settings) -> anyhow::Result<Value> {
    let size = wasm.len();
    let request = api.request(Method::PUT, api.at(&["v1", "modules", name], &settings.query()));
    let request = request.header(header::CONTENT_TYPE, "application/wasm").header(header::CONTENT_LENGTH, size);
    let answer = api.send(request.body(progress::body(name, wasm.into())), UPLOAD_DEADLINE, MODULE_BYTES).await?;
    api.settle(&answer, &["v1", "modules"]).await;
    Ok(answer.json()?)
}

/// How much is read of what a node says of a module: it names imports and exports.
const MODULE_BYTES: usize = 16 << 20;

/// What a list shows of a module.
const COLUMNS: &[&str] = &["NAME", "VERSION", "BYTES", "DIGEST", "SETTINGS", "CREATED"];

fn row(module: &Value) -> Vec<String> {
    let mut row: Vec<_> =
        ["/name", "/version", "/size_bytes", "/digest", "/created_at"].map(|part| render::at(module, part)).into();
    row.insert(4, settings(module));
    row
}

/// What of its settings is not the default.
fn settings(module: &Value) -> String {
    let said = |name: &str| module.pointer(&format!("/settings/{name}"));
    let mut others: Vec<String> = Vec::new();
    for (name, default) in [("sleep", "wait"), ("clock", "virtual")] {
        let value = said(name).and_then(Value::as_str).filter(|value| *value != default);
        others.extend(value.map(|value| format!("{name}={value}")));
    }
    others.extend(said("fuel").and_then(Value::as_u64).map(|fuel| format!("fuel={fuel}")));
    if others.is_empty() { "-".to_owned() } else { others.join(" ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_shows_what_is_not_the_default_also_of_nodes_that_know_of_none() {
        let shown = |settings| row(&json!({"name": "a", "settings": settings}))[4].clone();
        assert_eq!(shown(json!({"sleep": "wait", "clock": "virtual", "metered": false, "fuel": null})), "-");
        assert_eq!(
            shown(json!({"sleep": "skip", "clock": "virtual", "metered": true, "fuel": 7})),
            "sleep=skip fuel=7"
        );
        assert_eq!(shown(json!({"sleep": "wait", "clock": "host", "metered": false, "fuel": null})), "clock=host");
        assert_eq!(shown(json!(null)), "-");
        assert_eq!(row(&json!({})).len(), COLUMNS.len());
    }
}
