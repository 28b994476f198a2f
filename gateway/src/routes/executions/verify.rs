//! Executions that are run again from their records.

use http::StatusCode;
use poem::Request;
use wasmwiz_actors::dispatch::{Hold, Verify};
use wasmwiz_events::id::ExecutionId;

use super::current;
use crate::{
    auth::Caller,
    extract::{Context, Query, not_found, path},
    gateway::Gateway,
    idempotency,
    openapi::Operation,
    position,
    problem::Kind,
    router::Answer,
    routes::{RECEIPT_BYTES, receipt},
    views::Verification,
};

/// POST /v1/executions/{execution_id}/verify
pub(crate) async fn verify(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let harmless = "A verification may be asked for again without harm. Send this without the key.";
    idempotency::none(request.headers(), harmless)?;
    Query::of(&request)?.finish()?;
    let id: ExecutionId = path(&request, "execution_id", Kind::ExecutionNotFound)?;
    let record = current(&gateway, &caller, id, |record| record.end.is_some())
        .await?
        .ok_or_else(|| not_found(Kind::ExecutionNotFound))?;
    // The input is read into memory, as if it had been sent.
    let room = gateway.memory_of(&caller).room(record.stdin.size_bytes)?;
    // Taken now, so that what was recorded can be told.
    let told = gateway.memory_of(&caller).room(RECEIPT_BYTES)?;
    let wanted = Verify {
        tenant: caller.tenant_id().clone(),
        by: caller.authority(),
        origin: Context::origin(&request),
        execution_id: record.id,
        accepted_at: record.accepted_position,
        ended_at: record.end.as_ref().map(|end| end.finished_position),
        hold: Hold::of(room),
    };
    let verification = gateway.deps().dispatch.verify(wanted).await?;
    let mut response = receipt(told, StatusCode::OK, &Verification::from(&verification))?;
    position::mark(&mut response, verification.position);
    Ok(response)
}

pub(crate) fn verify_doc() -> Operation {
    Operation::new("verifyExecution", "executions", "Run an execution again from its record, and compare")
        .describe(
            "Needs the scope executions:read. The recorded module runs once more with the recorded input, arguments, seed, \
             limits and time, on an engine of the recorded fingerprint, and its end is compared with the recorded one. What \
             came of it is recorded as an event; it counts as an execution in the tenant's rate and day. An execution whose \
             end depended on what is not recorded is refused as not-verifiable, with why as its reason: unverifiable, lost, \
             too-old or other-engine.",
        )
        .harmless()
        .answers::<Verification>(200, "It was run again; see reproduced")
        .problem(&[
            Kind::ExecutionNotFound,
            Kind::ExecutionRunning,
            Kind::NotVerifiable,
            Kind::PayloadGone,
            Kind::RateLimited,
            Kind::DailyQuotaUsed,
            Kind::TooManyBodies,
        ])
}
