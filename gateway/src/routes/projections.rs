//! How the views of this node stand, for operators: what they have set aside, trying that again, and passing over it.

use http::StatusCode;
use poem::Request;
use wasmwiz_actors::tenant::{Command, SYSTEM};
use wasmwiz_events::{
    id::TenantId,
    log::{ReadError, ReadLimit},
    revision::{Position, Revision},
    skip::Skipped,
};

use crate::{
    auth::Caller,
    extract::{Context, Query, json::Fields, not_found},
    gateway::Gateway,
    idempotency,
    openapi::Operation,
    position,
    problem::{Kind, Problem},
    router::Answer,
    routes::json,
    views::{SkipRequest, Views},
};

/// A read of one commit is enough to know that there is one.
const ONE: ReadLimit = ReadLimit { commits: 1, bytes: 0 };

/// GET /v1/views
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    json(&gateway.reserve_of(&caller), StatusCode::OK, &Views::from(gateway.deps().views.status()))
}

/// POST /v1/views/retry
pub(crate) async fn retry(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let harmless = "What is set aside may be tried again without harm. Send this without the key.";
    idempotency::none(request.headers(), harmless)?;
    Query::of(&request)?.finish()?;
    tracing::info!(operator = caller.credential_id(), "streams that are set aside are tried again");
    tried(&gateway, &caller).await
}

/// Has every view try again what it has set aside, and shows how each stands then.
async fn tried(gateway: &Gateway, caller: &Caller) -> Answer {
    match gateway.deps().views.try_again().await {
        Err(behind) if !behind.stopped => {
            tracing::warn!(%behind, "a view has not tried again in time");
            let detail = "Not every view has tried in time; they go on. GET /v1/views shows how each stands.";
            return Err(Problem::new(Kind::Unavailable, detail).retry_after_ms(5_000));
        }
        // One that has stopped says so itself.
        Ok(()) | Err(_) => {}
    }
    json(&gateway.reserve_of(caller), StatusCode::OK, &Views::from(gateway.deps().views.status()))
}

/// POST /v1/views/skip
pub(crate) async fn skip(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    let harmless = "A commit is skipped once, however often that is said. Send this without the key.";
    idempotency::none(request.headers(), harmless)?;
    Query::of(&request)?.finish()?;
    let mut fields = Fields::read(&gateway, &caller, &mut request).await?;
    let (tenant, place) = (fields.required::<TenantId>("tenant"), fields.required::<u64>("position"));
    let reason = fields.required::<String>("reason");
    let ((tenant, place), reason) = fields.finish(tenant.zip(place).zip(reason))?;
    let place = Position::new(place);
    require_skippable(&gateway, &tenant, place).await?;
    let system = TenantId::new(SYSTEM).map_err(Problem::internal)?;
    let command = Command::SkipCommit(Skipped { tenant: tenant.clone(), position: place, reason });
    let decided = gateway.operate(&caller, &system, command, Context::origin(&request)).await?;
    let operator = caller.credential_id();
    tracing::warn!(operator, tenant.id = %tenant, position = %place, "an operator has skipped a commit");
    // Every node learns of it from the log. This one answers when its views have, and have tried.
    let within = gateway.config().visible_wait();
    let mut response = match gateway.deps().views.wait_for(decided.position, within).await {
        Err(behind) if !behind.stopped => return Err(skipped_and_not_seen(decided.position, &behind)),
        Ok(()) | Err(_) => tried(&gateway, &caller).await?,
    };
    position::mark(&mut response, decided.position);
    Ok(response)
}

/// Refuses to skip a commit that nothing says cannot be folded, and the newest one of its stream.
async fn require_skippable(gateway: &Gateway, tenant: &TenantId, place: Position) -> Result<(), Problem> {
    let log = &gateway.deps().log;
    require_unfoldable(gateway, tenant, place).await?;
    let whose = log.tenant_at(place).await?;
    if whose.as_ref() != Some(tenant) {
        return Err(not_set_aside(tenant, place));
    }
    // Nothing would say where the stream ends: commands would stay refused, so that nobody could take back what the views then say.
    match log.read_stream_behind(tenant, Revision::NONE, place, ONE).await {
        Ok(behind) if behind.is_empty() => Err(newest(tenant, place)),
        Ok(_) | Err(ReadError::Damaged { .. }) => Ok(()),
        Err(error @ ReadError::Unavailable(_)) => Err(error.into()),
    }
}

