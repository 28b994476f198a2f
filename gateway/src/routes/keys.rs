//! API keys of the caller's tenant.

use http::StatusCode;
use poem::{Request, Response};
use wasmwiz_actors::{
    handle::Decided,
    tenant::{
        Command, NewKey,
        idempotency::{Came, Replayed},
    },
};
use wasmwiz_events::{
    id::KeyId,
    key::{Scope, Scopes},
    time::Timestamp,
};
use wasmwiz_projections::{keys::KeyRecord, views::View};

use super::{RECEIPT_BYTES, json, receipt};
use crate::{
    auth::{
        Caller,
        api_key::{self, NewSecret},
    },
    etag::{self, About, Tag},
    extract::{Context, Query, json::Fields, not_found, path},
    gateway::Gateway,
    idempotency,
    openapi::Operation,
    page::Paging,
    position,
    problem::{Kind, Problem},
    router::Answer,
    views,
};

/// POST /v1/keys
pub(crate) async fn issue(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let fields = Fields::read(&gateway, &caller, &mut request).await?;
    let once = idempotency::of(&request, &caller, [&fields.digest().as_bytes()[..]])?;
    let (name, scopes, expires_at) = wanted(fields)?;
    let room = gateway.reserve_of(&caller).room(RECEIPT_BYTES)?;
    let secret = draw(&gateway);
    let (key_id, hash) = (secret.key_id().clone(), secret.hash());
    let command = Command::IssueKey(NewKey { key_id, name: name.clone(), scopes, hash, expires_at });
    let origin = Context::origin(&request).once(once);
    let decided = gateway.ask(caller.tenant_id(), command, caller.authority(), origin).await?;
    gateway.until_visible(View::Keys, decided.position).await;
    let Issued { key_id, at, secret } = Issued::of(&decided, secret);
    let replayed = secret.is_none();
    let body = views::NewKey {
        id: key_id.to_string(),
        name,
        scopes: views::names(scopes),
        secret,
        created_at: views::written(at),
        expires_at: expires_at.map(views::written),
    };
    let mut response = receipt(room, StatusCode::CREATED, &body)?;
    position::mark(&mut response, decided.position);
    super::locate(&mut response, &format!("/v1/keys/{}", body.id));
    if replayed {
        idempotency::mark(&mut response);
    }
    Ok(response)
}

/// The key that came of a request: now, or when the same one was sent before.
pub(super) struct Issued {
    pub(super) key_id: KeyId,
    /// When it was decided.
    pub(super) at: Timestamp,
    /// Shown when it was drawn, and never again.
    pub(super) secret: Option<String>,
}

impl Issued {
    pub(super) fn of(decided: &Decided, drawn: NewSecret) -> Self {
        match &decided.replayed {
            Some(Replayed { came: Came::Key(key_id), at, .. }) => {
                Self { key_id: key_id.clone(), at: *at, secret: None }
            }
            // The digest of a request covers its path: nothing else comes of one for a key.
            Some(Replayed { came: Came::Execution(_) | Came::Change, at, .. }) => {
                Self { key_id: drawn.key_id().clone(), at: *at, secret: None }
            }
            None => {
                let secret = Some(drawn.text().to_owned());
                Self { key_id: drawn.key_id().clone(), at: decided.time, secret }
            }
        }
    }
}

fn wanted(mut fields: Fields) -> Result<(String, Scopes, Option<Timestamp>), Problem> {
    let (name, names) = (fields.required("name"), fields.required::<Vec<String>>("scopes"));
    let expires_at = fields.optional("expires_at");
    let mut scopes = Scopes::NONE;
    for (index, name) in names.iter().flatten().enumerate() {
        match name.parse::<Scope>() {
            Ok(scope) => scopes = scopes.with(scope),
            Err(error) => fields.fault(format!("/scopes/{index}"), error.to_string()),
        }
    }
    fields.finish(name.map(|name| (name, scopes, expires_at)))
}

/// Draws a key: the gateway is the shell that may.
#[expect(clippy::disallowed_methods, reason = "secrets are drawn here and nowhere else on the way of a request")]
pub(super) fn draw(gateway: &Gateway) -> api_key::NewSecret {
    api_key::draw(&mut rand::rng(), gateway.hasher())
}

/// Draws another secret for a key.
#[expect(clippy::disallowed_methods, reason = "secrets are drawn here and nowhere else on the way of a request")]
fn draw_again(gateway: &Gateway, key_id: &KeyId) -> Result<NewSecret, api_key::NotAKey> {
    api_key::draw_again(&mut rand::rng(), key_id, gateway.hasher())
}

/// GET /v1/keys
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (paging, page) = Paging::of(&request, &mut query, "keys", caller.tenant_id())?;
    query.finish()?;
    let listed = gateway.deps().views.keys().list_keys(caller.tenant_id(), page).await?;
    paging.answer(&gateway.reserve_of(&caller), listed, |key| views::Key::from(&with_last_use(&gateway, key)))
}

/// GET /v1/keys/{key_id}
pub(crate) async fn get(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let id = path(&request, "key_id", Kind::KeyNotFound)?;
    let found = gateway.deps().views.keys().get_key(caller.tenant_id(), &id).await?;
    let key = found.ok_or_else(|| not_found(Kind::KeyNotFound))?;
    let key = with_last_use(&gateway, (*key).clone());
    Ok(Tag::from(&key).mark(&request, json(&gateway.reserve_of(&caller), StatusCode::OK, &views::Key::from(&key))?))
}

