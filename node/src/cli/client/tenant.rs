//! `wasmwiz tenant`: register and run tenants, as an operator.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Format, asking::Asking, block_on, failure::EXIT_CODES, http::Api, render};
use crate::cli::output;

/// Register, list, show, change, suspend and resume tenants. Needs an operator's key.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz tenant create Acme --tier pro\n  wasmwiz tenant \
                        suspend t-abc --reason 'unpaid'"))]
pub struct Tenant {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Register a tenant. The secret of its first key is shown this once.
    Create {
        /// Its name, for people.
        name: String,
        /// Its class of limits: free, basic, pro or enterprise.
        #[arg(long)]
        tier: String,
    },
    /// List tenants.
    List {
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
    },
    /// Show a tenant.
    Show {
        /// Its id.
        id: String,
    },
    /// Change a tenant's name, tier, or both.
    #[command(group(ArgGroup::new("what").args(["name", "tier"]).required(true).multiple(true)))]
    Change {
        /// Its id.
        id: String,
        /// Another name.
        #[arg(long)]
        name: Option<String>,
        /// Another class of limits.
        #[arg(long)]
        tier: Option<String>,
    },
    /// Suspend a tenant: its keys open nothing until it is resumed.
    Suspend {
        /// Its id.
        id: String,
        /// Why, in your words.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a suspended tenant in again.
    Resume {
        /// Its id.
        id: String,
    },
}

impl Tenant {
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
        let (method, id, act, body) = match self {
            Self::List { limit } => {
                let found = api.list(&["v1", "tenants"], &[], limit.into()).await?;
                return render::show_list(format, found, &["ID", "NAME", "TIER", "STATUS", "CREATED"], row);
            }
            Self::Create { name, tier } => {
                let body = json!({"name": name, "tier": tier});
                let created = api.call(Method::POST, &["v1", "tenants"], Some(&body)).await?;
                output::progress("the secret of the first key is shown this once: keep it now");
                return render::show_one(format, &created);
            }
            Self::Show { id } => (Method::GET, id, None, None),
            Self::Change { id, name, tier } => (Method::PATCH, id, None, given([("name", name), ("tier", tier)])),
            Self::Suspend { id, reason } => (Method::POST, id, Some("suspend"), given([("reason", reason)])),
            Self::Resume { id } => (Method::POST, id, Some("resume"), None),
        };
        let path: Vec<_> = ["v1", "tenants", &id].into_iter().chain(act).collect();
        render::show_one(format, &api.call(method, &path, body.as_ref()).await?)
    }
}

/// An object of the members that were given; `None` of none.
fn given<const N: usize>(members: [(&str, Option<String>); N]) -> Option<Value> {
    let members: Map<_, _> =
        members.into_iter().filter_map(|(name, value)| Some((name.into(), value?.into()))).collect();
    (!members.is_empty()).then_some(Value::Object(members))
}

fn row(tenant: &Value) -> Vec<String> {
    ["/id", "/name", "/tier", "/status", "/created_at"].map(|part| render::at(tenant, part)).into()
}
