//! How the views of this node stand, for operators: what they have set aside, and trying that again.

use http::StatusCode;
use poem::Request;

use crate::{
    auth::Caller,
    extract::Query,
    gateway::Gateway,
    idempotency,
    openapi::Operation,
    problem::{Kind, Problem},
    router::Answer,
    routes::json,
    views::Views,
};

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
    match gateway.deps().views.try_again().await {
        Err(behind) if !behind.stopped => {
            tracing::warn!(%behind, "a view has not tried again in time");
            let detail = "Not every view has tried in time; they go on. GET /v1/views shows how each stands.";
            return Err(Problem::new(Kind::Unavailable, detail).retry_after_ms(5_000));
        }
        // One that has stopped says so itself.
        Ok(()) | Err(_) => {}
    }
    json(&gateway.reserve_of(&caller), StatusCode::OK, &Views::from(gateway.deps().views.status()))
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
