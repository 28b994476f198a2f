//! `wasmwiz views`: how the views of a node stand, and what they have set aside.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use wasmwiz_events::id::TenantId;

use super::{asking::Asking, block_on, failure::EXIT_CODES, http::Api, render, table::Table};

/// How long trying again may take, also behind a skip: longer than a node gives its views.
const RETRY_DEADLINE: Duration = Duration::from_secs(45);

/// How much of an answer is read: there may be many streams that are set aside.
const ANSWER_BYTES: usize = 16 << 20;

/// How the views of a node stand, and which tenants' streams they have set aside. Without a word after it, that is shown. Exit code 1
/// when a view does not follow the log, or a stream is set aside.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz views --url http://127.0.0.1:8080\n  wasmwiz views retry\n  \
                        wasmwiz views skip --tenant t-4k2mq7x9 --position 1190 --reason 'no backup has it'"))]
pub struct Views {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show how each view stands.
    List,
    /// Have the node try again to fold what is set aside, once the log has it as it was.
    Retry,
    /// The last resort: have all nodes pass over a commit that cannot be had back from anywhere. What it said is not in effect any
    /// more, so look at the tenant's keys afterwards: one that it revoked is not revoked. The newest commit of a stream is not skipped.
    Skip(Skip),
}

#[derive(Debug, Args)]
struct Skip {
    /// Whose stream it is in.
    #[arg(long)]
    tenant: TenantId,
    /// Where it is: the position that `wasmwiz views` shows.
    #[arg(long)]
    position: u64,
    /// Why, for those who read the history later: 1 to 500 characters.
    #[arg(long)]
    reason: String,
}

impl Views {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.asking.connect.api()?;
        let views = block_on(ask(&api, self.action.unwrap_or(Action::List)))?;
        render::show(self.asking.output, &views, table)?;
        Ok(if all(&views).all(is_well) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn ask(api: &Api, action: Action) -> anyhow::Result<Value> {
    let post = |what| api.request(Method::POST, api.at(&["v1", "views", what], &[]));
    let request = match action {
        Action::List => api.request(Method::GET, api.at(&["v1", "views"], &[])),
        Action::Retry => post("retry"),
        Action::Skip(Skip { tenant, position, reason }) => {
            post("skip").json(&json!({"tenant": tenant, "position": position, "reason": reason}))
        }
    };
    Ok(api.send(request, RETRY_DEADLINE, ANSWER_BYTES).await?.json()?)
}

fn all(views: &Value) -> impl Iterator<Item = &Value> {
    views.get("views").and_then(Value::as_array).into_iter().flatten()
}

fn set_aside(view: &Value) -> impl Iterator<Item = &Value> {
    view.get("set_aside").and_then(Value::as_array).into_iter().flatten()
}

fn is_well(view: &Value) -> bool {
    let follows =
        view.get("state").and_then(Value::as_str) == Some("live") && view.get("trouble").is_none_or(Value::is_null);
    follows && view.get("set_aside_streams").and_then(Value::as_u64).unwrap_or_default() == 0
}

/// A row a view, and under it one for each stream that it has set aside.
fn table(views: &Value) -> Table {
    let mut table = Table::new(&["VIEW", "STATE", "POSITION", "BEHIND", "WHY"]);
    for view in all(views) {
        let at = |pointer| render::at(view, pointer);
        table.row([at("/name"), at("/state"), at("/position"), at("/lag_commits"), at("/trouble")]);
        let all = view.get("set_aside_streams").and_then(Value::as_u64).unwrap_or_default();
        for stream in set_aside(view) {
            let at = |pointer| render::at(stream, pointer);
            let behind = format!("{} commits", at("/commits"));
            table.row([format!("  {}", at("/tenant")), "set aside".to_owned(), at("/position"), behind, at("/reason")]);
        }
        let shown = set_aside(view).count() as u64;
        if all > shown {
            table.row(
                [format!("  and {} more", all - shown), "set aside".to_owned()]
                    .into_iter()
                    .chain(["", "", ""].map(str::to_owned)),
            );
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_view_is_well_when_it_follows_and_has_nothing_set_aside() {
        let view = |state: &str, trouble: Value, streams: u64| json!({"name": "keys", "state": state, "trouble": trouble, "set_aside_streams": streams});
        assert!(is_well(&view("live", Value::Null, 0)));
        assert!(!is_well(&view("stopped", Value::Null, 0)) && !is_well(&view("catching_up", Value::Null, 0)));
        assert!(!is_well(&view("live", "the disk is full".into(), 0)) && !is_well(&view("live", Value::Null, 1)));
    }
}
