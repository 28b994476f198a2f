//! What things look like on the wire. One struct a resource; serde writes it, poem-openapi documents it.

use poem_openapi::Object;
use serde::Serialize;
use wasmwiz_events::{key::Scopes, settings::Settings, time::Timestamp};
use wasmwiz_projections::{
    keys::{KeyRecord, Standing, TenantRecord},
    modules::ModuleRecord,
};

mod cluster;
mod execution;
mod standing;
mod usage;
mod verification;

pub(crate) use cluster::Cluster;
pub(crate) use execution::{Execution, ExecutionSummary, Output, Resource, Streams};
pub(crate) use standing::{SkipRequest, Views};
pub(crate) use usage::{Storage, Usage, UsageSum};
pub(crate) use verification::Verification;

/// What is wrong, as in RFC 9457.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Problem {
    /// What kind of problem: `https://wasmwiz.dev/problems/<slug>`. Stable.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub(crate) type_uri: String,
    /// What the kind is called.
    pub(crate) title: String,
    /// The status of the answer.
    pub(crate) status: u16,
    /// What is wrong this time, and what to do about it.
    pub(crate) detail: String,
    /// The path of the request.
    pub(crate) instance: String,
    /// The id of the request, as in `X-Request-Id`.
    pub(crate) request_id: String,
    /// A stable name within the kind.
    pub(crate) reason: Option<String>,
    /// The parts of the request that are wrong.
    pub(crate) errors: Option<Vec<Fault>>,
}

/// One part of a request that is wrong.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Fault {
    /// Where: a JSON pointer into the body, `query:<name>`, or `part:<name>`.
    pub(crate) at: String,
    /// What is wrong.
    pub(crate) detail: String,
}

/// A tenant.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Tenant {
    /// Its id.
    pub(crate) id: String,
    /// Its name, for people.
    pub(crate) name: String,
    /// Its class of limits: free, basic, pro or enterprise.
    pub(crate) tier: String,
    /// active or suspended.
    pub(crate) status: String,
    /// Why it is suspended, in the operator's words.
    pub(crate) suspended_reason: Option<String>,
    /// When it was registered.
    pub(crate) created_at: String,
}

impl From<&TenantRecord> for Tenant {
    fn from(record: &TenantRecord) -> Self {
        let (status, suspended_reason) = match &record.standing {
            Standing::Active => ("active", None),
            Standing::Suspended { reason } => ("suspended", reason.clone()),
        };
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            tier: record.tier.as_str().to_owned(),
            status: status.to_owned(),
            suspended_reason,
            created_at: record.registered_at.to_string(),
        }
    }
}

/// The first key of a tenant. Its secret is shown this once.
#[derive(Debug, Serialize, Object)]
pub(crate) struct InitialKey {
    /// The public part.
    pub(crate) id: String,
    /// The whole key: what goes after `Bearer`. Null in a repeated answer: a secret is shown once.
    pub(crate) secret: Option<String>,
    /// What it may do.
    pub(crate) scopes: Vec<String>,
}

/// A tenant that was just registered.
#[derive(Debug, Serialize, Object)]
pub(crate) struct NewTenant {
    /// Its id.
    pub(crate) id: String,
    /// Its name, for people.
    pub(crate) name: String,
    /// Its class of limits.
    pub(crate) tier: String,
    /// active.
    pub(crate) status: String,
    /// When it was registered.
    pub(crate) created_at: String,
    /// Its first key.
    pub(crate) initial_key: InitialKey,
}

/// Makes an execution of the record of another. What is absent is as it was.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct RerunRequest {
    /// Another version of the module.
    pub(crate) version: Option<u32>,
    /// Another standard input.
    pub(crate) stdin: Option<String>,
    /// How stdin is written: utf-8, or base64; utf-8 when absent.
    pub(crate) stdin_encoding: Option<String>,
    /// Other arguments.
    pub(crate) args: Option<Vec<String>>,
    /// How much fuel the guest is given, about a unit for each instruction; when absent as much as was recorded, or as another version says.
    pub(crate) fuel: Option<u64>,
    /// Is the guest to see the recorded time and random numbers? Otherwise it has its own. With clock=host it sees the host's time all the same.
    pub(crate) as_recorded: Option<bool>,
}

/// Registers a tenant.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct TenantRequest {
    /// Its name: 1 to 100 characters.
    pub(crate) name: String,
    /// Its class of limits: free, basic, pro or enterprise.
    pub(crate) tier: String,
}

/// Changes a tenant. At least one member.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct TenantPatch {
    /// Another name.
    pub(crate) name: Option<String>,
    /// Another class of limits.
    pub(crate) tier: Option<String>,
}

/// Why a tenant is suspended.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct Suspension {
    /// In the operator's words.
    pub(crate) reason: Option<String>,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Key {
    /// The public part.
    pub(crate) id: String,
    /// What the tenant calls it.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) scopes: Vec<String>,
    /// When it was issued.
    pub(crate) created_at: String,
    /// When it stops working by itself.
    pub(crate) expires_at: Option<String>,
    /// When it was last let in by this node, to the minute, or an execution was last accepted for it, whichever is later.
    pub(crate) last_used_at: Option<String>,
    /// When it was revoked.
    pub(crate) revoked_at: Option<String>,
}

