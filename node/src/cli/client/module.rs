//! `wasmwiz module`: publish, list, show, back-test and delete modules.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reqwest::{Method, header};
use serde_json::Value;

use super::{
    Connect, Format,
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
                        target/app.wasm --name hello\n  wasmwiz module show hello\n  wasmwiz module back-test hello --version 2 --since 2026-11-29T00:00:00Z"))]
pub struct Module {
    #[command(subcommand)]
    action: Action,
    /// How to print it.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
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

impl Module {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.connect.api()?;
        let is_well = block_on(self.action.run(&api, self.output))?;
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Action {
    /// False: something was found that is not as it should be.
    async fn run(self, api: &Api, format: Format) -> anyhow::Result<bool> {
        match self {
            Self::BackTest(back_test) => return back_test.run(api, format).await,
            Self::Push { file, name } => {
                let name = match name {
                    Some(name) => name,
                    None => {
                        let stem = file.file_stem().and_then(|stem| stem.to_str());
                        stem.context("the file's name is no name for a module; give one with --name")?.to_owned()
                    }
                };
                let wasm = file::module(&file)?;
                render::show_one(format, &push(api, &name, wasm).await?)?;
            }
            Self::List { limit } => {
                let found = api.list(&["v1", "modules"], &[], limit.into()).await?;
                render::show_list(format, found, &["NAME", "VERSION", "BYTES", "DIGEST", "CREATED"], row)?;
            }
            Self::Show { name } => {
                let found = api.list(&["v1", "modules", &name, "versions"], &[], MOST_VERSIONS).await?;
                render::show_list(format, found, &["NAME", "VERSION", "BYTES", "DIGEST", "CREATED"], row)?;
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

async fn push(api: &Api, name: &str, wasm: Vec<u8>) -> anyhow::Result<Value> {
    let size = wasm.len();
    let request = api.request(Method::PUT, api.at(&["v1", "modules", name], &[]));
    let request = request.header(header::CONTENT_TYPE, "application/wasm").header(header::CONTENT_LENGTH, size);
    let answer = api.send(request.body(progress::body(name, wasm.into())), UPLOAD_DEADLINE, MODULE_BYTES).await?;
    api.settle(&answer, &["v1", "modules"]).await;
    Ok(answer.json()?)
}

/// How much is read of what a node says of a module: it names imports and exports.
const MODULE_BYTES: usize = 16 << 20;

fn row(module: &Value) -> Vec<String> {
    ["/name", "/version", "/size_bytes", "/digest", "/created_at"].map(|part| render::at(module, part)).into()
}
