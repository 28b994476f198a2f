//! `wasmwiz operator`: the keys of the platform's operators, without a node: for who has lost the last one, or has seen it leak.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use wasmwiz_actors::{
    aggregate::Authority,
    handle::{Ask, Origin},
    ids::Ids,
    ownership::Alone,
    region::{Region, RegionDeps},
    tenant::{Command, NewKey, SYSTEM},
};
use wasmwiz_events::{
    event::Event,
    id::{KeyId, TenantId},
    key::{Scope, Scopes},
    log::{EventLog, ReadLimit},
    revision::Revision,
    time::{Clock as _, SystemClock, Timestamp},
};
use wasmwiz_gateway::auth::api_key::{self, Hasher, NewSecret, Secret};

use super::output::{self, Output};
use crate::{
    app,
    config::{Config, LogKind},
    store::Store,
};

/// Who the history says it was.
const ACTOR: &str = "command-line";

/// How long what was decided may take to become durable.
const CLOSE_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// List, issue, rotate and revoke operators' keys in the log itself. The node must not be running: while it does, an operator
/// has `wasmwiz key`. A log on JetStream belongs to running nodes: `wasmwiz token mint --operator` lets you in to those.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wasmwiz operator list --data .wasmwiz\n  wasmwiz operator issue --config wasmwiz.toml\n  \
                        wasmwiz operator revoke 4kD2xYz0aBcD --config wasmwiz.toml"
)]
pub struct Operator {
    #[command(subcommand)]
    action: Action,
    /// The node's configuration file: needed when it has a pepper, for secrets are hashed with it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The node's data folder, instead of the configuration's.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the keys, the first issued first; revoked ones among them.
    List,
    /// Issue a key. It is shown this once.
    Issue {
        /// What to call it.
        #[arg(long, value_name = "NAME", default_value = "operator")]
        name: String,
    },
    /// Give a key another secret, shown this once. The old one stops working.
    Rotate {
        /// Its id: what stands between ww_ and the next _.
        id: KeyId,
    },
    /// Revoke a key for ever.
    Revoke {
        /// Its id.
        id: KeyId,
    },
}

