//! `wasmwiz key`: issue, list, show, rotate and revoke keys.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Format, asking::Asking, block_on, failure::EXIT_CODES, http::Api, render};
use crate::cli::output;

/// Issue, list, show, rotate and revoke keys.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz key create ci --scope modules:write --scope \
                        executions:run\n  wasmwiz key revoke 4kD2"))]
pub struct Key {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Issue a key. Its secret is shown this once.
    Create {
        /// What to call it.
        name: String,
        /// What it may do, for instance executions:run; may be repeated. None that your own key lacks.
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When it stops working by itself, as in RFC 3339.
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// List keys.
    List {
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
    },
    /// Show a key, without its secret.
    Show {
        /// Its id: what stands between ww_ and the next _.
        id: String,
    },
    /// Revoke a key, at once and for ever.
    Revoke {
        /// Its id.
        id: String,
    },
    /// Give a key another secret, shown this once. The old one works for a while longer.
    Rotate {
        /// Its id.
        id: String,
        /// For how many seconds the old secret goes on working.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace_seconds: u64,
    },
}

impl Key {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.asking.connect.api()?;
        block_on(self.action.run(&api, self.asking.output))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Action {
    async fn run(self, api: &Api, format: Format) -> anyhow::Result<()> {
        match self {
            Self::Create { name, scopes, expires_at } => {
                let mut body = json!({"name": name, "scopes": scopes});
                if let (Some(at), Some(body)) = (expires_at, body.as_object_mut()) {
                    body.insert("expires_at".to_owned(), at.into());
                }
                let issued = api.call(Method::POST, &["v1", "keys"], Some(&body)).await?;
                show_secret(format, &issued)
            }
            Self::List { limit } => {
                let found = api.list(&["v1", "keys"], &[], limit.into()).await?;
                render::show_list(format, found, &["ID", "NAME", "STANDING", "LAST USED", "SCOPES"], row)
            }
            Self::Show { id } => render::show_one(format, &api.get(&["v1", "keys", &id], &[]).await?),
            Self::Revoke { id } => {
                api.call(Method::DELETE, &["v1", "keys", &id], None).await?;
                output::progress(format_args!("revoked {}", render::plain(&id)));
                Ok(())
            }
            Self::Rotate { id, grace_seconds } => {
                let body = json!({"grace_seconds": grace_seconds});
                let rotated = api.call(Method::POST, &["v1", "keys", &id, "rotate"], Some(&body)).await?;
                show_secret(format, &rotated)
            }
        }
    }
}

fn show_secret(format: Format, key: &Value) -> anyhow::Result<()> {
    output::progress("the secret is shown this once: keep it now");
    render::show_one(format, key)
}

fn row(key: &Value) -> Vec<String> {
    let at = |pointer| render::at(key, pointer);
    let standing = match (at("/revoked_at").as_str(), at("/expires_at").as_str()) {
        ("-", "-") => "active".to_owned(),
        ("-", expires) => format!("expires {expires}"),
        (revoked, _) => format!("revoked {revoked}"),
    };
    vec![at("/id"), at("/name"), standing, at("/last_used_at"), at("/scopes")]
}
