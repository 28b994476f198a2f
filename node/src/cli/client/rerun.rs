//! `wasmwiz exec rerun`: another execution, made of the record of an earlier one.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Format, file,
    http::{Api, EXECUTION_BYTES},
    render,
};

/// How long it may take: the longest that a guest may run, and what it may wait for.
const DEADLINE: Duration = Duration::from_secs(420);

/// Run something again from the record of an execution: its module in its version, its input and its arguments, as far as nothing
/// else is said. It is a new execution, which names the earlier one in rerun_of.
#[derive(Debug, Args)]
pub(super) struct Rerun {
    /// The earlier execution.
    id: String,
    /// Another version of the module.
    #[arg(long, value_name = "VERSION")]
    version: Option<u32>,
    /// A file for another standard input, or - for that of this command; as much as the node takes as JSON, 64 KiB unless it is set
    /// otherwise. For more, run the module by its name.
    #[arg(long, value_name = "FILE|-")]
    input: Option<PathBuf>,
    /// Another argument for the guest, instead of the recorded ones; may be repeated.
    #[arg(long = "arg", value_name = "TEXT", allow_hyphen_values = true)]
    args: Vec<String>,
    /// No arguments, instead of the recorded ones.
    #[arg(long, conflicts_with = "args")]
    no_args: bool,
    /// Another amount of fuel, about a unit for each instruction; one that was metered has what it had then, otherwise, and another version
    /// what that one says.
    #[arg(long, value_name = "UNITS")]
    fuel: Option<u64>,
    /// Let the guest see the recorded time and random numbers; of a version with clock=host, the random numbers alone.
    #[arg(long)]
    as_recorded: bool,
}

impl Rerun {
    pub(super) async fn run(self, api: &Api, format: Format) -> anyhow::Result<()> {
        let mut wish = Map::new();
        if let Some(version) = self.version {
            wish.insert("version".into(), version.into());
        }
        if let Some(input) = self.input.as_deref().map(file::input).transpose()? {
            match String::from_utf8(input) {
                Ok(text) => wish.insert("stdin".into(), text.into()),
                Err(bytes) => {
                    wish.insert("stdin_encoding".into(), "base64".into());
                    wish.insert("stdin".into(), STANDARD.encode(bytes.as_bytes()).into())
                }
            };
        }
        if self.no_args || !self.args.is_empty() {
            wish.insert("args".into(), json!(self.args));
        }
        if let Some(fuel) = self.fuel {
            wish.insert("fuel".into(), fuel.into());
        }
        wish.insert("as_recorded".into(), self.as_recorded.into());
        let url = api.at(&["v1", "executions", &self.id, "rerun"], &[]);
        let request = api.request(Method::POST, url).json(&Value::Object(wish));
        let answer = api.send(request, DEADLINE, EXECUTION_BYTES).await?;
        api.settle(&answer, &["v1", "executions"]).await;
        render::show_one(format, &answer.json()?)
    }
}
