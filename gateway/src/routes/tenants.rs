//! Tenants, for operators of the platform.

use http::StatusCode;
use poem::{Request, Response};
use rand::RngExt as _;
use wasmwiz_actors::{
    handle::Decided,
    tenant::{Command, NewKey},
};
use wasmwiz_events::{id::TenantId, key::Scopes, tenant::Tier};
use wasmwiz_projections::views::View;

use super::{RECEIPT_BYTES, keys, locate, receipt};
use crate::{
    auth::Caller,
    etag::{self, About, Tag},
    extract::{Context, Query, json::Fields, not_found, path},
    gateway::Gateway,
    idempotency,
    memory::Room,
    openapi::Operation,
    page::Paging,
    position,
    problem::{Kind, Problem},
    router::Answer,
    views,
};

/// POST /v1/tenants
pub(crate) async fn register(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let mut fields = Fields::read(&gateway, &caller, &mut request).await?;
    let once = idempotency::of(&request, &caller, [&fields.digest().as_bytes()[..]])?;
    let (name, tier) = (fields.required::<String>("name"), tier(&mut fields, true));
    let (name, tier) = fields.finish(name.zip(tier))?;
    let id = once.as_ref().and_then(idempotency::tenant_id).unwrap_or_else(draw_id);
    let room = gateway.reserve_of(&caller).room(RECEIPT_BYTES)?;
    let secret = keys::draw(&gateway);
    let (key_id, hash, scopes) = (secret.key_id().clone(), secret.hash(), Scopes::TENANT);
    let first_key = Some(NewKey { key_id, name: "initial".to_owned(), scopes, hash, expires_at: None });
    let command = Command::Register { name: name.clone(), tier, first_key };
    let decided = gateway.operate(&caller, &id, command, Context::origin(&request).once(once)).await?;
    gateway.until_visible(View::Keys, decided.position).await;
    let keys::Issued { key_id, at, secret } = keys::Issued::of(&decided, secret);
    let replayed = secret.is_none();
    let body = views::NewTenant {
        id: id.to_string(),
        name,
        tier: tier.as_str().to_owned(),
        status: "active".to_owned(),
        created_at: views::written(at),
        initial_key: views::InitialKey { id: key_id.to_string(), secret, scopes: views::names(scopes) },
    };
    let mut response = receipt(room, StatusCode::CREATED, &body)?;
    position::mark(&mut response, decided.position);
    locate(&mut response, &format!("/v1/tenants/{id}"));
    if replayed {
        idempotency::mark(&mut response);
    }
    Ok(response)
}

/// A tenant's id: `t-` and 80 bits in base32, in lower case.
#[expect(clippy::disallowed_methods, reason = "the gateway is the shell that draws tenants' ids")]
fn draw_id() -> TenantId {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut rng = rand::rng();
    loop {
        let letter = |_| ALPHABET.get(rng.random_range(0..32_usize)).copied().map_or('a', char::from);
        let id: String = ['t', '-'].into_iter().chain((0..16).map(letter)).collect();
        // What is drawn is a valid id, so the first round is the last.
        if let Ok(id) = TenantId::new(&id) {
            return id;
        }
    }
}

fn tier(fields: &mut Fields, required: bool) -> Option<Tier> {
    let text = if required { fields.required::<String>("tier") } else { fields.optional("tier") }?;
    text.parse().map_err(|error: wasmwiz_events::tenant::NotATier| fields.fault("/tier", error.to_string())).ok()
}

/// GET /v1/tenants
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (paging, page) = Paging::of(&request, &mut query, "tenants", caller.tenant_id())?;
    query.finish()?;
    let listed = gateway.deps().views.keys().list_tenants(page).await?;
    paging.answer(&gateway.reserve_of(&caller), listed, |tenant| views::Tenant::from(&tenant))
}

/// GET /v1/tenants/{tenant}
pub(crate) async fn get(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let room = gateway.reserve_of(&caller).room(0)?;
    let (tag, response) = show(&gateway, &path(&request, "tenant", Kind::TenantNotFound)?, room)?;
    Ok(tag.mark(&request, response))
}

fn show(gateway: &Gateway, id: &TenantId, room: Room) -> Result<(Tag, Response), Problem> {
    let keys = gateway.deps().views.keys();
    if let Some(aside) = keys.set_aside(id) {
        return Err(Problem::stream_set_aside(aside.position));
    }
    let tenant = keys.tenant(id).ok_or_else(|| not_found(Kind::TenantNotFound))?;
    Ok((Tag::from(&*tenant), receipt(room, StatusCode::OK, &views::Tenant::from(&*tenant))?))
}

/// Shows a tenant as it is after a change.
async fn changed(gateway: &Gateway, id: &TenantId, decided: &Decided, room: Room) -> Answer {
    gateway.until_visible(View::Keys, decided.position).await;
    let (tag, mut response) = show(gateway, id, room)?;
    tag.put(&mut response);
    position::mark(&mut response, decided.position);
    if decided.replayed.is_some() {
        idempotency::mark(&mut response);
    }
    Ok(response)
}

