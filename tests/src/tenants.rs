//! Tenants and keys for the scenarios, made through the API as an operator and a tenant would.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use wasmwiz_gateway::auth::api_key;

use crate::client::Client;

/// Everything a tenant may do within itself.
pub const SCOPES: [&str; 7] =
    ["executions:run", "executions:read", "modules:read", "modules:write", "keys:manage", "usage:read", "audit:read"];

/// An operator's key that was drawn once for the tests; it opens nothing else.
pub const OPERATOR_KEY: &str = "ww_TestOperator_forTheTestsAloneItOpensNothing001SOlcj";

/// How many characters of a key's end are its checksum.
const CHECKSUM_CHARS: usize = 6;

/// A tenant, and a client that holds its first key.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Sends requests with its first key, which has every scope of a tenant.
    pub client: Client,
    /// That key.
    pub key: Key,
}

/// A key that was issued.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its public part.
    pub id: String,
    /// Its whole text, shown once.
    pub secret: String,
}

impl Key {
    /// What only somebody without the secret would present: this key's id with the secret of `other`, right in form down
    /// to its checksum.
    ///
    /// # Errors
    /// When the text of `other` is no key.
    pub fn with_secret_of(&self, other: &Self) -> anyhow::Result<String> {
        let rest = other.secret.strip_prefix(&format!("ww_{}_", other.id)).context("not a key")?;
        let secret = rest.len().checked_sub(CHECKSUM_CHARS).and_then(|end| rest.get(..end)).context("too short")?;
        Ok(api_key::text_of(&self.id, secret))
    }
}

/// Registers a tenant of this tier, with a first key.
///
/// # Errors
/// When the answer is not a 201 of the shape that the contract says.
pub async fn register(operator: &Client, name: &str, tier: &str) -> anyhow::Result<Tenant> {
    let body = json!({"name": name, "tier": tier});
    let answer = operator.post_json("/v1/tenants", &body).await?.expect(StatusCode::CREATED)?;
    let registered: Value = answer.json()?;
    let id = registered["id"].as_str().context("the tenant has no id")?.to_owned();
    let key = key_of(&registered["initial_key"])?;
    Ok(Tenant { id, client: operator.with_credential(&key.secret), key })
}

/// Issues a key with these scopes.
///
/// # Errors
/// As [`register`].
pub async fn issue(client: &Client, name: &str, scopes: &[&str]) -> anyhow::Result<Key> {
    let answer = client.post_json("/v1/keys", &json!({"name": name, "scopes": scopes})).await?;
    key_of(&answer.expect(StatusCode::CREATED)?.json()?)
}

/// A client with a new key that has one scope only.
///
/// # Errors
/// As [`issue`].
pub async fn only(client: &Client, scope: &str) -> anyhow::Result<Client> {
    Ok(client.with_credential(&issue(client, scope, &[scope]).await?.secret))
}

/// A client with a new key that has every scope of a tenant but one.
///
/// # Errors
/// As [`issue`].
pub async fn all_but(client: &Client, scope: &str) -> anyhow::Result<Client> {
    let scopes: Vec<_> = SCOPES.into_iter().filter(|other| *other != scope).collect();
    ensure!(scopes.len() + 1 == SCOPES.len(), "{scope} is no scope of a tenant");
    Ok(client.with_credential(&issue(client, "all but one", &scopes).await?.secret))
}

fn key_of(issued: &Value) -> anyhow::Result<Key> {
    let text = |member: &str| issued[member].as_str().map(str::to_owned);
    let (id, secret) = (text("id").context("the key has no id")?, text("secret").context("the key has no secret")?);
    ensure!(secret.starts_with(&format!("ww_{id}_")), "the key does not begin with ww_ and its id");
    Ok(Key { id, secret })
}