impl From<&KeyRecord> for Key {
    fn from(record: &KeyRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            scopes: names(record.scopes),
            created_at: record.created_at.to_string(),
            expires_at: record.expires_at.map(written),
            last_used_at: record.last_used_at.map(written),
            revoked_at: record.revoked_at.map(written),
        }
    }
}

/// A key that was just issued. Its secret is shown this once.
#[derive(Debug, Serialize, Object)]
pub(crate) struct NewKey {
    /// The public part.
    pub(crate) id: String,
    /// What the tenant calls it.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) scopes: Vec<String>,
    /// The whole key: what goes after `Bearer`. Null in a repeated answer: a secret is shown once.
    pub(crate) secret: Option<String>,
    /// When it was issued.
    pub(crate) created_at: String,
    /// When it stops working by itself.
    pub(crate) expires_at: Option<String>,
}

/// Issues a key.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct KeyRequest {
    /// What to call it: 1 to 100 characters.
    pub(crate) name: String,
    /// What it may do; none that the asking key lacks.
    pub(crate) scopes: Vec<String>,
    /// When it is to stop working by itself, as in RFC 3339.
    pub(crate) expires_at: Option<String>,
}

/// A key with a new secret, which is shown this once.
#[derive(Debug, Serialize, Object)]
pub(crate) struct RotatedKey {
    /// The public part, as before.
    pub(crate) id: String,
    /// What the tenant calls it.
    pub(crate) name: String,
    /// What it may do, as before.
    pub(crate) scopes: Vec<String>,
    /// The whole key with its new secret. Null in a repeated answer: a secret is shown once.
    pub(crate) secret: Option<String>,
    /// When it got the new secret.
    pub(crate) rotated_at: String,
    /// Until when the old secret works too.
    pub(crate) grace_until: String,
    /// When it stops working by itself.
    pub(crate) expires_at: Option<String>,
}

/// Gives a key a new secret.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct RotationRequest {
    /// For how many seconds the old secret works too: 0, not at all, to 604800, a week.
    pub(crate) grace_seconds: u64,
}

/// Asks for a token.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// What it may do; none that the asking key lacks. Without it, all that the key may do.
    pub(crate) scopes: Option<Vec<String>>,
    /// How long it is to be good, in seconds. A key that expires before ends it before.
    pub(crate) ttl_seconds: Option<u32>,
}

/// A token that was just signed, as in RFC 6749.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Token {
    /// The token: what goes after `Bearer`.
    pub(crate) access_token: String,
    /// `Bearer`.
    pub(crate) token_type: String,
    /// How long it is good, in seconds.
    pub(crate) expires_in: u32,
    /// What it may do, with blanks between.
    pub(crate) scope: String,
}

/// The keys that verify the platform's tokens, as in RFC 7517.
#[derive(Debug, Object)]
pub(crate) struct PublicKeys {
    /// The keys, the one that signs first.
    pub(crate) keys: Vec<PublicKey>,
}

/// A public key, as in RFC 8037.
#[derive(Debug, Object)]
pub(crate) struct PublicKey {
    /// `OKP`.
    pub(crate) kty: String,
    /// `Ed25519`.
    pub(crate) crv: String,
    /// The key, in base64url.
    pub(crate) x: String,
    /// Its name: its thumbprint (RFC 7638).
    pub(crate) kid: String,
    /// `sig`.
    #[oai(rename = "use")]
    pub(crate) usage: String,
    /// `EdDSA`.
    pub(crate) alg: String,
}

/// A version of a module.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Module {
    /// The tenant's name for it.
    pub(crate) name: String,
    /// Its version; 1 is the first.
    pub(crate) version: u32,
    /// SHA-256 of its bytes, as `sha256:<hex>`.
    pub(crate) digest: String,
    /// How many bytes.
    pub(crate) size_bytes: u64,
    /// core or component.
    pub(crate) kind: String,
    /// Its imports as `module.name`.
    pub(crate) imports: Vec<String>,
    /// Its exports.
    pub(crate) exports: Vec<String>,
    /// How its executions run.
    pub(crate) settings: VersionSettings,
    /// When it was published.
    pub(crate) created_at: String,
}

/// How the executions of a version run: said when it was published, and part of it for ever.
#[derive(Debug, Clone, Serialize, Object)]
pub(crate) struct VersionSettings {
    /// What sleeping is to a guest: wait, its own time moves and it waits as long; or skip, its own time moves and nobody waits.
    pub(crate) sleep: String,
    /// Which clocks a guest reads: virtual, its own, which begin at its acceptance and move by rule; or host, the host's, of which what
    /// they said is kept.
    pub(crate) clock: String,
    /// Is each execution metered?
    pub(crate) metered: bool,
    /// How much fuel each execution has unless it asks for less, if it is metered.
    pub(crate) fuel: Option<u64>,
}