/// A key of the system tenant, as its events say.
#[derive(Debug, Clone, Serialize)]
struct Row {
    id: KeyId,
    name: String,
    scopes: Scopes,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl Operator {
    /// Runs it.
    ///
    /// # Errors
    /// When a node holds the log, there is none, or the system tenant refuses.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut config = Config::load(self.config.as_deref())?.config;
        if let Some(data) = self.data {
            config.node.data_dir = data;
        }
        ensure!(
            config.log.kind == LogKind::Sqlite,
            "this log belongs to its running nodes; `wasmwiz token mint --operator` lets you in to them"
        );
        app::runtime()?.block_on(async {
            let store = Store::open_existing(&config).await.with_context(|| {
                format!(
                    "the log below {} cannot be changed; stop its node, or ask that with `wasmwiz key`",
                    config.node.data_dir.display()
                )
            })?;
            let done = Box::pin(self.action.run(&config, &store, self.output)).await;
            store.close().await;
            done
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Action {
    async fn run(self, config: &Config, store: &Store, output: Output) -> anyhow::Result<()> {
        let system = TenantId::new(SYSTEM)?;
        let hasher = Hasher::new(config.auth.pepper.as_ref().map(|pepper| Secret::new(pepper.reveal().as_bytes())));
        match self {
            Self::List => {
                show(&keys(&store.log, &system).await?, output);
                Ok(())
            }
            Self::Issue { name } => {
                let secret = draw(&hasher);
                let scopes = Scopes::NONE.with(Scope::Operator);
                let new =
                    NewKey { key_id: secret.key_id().clone(), name, scopes, hash: secret.hash(), expires_at: None };
                ask(config, store, &system, Command::IssueKey(new)).await?;
                reveal(&secret);
                Ok(())
            }
            Self::Rotate { id } => {
                let secret = draw_again(&id, &hasher)?;
                let command = Command::RotateKey { key_id: id, hash: secret.hash(), grace_ms: 0 };
                ask(config, store, &system, command).await?;
                reveal(&secret);
                Ok(())
            }
            Self::Revoke { id } => {
                ask(config, store, &system, Command::RevokeKey { key_id: id.clone() }).await?;
                output::progress(format_args!("revoked {id}"));
                Ok(())
            }
        }
    }
}

/// Folds the keys of the system tenant out of its stream.
async fn keys(log: &Arc<dyn EventLog>, system: &TenantId) -> anyhow::Result<Vec<Row>> {
    let (mut rows, mut by_id) = (Vec::<Row>::new(), BTreeMap::new());
    let mut from = Revision::NONE.next();
    loop {
        let commits = log.read_stream(system, from, ReadLimit::default()).await?;
        let Some(last) = commits.last() else { return Ok(rows) };
        from = last.commit.head().revision.next();
        for recorded in &commits {
            for envelope in recorded.commit.events()?.iter() {
                match &envelope.event {
                    Event::KeyIssued(issued) => {
                        by_id.insert(issued.key_id.clone(), rows.len());
                        rows.push(Row {
                            id: issued.key_id.clone(),
                            name: issued.name.clone(),
                            scopes: issued.scopes,
                            created_at: envelope.time,
                            expires_at: issued.expires_at,
                            revoked_at: None,
                        });
                    }
                    Event::KeyRevoked(revoked) => {
                        if let Some(row) = by_id.get(&revoked.key_id).and_then(|at| rows.get_mut(*at)) {
                            row.revoked_at = Some(envelope.time);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Has the system tenant decide, as it does while a node runs.
async fn ask(config: &Config, store: &Store, system: &TenantId, command: Command) -> anyhow::Result<()> {
    let deps = RegionDeps {
        log: Arc::clone(&store.log),
        clock: Arc::new(SystemClock),
        policy: config.tiers,
        ownership: Arc::new(Alone { node: config.node.name.clone(), boot: Ids.boot() }),
        // One command of the smallest tenant.
        snapshots: None,
    };
    let region = Region::start(config.region, deps).await?;
    let by = Authority::Operator(ACTOR.to_owned());
    let asked = Ask { command, by, origin: Origin::internal(Ids.command()), payloads: vec![] };
    let decided = region.ask(system, asked).await;
    region.shutdown(CLOSE_WITHIN).await;
    match decided {
        Ok(_) => Ok(()),
        Err(error) => bail!("{error}"),
    }
}

fn show(rows: &[Row], output: Output) {
    match output {
        Output::Json => rows.iter().for_each(|row| output::line(serde_json::json!(row))),
        Output::Table => {
            output::line(format_args!("{:<14}{:<26}{:<34}NAME", "ID", "ISSUED", "STANDING"));
            let now = SystemClock.now();
            for row in rows {
                let standing = match (row.revoked_at, row.expires_at) {
                    (Some(at), _) => format!("revoked {at}"),
                    (None, Some(at)) if at <= now => format!("expired {at}"),
                    (None, _) => "live".to_owned(),
                };
                let (id, issued) = (row.id.as_str(), row.created_at.to_string());
                output::line(format_args!("{id:<14}{issued:<26}{standing:<34}{}", row.name.escape_debug()));
            }
        }
    }
}

fn reveal(secret: &NewSecret) {
    output::progress("this is the operator's API key; it is shown this once:");
    output::line(secret.text());
}

#[expect(clippy::disallowed_methods, reason = "keys are drawn from the thread's cryptographic generator")]
fn draw(hasher: &Hasher) -> NewSecret {
    api_key::draw(&mut rand::rng(), hasher)
}

#[expect(clippy::disallowed_methods, reason = "secrets are drawn from the thread's cryptographic generator")]
fn draw_again(id: &KeyId, hasher: &Hasher) -> anyhow::Result<NewSecret> {
    api_key::draw_again(&mut rand::rng(), id, hasher).context("the id is that of no API key")
}