/// PATCH /v1/tenants/{tenant}
pub(crate) async fn change(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let id: TenantId = path(&request, "tenant", Kind::TenantNotFound)?;
    let mut fields = Fields::read(&gateway, &caller, &mut request).await?;
    let (name, tier) = (fields.optional("name"), tier(&mut fields, false));
    let (name, tier) = fields.finish(Some((name, tier)))?;
    if name.is_none() && tier.is_none() {
        return Err(Problem::new(Kind::InvalidBody, "Nothing is to be changed. Send name, tier, or both."));
    }
    let command = Command::Change { name, tier };
    let origin = Context::origin(&request).expecting(etag::expected(&request, About::Revision)?);
    let room = gateway.reserve_of(&caller).room(RECEIPT_BYTES)?;
    let decided = gateway.operate(&caller, &id, command, origin).await?;
    changed(&gateway, &id, &decided, room).await
}

/// POST /v1/tenants/{tenant}/suspend
pub(crate) async fn suspend(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let id: TenantId = path(&request, "tenant", Kind::TenantNotFound)?;
    let (reason, body) = match Fields::read_optional(&gateway, &caller, &mut request).await? {
        Some(mut fields) => {
            let (reason, digest) = (fields.optional("reason"), fields.digest());
            (fields.finish(Some(reason))?, Some(digest))
        }
        None => (None, None),
    };
    let once = idempotency::of(&request, &caller, body.iter().map(|digest| &digest.as_bytes()[..]))?;
    let origin = Context::origin(&request).once(once).expecting(etag::expected(&request, About::Revision)?);
    let command = Command::Suspend { reason };
    let room = gateway.reserve_of(&caller).room(RECEIPT_BYTES)?;
    let decided = gateway.operate(&caller, &id, command, origin).await?;
    gateway.until_forbidden(decided.position).await?;
    changed(&gateway, &id, &decided, room).await
}

/// POST /v1/tenants/{tenant}/resume
pub(crate) async fn resume(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let id: TenantId = path(&request, "tenant", Kind::TenantNotFound)?;
    let once = idempotency::of(&request, &caller, [])?;
    let origin = Context::origin(&request).once(once).expecting(etag::expected(&request, About::Revision)?);
    let room = gateway.reserve_of(&caller).room(RECEIPT_BYTES)?;
    let decided = gateway.operate(&caller, &id, Command::Resume, origin).await?;
    changed(&gateway, &id, &decided, room).await
}

const OPERATOR: &str = "Needs a key of the system tenant with the scope operator.";

pub(crate) fn register_doc() -> Operation {
    Operation::new("registerTenant", "tenants", "Register a tenant and issue its first key")
        .describe(OPERATOR)
        .takes_json::<views::TenantRequest>(true)
        .answers::<views::NewTenant>(201, "The tenant, and its first key: the only time that its secret is shown. A repeated answer has null in its place")
        .with_header("Location", "Where the tenant is.")
        .problem(&[Kind::InvalidName, Kind::TenantExists, Kind::KeyExists])
}

pub(crate) fn list_doc() -> Operation {
    Operation::new("listTenants", "tenants", "List all tenants, the last registered first")
        .describe(OPERATOR)
        .paged()
        .answers_page::<views::Tenant>("A page of tenants")
}

pub(crate) fn get_doc() -> Operation {
    Operation::new("getTenant", "tenants", "Read a tenant")
        .describe(OPERATOR)
        .answers::<views::Tenant>(200, "The tenant")
        .tagged()
        .problem(&[Kind::TenantNotFound])
}

pub(crate) fn change_doc() -> Operation {
    Operation::new("changeTenant", "tenants", "Rename a tenant, or give it another tier")
        .describe(OPERATOR)
        .takes_json::<views::TenantPatch>(true)
        .answers::<views::Tenant>(200, "The tenant as it is now")
        .with_header("ETag", "Names this state of the tenant, for If-Match.")
        .conditional()
        .problem(&[Kind::TenantNotFound, Kind::InvalidName])
}

pub(crate) fn suspend_doc() -> Operation {
    Operation::new("suspendTenant", "tenants", "Stop a tenant from acting")
        .describe(OPERATOR)
        .takes_json::<views::Suspension>(false)
        .answers::<views::Tenant>(200, "The tenant as it is now; executions that run go on to their end")
        .with_header("ETag", "Names this state of the tenant, for If-Match.")
        .conditional()
        .problem(&[Kind::TenantNotFound, Kind::SystemTenant])
}

pub(crate) fn resume_doc() -> Operation {
    Operation::new("resumeTenant", "tenants", "Let a tenant act again")
        .describe(OPERATOR)
        .answers::<views::Tenant>(200, "The tenant as it is now")
        .with_header("ETag", "Names this state of the tenant, for If-Match.")
        .conditional()
        .problem(&[Kind::TenantNotFound])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_id_is_safe_everywhere_and_never_the_same() {
        let (a, b) = (draw_id(), draw_id());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 18);
        assert!(a.as_str().starts_with("t-"));
    }
}