impl From<Settings> for VersionSettings {
    fn from(Settings { sleep, clock, fuel }: Settings) -> Self {
        Self { sleep: sleep.to_string(), clock: clock.to_string(), metered: fuel.is_some(), fuel }
    }
}

impl From<ModuleRecord> for Module {
    fn from(record: ModuleRecord) -> Self {
        Self {
            name: record.name.to_string(),
            version: record.version,
            digest: record.digest.to_string(),
            size_bytes: record.size_bytes,
            kind: record.kind.as_str().to_owned(),
            imports: record.imports,
            exports: record.exports,
            settings: record.settings.into(),
            created_at: record.created_at.to_string(),
        }
    }
}

/// Which code was run.
#[derive(Debug, Clone, Serialize, Object)]
pub(crate) struct ModuleUsed {
    /// The tenant's name for it; null when it came with the request.
    pub(crate) name: Option<String>,
    /// Its version; null when it came with the request.
    pub(crate) version: Option<u32>,
    /// SHA-256 of its bytes.
    pub(crate) digest: String,
}

/// Which streams were cut off at their limit.
#[derive(Debug, Clone, Copy, Serialize, Object)]
pub(crate) struct Truncated {
    /// Standard output.
    pub(crate) stdout: bool,
    /// Standard error.
    pub(crate) stderr: bool,
}

/// Which streams the resource has as far as they are kept. Of one that is false it has the beginning, and the execution's
/// /stdout or /stderr has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Object)]
pub(crate) struct Inline {
    /// Standard output.
    pub(crate) stdout: bool,
    /// Standard error.
    pub(crate) stderr: bool,
}

/// What an execution used.
#[derive(Debug, Clone, Copy, Serialize, Object)]
pub(crate) struct ResourceUse {
    /// How much fuel it used up; null when it was not metered, or was stopped in the midst of something.
    pub(crate) fuel: Option<u64>,
    /// CPU time, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Time from start to end, in milliseconds.
    pub(crate) wall_ms: f64,
    /// The most linear memory it held, in bytes.
    pub(crate) peak_memory_bytes: u64,
    /// Standard input, in bytes.
    pub(crate) stdin_bytes: u64,
    /// Standard output kept, in bytes.
    pub(crate) stdout_bytes: u64,
}

/// One event, as the log has it: a CloudEvent, and its place in the log.
#[derive(Debug, Serialize, Object)]
pub(crate) struct AuditEvent {
    /// Where the log has it: good for `Wasmwiz-Min-Position`.
    pub(crate) position: String,
    /// 1.0
    pub(crate) specversion: String,
    /// The event's id.
    pub(crate) id: String,
    /// What happened, for instance `dev.wasmwiz.key.issued.v1`.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub(crate) type_name: String,
    /// `/tenants/<tenant>`
    pub(crate) source: String,
    /// What it is about, for instance `keys/4kD2`.
    pub(crate) subject: String,
    /// When it was decided.
    pub(crate) time: String,
    /// Its place in the tenant's stream.
    pub(crate) revision: u64,
    /// The command that it follows from.
    pub(crate) causation: String,
    /// The request that carried the command.
    pub(crate) correlation: Option<String>,
    /// Who did it.
    pub(crate) actor: String,
    /// W3C trace context of the request.
    pub(crate) traceparent: Option<String>,
    /// What belongs to its type.
    pub(crate) data: serde_json::Value,
}

/// The end of the tenant's stream.
#[derive(Debug, Serialize, Object)]
pub(crate) struct AuditHead {
    /// Revision of the last event.
    pub(crate) revision: u64,
    /// Hash of the last commit, hexadecimal: it covers everything before it.
    pub(crate) hash: String,
    /// Where the log has that commit.
    pub(crate) position: String,
}

/// The result of one check.
#[derive(Debug, Clone, Serialize, Object)]
pub(crate) struct Check {
    /// ok, failing or disabled.
    pub(crate) status: String,
    /// What is wrong, or how it stands.
    pub(crate) message: String,
}

/// The results of all checks.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Checks {
    /// Can the log be read?
    pub(crate) event_log: Check,
    /// Do the views follow the log?
    pub(crate) projections: Check,
    /// Does a real module run?
    pub(crate) executor: Check,
    /// Do subscribers get the events?
    pub(crate) feed: Check,
}

/// How the node is.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Health {
    /// ok or failing.
    pub(crate) status: String,
    /// Why.
    pub(crate) checks: Checks,
}

/// A probe's answer.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Probe {
    /// ok, or not ready.
    pub(crate) status: String,
    /// What is not ready.
    pub(crate) not_ready: Vec<String>,
}

/// The names of a set of scopes.
pub(crate) fn names(scopes: Scopes) -> Vec<String> {
    scopes.iter().map(|scope| scope.as_str().to_owned()).collect()
}

/// A time as the API writes it.
pub(crate) fn written(time: Timestamp) -> String {
    time.to_string()
}
