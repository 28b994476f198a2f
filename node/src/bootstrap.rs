//! What a platform has before anybody asks: the system tenant, and a key for its operator.

use std::{pin::pin, time::Duration};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, timeout};
use wasmwiz_actors::{
    aggregate::Authority,
    handle::{Ask, AskError, Decided, Origin},
    ids::Ids,
    tenant::{Command, NewKey, Refusal, SYSTEM},
};
use wasmwiz_events::{
    id::TenantId,
    key::{Scope, Scopes},
    shard::Shard,
    tenant::Tier,
};
use wasmwiz_gateway::auth::api_key::{self, NewSecret};

use crate::{app::App, config::Config};

/// How long a start waits until what it recorded is shown: longer than a view lags that has nothing to catch up with.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

/// How long a start waits until the past of a tenant that it asks has been read: enough for hundreds of millions of
/// events at the hundred thousand a second of ADR 048. What was read until then is kept for the next start.
const AWAKE_WITHIN: Duration = Duration::from_secs(3_600);

/// How often a start that waits for that says so.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);

/// Makes sure that the system tenant exists and that its operator has a key. Gives the key if it was drawn now: at the
/// first start, when none is configured. Who loses it configures another.
///
/// # Errors
/// When the log does not take it, or the configured key is malformed or another key's id.
pub async fn operator(app: &App, config: &Config) -> anyhow::Result<Option<NewSecret>> {
    app.until_owned().await?;
    let configured = config.auth.operator_key.as_ref();
    let key = match configured {
        Some(text) => NewSecret::supplied(text.reveal(), app.hasher()).context(
            "auth.operator_key is not an API key; leave it out to have one drawn and printed at the first start",
        )?,
        None => draw(app),
    };
    if configured.is_some() && !is_systems_own(app, &key).await? {
        check_free(app, &key).await?;
    }
    let new = new_key(&key, "operator", Scopes::NONE.with(Scope::Operator));
    if register(app, SYSTEM, "System", Some(new.clone())).await? {
        return Ok(configured.is_none().then_some(key));
    }
    if configured.is_none() {
        return Ok(None);
    }
    // The entity answers, and no view that may be folding still: the same key with the same secret is there already.
    match issue(app, SYSTEM, new).await {
        Ok(_) => Ok(None),
        Err(AskError::Refused(Refusal::KeyExists)) => {
            bail!(
                "auth.operator_key has the id of a key that was revoked or has another secret; write the secret down that it \
                 was given last, or draw a new key"
            )
        }
        Err(error) => Err(error.into()),
    }
}

/// Does the system tenant have the key, or had it? Its entity answers, whatever the views know.
async fn is_systems_own(app: &App, key: &NewSecret) -> anyhow::Result<bool> {
    let by = Authority::Key(key.key_id().clone());
    match ask_by(app, SYSTEM, Command::Authorise(Scope::Operator), by).await {
        Err(AskError::Refused(Refusal::KeyUnknown | Refusal::NotRegistered)) => Ok(false),
        Ok(_) | Err(AskError::Refused(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a configured key whose id another tenant has: events are for ever, and an id stands for one key.
async fn check_free(app: &App, key: &NewSecret) -> anyhow::Result<()> {
    app.until_keys_are_folded().await?;
    match app.views().keys().holder(key.key_id()).await? {
        Some(holder) if holder.as_str() != SYSTEM => bail!(
            "auth.operator_key has the id of a key of tenant {holder}; leave it out to have one drawn and printed, or \
             configure the operator's own key"
        ),
        Some(_) | None => Ok(()),
    }
}

/// Draws a key.
#[expect(
    clippy::disallowed_methods,
    reason = "keys are drawn from the thread's cryptographic generator, here and in the gateway"
)]
pub fn draw(app: &App) -> NewSecret {
    api_key::draw(&mut rand::rng(), app.hasher())
}

/// Registers a tenant unless it is registered already; says whether it was now.
///
/// # Errors
/// When the log does not take it.
pub async fn register(app: &App, tenant: &str, name: &str, first_key: Option<NewKey>) -> anyhow::Result<bool> {
    let command = Command::Register { name: name.into(), tier: Tier::Enterprise, first_key };
    match ask(app, tenant, command).await {
        Ok(_) => Ok(true),
        Err(AskError::Refused(Refusal::AlreadyRegistered)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Issues a key of a tenant.
///
/// # Errors
/// When the tenant refuses, or the log does not take it.
pub async fn issue(app: &App, tenant: &str, new: NewKey) -> Result<Decided, AskError> {
    ask(app, tenant, Command::IssueKey(new)).await
}

/// A key as its tenant is to know it.
pub fn new_key(key: &NewSecret, name: &str, scopes: Scopes) -> NewKey {
    NewKey { key_id: key.key_id().clone(), name: name.into(), scopes, hash: key.hash(), expires_at: None }
}

async fn ask_by(app: &App, tenant: &str, command: Command, by: Authority) -> Result<Decided, AskError> {
    let tenant = TenantId::new(tenant)
        .map_err(|error| AskError::Unavailable { reason: error.to_string().into(), retry_after_ms: 0 })?;
    until_awake(app, &tenant).await?;
    let ask = Ask { command, by, origin: Origin::internal(Ids.command()), payloads: vec![] };
    app.bus().ask(&tenant, ask).await
}

/// Waits until a tenant's entity has read its past, which takes longer than a caller waits where nothing of it was
/// kept: a start would end with the first command that is not answered in time. A signal breaks this off, as all of a
/// start.
async fn until_awake(app: &App, tenant: &TenantId) -> Result<(), AskError> {
    let begun = Instant::now();
    let mut waking = pin!(app.bus().wake(tenant, AWAKE_WITHIN));
    loop {
        match timeout(STILL_WAITING_EVERY, waking.as_mut()).await {
            Ok(woken) => return woken,
            Err(_) => {
                let (waited_s, is_here) = (begun.elapsed().as_secs(), app.bus().region().owns(Shard::of(tenant)));
                tracing::warn!(tenant.id = %tenant, waited_s, is_here, "still waiting for a tenant to answer: its past is being read, or no node owns it");
            }
        }
    }
}

async fn ask(app: &App, tenant: &str, command: Command) -> Result<Decided, AskError> {
    let decided = ask_by(app, tenant, command, Authority::System).await?;
    // Whoever is told a key may use it at once. A node whose views are still catching up says so by its readiness.
    if let Err(behind) = app.views().wait_for(decided.position, VISIBLE_WITHIN).await {
        tracing::warn!(%behind, "a key is recorded, and this node does not know it yet");
    }
    Ok(decided)
}
