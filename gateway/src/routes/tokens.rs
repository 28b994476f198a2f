//! Tokens for keys, and the public keys that verify them.

use http::{HeaderValue, StatusCode, header};
use poem::Request;
use serde_json::json;
use wasmwiz_actors::{
    ids::Ids,
    tenant::{Command, Refusal},
};
use wasmwiz_events::{
    key::{Scope, Scopes},
    time::Timestamp,
};
use wasmwiz_projections::keys::KeyRecord;

use super::{json as of_json, uncounted};
use crate::{
    auth::{
        Caller,
        config::TokensConfig,
        token::{self, Grant},
    },
    extract::{Context, Query, json::Fields},
    gateway::Gateway,
    idempotency,
    openapi::Operation,
    problem::{Kind, Problem, UNAUTHENTICATED},
    router::Answer,
    views,
};

/// How long others may keep the public keys, in seconds: shorter than the first step of a rotation takes.
const KEYS_FOR: &str = "public, max-age=300";

/// POST /v1/tokens
pub(crate) async fn issue(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let Some(key) = caller.key() else {
        return Err(not_a_key());
    };
    idempotency::none(
        request.headers(),
        "A token is drawn anew for each request, and none is kept. Leave the key out.",
    )?;
    let config = &gateway.config().tokens;
    let fields = Fields::read_optional(&gateway, &caller, &mut request).await?;
    let Wanted { scopes, ttl_seconds } = fields.map_or(Ok(Wanted::default()), |fields| wanted(fields, config))?;
    let scopes = scopes.unwrap_or(key.scopes);
    if !key.scopes.covers(scopes) {
        return Err(Refusal::WiderScopes.into());
    }
    // The view that let the key in may be behind. The tenant knows whether the key holds, and how far the view must be to tell
    // whether its secret does: a token for one that has ended would count, as it is given after that.
    if let Some(scope) = scopes.iter().next() {
        let origin = Context::origin(&request);
        let asked = gateway.ask(caller.tenant_id(), Command::Authorise(scope), caller.authority(), origin).await;
        let asked = asked.map_err(Problem::not_authorised)?;
        gateway.until_known(asked.position).await?;
    }
    let caller = gateway.renewed(&caller).ok_or_else(|| Problem::new(Kind::Unauthenticated, UNAUTHENTICATED))?;
    let Some(key) = caller.key() else { return Err(not_a_key()) };
    let now = gateway.deps().clock.now();
    let ttl_seconds = lifetime(key, ttl_seconds.unwrap_or(config.ttl_seconds), now);
    let id = Ids.command().to_string();
    let counts_from = key.tokens_count_from(now);
    let grant = Grant { key: &key.id, tenant: caller.tenant_id(), scopes, ttl_seconds, id: &id, counts_from };
    let signed = token::of_key(&gateway.deps().keyring, config, grant, now).map_err(Problem::internal)?;
    let body = views::Token {
        access_token: signed,
        token_type: "Bearer".into(),
        expires_in: ttl_seconds,
        scope: token::words(scopes),
    };
    let mut response = of_json(&gateway.reserve_of(&caller), StatusCode::OK, &body)?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn not_a_key() -> Problem {
    Problem::new(Kind::KeyRequired, "A token is given for an API key, not for a token. Send the key.")
}

#[derive(Default)]
struct Wanted {
    scopes: Option<Scopes>,
    ttl_seconds: Option<u32>,
}

fn wanted(mut fields: Fields, config: &TokensConfig) -> Result<Wanted, Problem> {
    let names = fields.optional::<Vec<String>>("scopes");
    let ttl_seconds = fields.optional::<u32>("ttl_seconds");
    let mut scopes = Scopes::NONE;
    for (index, name) in names.iter().flatten().enumerate() {
        match name.parse::<Scope>() {
            Ok(scope) => scopes = scopes.with(scope),
            Err(error) => fields.fault(format!("/scopes/{index}"), error.to_string()),
        }
    }
    if names.as_ref().is_some_and(Vec::is_empty) {
        fields.fault("/scopes", "must name at least one scope; leave it out for all that the key has");
    }
    if ttl_seconds.is_some_and(|seconds| !(1..=config.ttl_seconds_max).contains(&seconds)) {
        fields.fault("/ttl_seconds", format!("must lie between 1 and {}", config.ttl_seconds_max));
    }
    let scopes = names.map(|_| scopes);
    fields.finish(Some(Wanted { scopes, ttl_seconds }))
}

/// A token never outlives its key. One of a key that ends within a second has that second.
fn lifetime(key: &KeyRecord, ttl_seconds: u32, now: Timestamp) -> u32 {
    let Some(expires_at) = key.expires_at else { return ttl_seconds };
    let left = u32::try_from(expires_at.ms_since(now) / 1_000).unwrap_or(u32::MAX);
    ttl_seconds.min(left).max(1)
}

/// GET /.well-known/jwks.json
pub(crate) async fn keys(gateway: Gateway, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let mut response = uncounted(StatusCode::OK, &json!({"keys": gateway.deps().keyring.public()}))?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(KEYS_FOR));
    Ok(response)
}

pub(crate) fn issue_doc() -> Operation {
    Operation::new("issueToken", "keys", "Exchange an API key for a short-lived token")
        .describe(
            "The token does what its scopes and those of the key both allow. It ends with its key: when that is revoked or \
             expires, and while the tenant is suspended. Without a body it has all scopes of the key.",
        )
        .takes_json::<views::TokenRequest>(false)
        .answers::<views::Token>(200, "The token")
        .with_header("Cache-Control", "no-store")
        .problem(&[Kind::KeyRequired, Kind::WiderScopes, Kind::MissingScope])
        .of_any_key()
}

pub(crate) fn keys_doc() -> Operation {
    Operation::new("publicKeys", "keys", "Read the public keys that verify the platform's tokens")
        .answers::<views::PublicKeys>(200, "The keys, as in RFC 7517")
        .with_header("Cache-Control", "How long they may be kept.")
        .problem(&[Kind::InvalidQuery])
}
