//! API keys of the caller's tenant.

use http::StatusCode;
use poem::{Request, Response};
use wasmwiz_actors::tenant::{Command, NewKey};
use wasmwiz_events::{
    key::{Scope, Scopes},
    time::Timestamp,
};
use wasmwiz_projections::views::View;

use super::json;
use crate::{
    auth::{Caller, api_key},
    extract::{Context, Query, json::Fields, not_found, path},
    gateway::Gateway,
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
    let (name, scopes, expires_at) = wanted(Fields::read(&gateway, &caller, &mut request).await?)?;
    let secret = draw(&gateway);
    let (key_id, hash) = (secret.key_id().clone(), secret.hash());
    let command = Command::IssueKey(NewKey { key_id, name: name.clone(), scopes, hash, expires_at });
    let decided = gateway.ask(caller.tenant_id(), command, caller.authority(), Context::origin(&request)).await?;
    gateway.until_visible(View::Keys, decided.position).await;
    let body = views::NewKey {
        id: secret.key_id().to_string(),
        name,
        scopes: views::names(scopes),
        secret: secret.text().to_owned(),
        created_at: views::written(decided.time),
        expires_at: expires_at.map(views::written),
    };
    let mut response = json(StatusCode::CREATED, &body)?;
    position::mark(&mut response, decided.position);
    super::locate(&mut response, &format!("/v1/keys/{}", body.id));
    Ok(response)
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

/// GET /v1/keys
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (paging, page) = Paging::of(&request, &mut query, "keys", caller.tenant_id())?;
    query.finish()?;
    let listed = gateway.deps().views.keys().list_keys(caller.tenant_id(), page).await?;
    paging.answer(listed, |key| views::Key::from(&key))
}

/// GET /v1/keys/{key_id}
pub(crate) async fn get(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let id = path(&request, "key_id", Kind::KeyNotFound)?;
    let found = gateway.deps().views.keys().get_key(caller.tenant_id(), &id).await?;
    let key = found.ok_or_else(|| not_found(Kind::KeyNotFound))?;
    json(StatusCode::OK, &views::Key::from(&*key))
}

/// DELETE /v1/keys/{key_id}
pub(crate) async fn revoke(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let key_id = path(&request, "key_id", Kind::KeyNotFound)?;
    let (command, origin) = (Command::RevokeKey { key_id }, Context::origin(&request));
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
        .answers::<views::NewKey>(201, "The key, with its secret: the only time that it is shown")
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
        .problem(&[Kind::KeyNotFound])
}

pub(crate) fn revoke_doc() -> Operation {
    Operation::new("revokeKey", "keys", "Revoke a key")
        .describe("Needs the scope keys:manage. Effective at once; revoking a revoked key changes nothing.")
        .answers_nothing(204, "The key does not work any more")
        .problem(&[Kind::KeyNotFound, Kind::RateLimited])
}