/// Refuses a commit unless a view has set its stream aside at it, or it was skipped before, or it cannot be read, so that the
/// tenant's entity cannot wake.
async fn require_unfoldable(gateway: &Gateway, tenant: &TenantId, place: Position) -> Result<(), Problem> {
    let deps = gateway.deps();
    let (keys, status) = (deps.views.keys(), deps.views.status());
    let theirs = status.iter().flat_map(|view| &view.set_aside).filter(|aside| aside.tenant == *tenant);
    let theirs: Vec<_> = theirs.collect();
    if theirs.iter().any(|aside| aside.position == place && aside.names_fault()) || keys.has_skipped(tenant, place) {
        return Ok(());
    }
    // As the entity reads it, and not what is still in memory.
    let before = Position::new(place.get().saturating_sub(1));
    match deps.log.read_stream_behind(tenant, Revision::NONE, before, ONE).await {
        Err(ReadError::Damaged { position, .. }) if position == place => return Ok(()),
        Err(error @ ReadError::Unavailable(_)) => return Err(error.into()),
        Ok(_) | Err(ReadError::Damaged { .. }) => {}
    }
    if keys.tenant(tenant).is_none() && theirs.is_empty() {
        return Err(not_found(Kind::TenantNotFound));
    }
    Err(not_set_aside(tenant, place))
}

fn not_set_aside(tenant: &TenantId, place: Position) -> Problem {
    let detail = format!(
        "The commit at position {place} can be read, or is not one of tenant {tenant}, and no view of this node has set the stream \
         aside at it. GET /v1/views shows the commits that cannot be folded."
    );
    Problem::new(Kind::CommitNotSetAside, detail)
}

fn newest(tenant: &TenantId, place: Position) -> Problem {
    let detail = format!(
        "The commit at position {place} is the newest one of tenant {tenant}, so that nothing behind it says where the stream ends. \
         Restore the log from a backup, or start the version of the program that can fold it; then POST /v1/views/retry."
    );
    Problem::new(Kind::NewestCommit, detail)
}

/// The skip is recorded, and this node's views have not come to it.
fn skipped_and_not_seen(position: Position, behind: &impl std::fmt::Display) -> Problem {
    tracing::warn!(%behind, %position, "a view has not come to a skip in time");
    let detail =
        "The skip is recorded. The views of this node have not come to it yet; GET /v1/views shows how each stands.";
    Problem::new(Kind::Unavailable, detail).retry_after_ms(5_000)
}

pub(crate) fn list_doc() -> Operation {
    Operation::new("listViews", "tenants", "Show how the views of the node stand")
        .describe(
            "For operators of the platform, of the node that is asked: each node has views of its own. A stream with a commit \
             that cannot be read or folded is set aside by a view: its tenant is answered 503, and all others are served. \
             set_aside says whose it is, where the commit is, and why.",
        )
        .answers::<Views>(200, "How each view stands")
}

pub(crate) fn retry_doc() -> Operation {
    Operation::new("retryViews", "tenants", "Try again to fold the streams that are set aside")
        .describe(
            "For operators of the platform, of the node that is asked: once what was damaged is as it was, or the program folds \
             what it could not. A node that starts does the same. What cannot be folded still stays set aside.",
        )
        .harmless()
        .answers::<Views>(200, "Every view has tried: how each stands now")
}

pub(crate) fn skip_doc() -> Operation {
    Operation::new("skipCommit", "tenants", "Have a commit passed over that cannot be folded")
        .describe(
            "For operators of the platform: the last resort, when a commit cannot be had back from anywhere. Views that cannot fold it \
             go on behind it, on every node and whenever they are built anew, and so does the tenant's entity. One that can fold it \
             does. The newest commit of a stream is not skipped, as nothing says where the stream ends. What the commit said is not in \
             effect any more, a key that it revoked not revoked: look at the tenant's keys afterwards. The skip is an event of the system tenant, with the operator's name; `wasmwiz audit verify` \
             goes on to report the commit as broken.",
        )
        .takes_json::<SkipRequest>(true)
        .harmless()
        .answers::<Views>(200, "Every view has tried: how each stands now. It may have come to another commit that it cannot fold")
        .problem(&[Kind::TenantNotFound, Kind::CommitNotSetAside, Kind::NewestCommit, Kind::SystemTenant, Kind::TooManySkips])
}