/// POST /v1/keys/{key_id}/rotate
pub(crate) async fn rotate(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let key_id: KeyId = path(&request, "key_id", Kind::KeyNotFound)?;
    let mut fields = Fields::read(&gateway, &caller, &mut request).await?;
    let once = idempotency::of(&request, &caller, [&fields.digest().as_bytes()[..]])?;
    let grace_seconds = fields.required::<u64>("grace_seconds");
    let grace_ms = fields.finish(grace_seconds)?.saturating_mul(1_000);
    // An id that no key of ours has could not be written down with a secret.
    let secret = draw_again(&gateway, &key_id).map_err(|_| not_found(Kind::KeyNotFound))?;
    let room = gateway.reserve_of(&caller).room(RECEIPT_BYTES)?;
    let command = Command::RotateKey { key_id: key_id.clone(), hash: secret.hash(), grace_ms };
    let origin = Context::origin(&request).once(once).expecting(etag::expected(&request, About::Revision)?);
    let decided = gateway.ask(caller.tenant_id(), command, caller.authority(), origin).await?;
    // This answer holds the only copy of the new secret: it is given whether or not the view of this node is in time.
    gateway.until_visible(View::Keys, decided.position).await;
    let found = gateway.deps().views.keys().get_key(caller.tenant_id(), &key_id).await?;
    let key = found.ok_or_else(|| Problem::unavailable("The key is not shown yet. Read it.", "view behind"))?;
    let Issued { at, secret, .. } = Issued::of(&decided, secret);
    let replayed = secret.is_none();
    let body = views::RotatedKey {
        id: key_id.to_string(),
        name: key.name.clone(),
        scopes: views::names(key.scopes),
        secret,
        rotated_at: views::written(at),
        grace_until: views::written(at.plus_ms(grace_ms)),
        expires_at: key.expires_at.map(views::written),
    };
    let mut response = receipt(room, StatusCode::OK, &body)?;
    position::mark(&mut response, decided.position);
    if replayed {
        idempotency::mark(&mut response);
    }
    Ok(response)
}

/// A key, with when it was last used: by its executions, which the history has, or here.
fn with_last_use(gateway: &Gateway, key: KeyRecord) -> KeyRecord {
    let here = gateway.deps().last_used.of_key(&key.id);
    KeyRecord { last_used_at: key.last_used_at.max(here), ..key }
}

/// DELETE /v1/keys/{key_id}
pub(crate) async fn revoke(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let key_id = path(&request, "key_id", Kind::KeyNotFound)?;
    let origin = Context::origin(&request).expecting(etag::expected(&request, About::Revision)?);
    let command = Command::RevokeKey { key_id };
    let decided = gateway.ask(caller.tenant_id(), command, caller.authority(), origin).await?;
    gateway.until_forbidden(decided.position).await?;
    let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
    position::mark(&mut response, decided.position);
    Ok(response)
}

pub(crate) fn issue_doc() -> Operation {
    Operation::new("issueKey", "keys", "Issue a key")
        .describe("Needs the scope keys:manage. A key is never wider than the key that asks for it.")
        .takes_json::<views::KeyRequest>(true)
        .answers::<views::NewKey>(
            201,
            "The key, with its secret: the only time that it is shown. A repeated answer has null in its place",
        )
        .with_header("Location", "Where the key is.")
        .problem(&[Kind::InvalidName, Kind::WiderScopes, Kind::TooManyKeys, Kind::KeyExists, Kind::RateLimited])
}

pub(crate) fn list_doc() -> Operation {
    Operation::new("listKeys", "keys", "List the keys, the last issued first")
        .describe("Needs the scope keys:manage.")
        .paged()
        .answers_page::<views::Key>("A page of keys")
}

pub(crate) fn get_doc() -> Operation {
    Operation::new("getKey", "keys", "Read a key")
        .describe("Needs the scope keys:manage.")
        .answers::<views::Key>(200, "The key, without its secret")
        .tagged()
        .problem(&[Kind::KeyNotFound])
}

pub(crate) fn rotate_doc() -> Operation {
    Operation::new("rotateKey", "keys", "Give a key a new secret")
        .describe(
            "Needs the scope keys:manage, and every scope of the key. The old secret works until the grace has passed; one \
             that is older still stops at once.",
        )
        .takes_json::<views::RotationRequest>(true)
        .answers::<views::RotatedKey>(
            200,
            "The key with its new secret: the only time that it is shown. A repeated answer has null in its place",
        )
        .conditional()
        .problem(&[Kind::KeyNotFound, Kind::KeyNotLive, Kind::WiderScopes, Kind::RateLimited])
}

pub(crate) fn revoke_doc() -> Operation {
    Operation::new("revokeKey", "keys", "Revoke a key")
        .describe("Needs the scope keys:manage. Effective at once; revoking a revoked key changes nothing.")
        .answers_nothing(204, "The key does not work any more")
        .conditional()
        .problem(&[Kind::KeyNotFound, Kind::RateLimited])
}
