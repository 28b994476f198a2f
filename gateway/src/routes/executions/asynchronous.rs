//! Executions that nobody waits for: accepted with 202, looked at later, cancelled.

use http::StatusCode;
use poem::Request;
use wasmwiz_actors::{
    dispatch::{self, Cancel, Cancelling, DispatchError},
    handle::AskError,
    tenant::Refusal,
};
use wasmwiz_events::{execution::Outcome, id::ExecutionId, revision::Position};
use wasmwiz_projections::{executions::ExecutionRecord, views::View};

use super::stored;
use crate::{
    auth::Caller,
    extract::{Context, Query, not_found, path},
    gateway::Gateway,
    idempotency,
    memory::Room,
    position,
    prefer::RespondAsync,
    problem::{Kind, Problem},
    router::Answer,
    routes::{RECEIPT_BYTES, locate, receipt},
    views::{ExecutionSummary, Resource},
};

/// Accepts what is wanted and answers 202; or 200, when it ends within the time that the caller waits.
pub(super) async fn accept(
    gateway: &Gateway,
    caller: &Caller,
    wanted: dispatch::Request,
    preference: RespondAsync,
) -> Answer {
    // Taken before anything is accepted, so that what was can be told.
    let room = gateway.memory_of(caller).room(RECEIPT_BYTES)?;
    let queued = match gateway.deps().dispatch.enqueue(wanted, preference.wait).await {
        Ok(queued) => queued,
        Err(DispatchError::RanBefore { execution_id, running, position }) => {
            return again(gateway, caller, preference, (execution_id, running, position), room).await;
        }
        Err(error) => return Err(error.into()),
    };
    let id = queued.accepted.execution_id;
    // Whoever follows Location next finds it, and with its end if that is what was waited for.
    gateway.until_visible(View::Executions, queued.ended.unwrap_or(queued.position)).await;
    let ended = match queued.ended {
        Some(at) => record(gateway, caller, id).await?.filter(|record| record.end.is_some()).map(|record| (record, at)),
        None => None,
    };
    let shown = match ended {
        // It has run. Where there is no memory to show its end in, the receipt says where it is.
        Some((record, at)) => stored::resource(gateway, caller, &record).await.ok().map(|response| (response, at)),
        None => None,
    };
    let (mut response, at) = match shown {
        Some(shown) => shown,
        None => (receipt(room, StatusCode::ACCEPTED, &Resource::begun(&queued))?, queued.position),
    };
    position::mark(&mut response, at);
    locate(&mut response, &format!("/v1/executions/{id}"));
    preference.applied(&mut response);
    Ok(response)
}

/// Answers a request that was sent again: 202 while what came of it has not ended, then 200 with its end.
async fn again(
    gateway: &Gateway,
    caller: &Caller,
    preference: RespondAsync,
    (id, running, at): (ExecutionId, bool, Position),
    room: Room,
) -> Answer {
    let mut response = if running {
        gateway.deps().views.wait_for_view(View::Executions, at, gateway.config().visible_wait()).await?;
        let record = record(gateway, caller, id).await?.ok_or_else(Problem::not_there_yet)?;
        let mut response = answered(StatusCode::ACCEPTED, at, record, room)?;
        idempotency::mark(&mut response);
        locate(&mut response, &format!("/v1/executions/{id}"));
        response
    } else {
        stored::replay(gateway, caller, id, at, false).await?
    };
    preference.applied(&mut response);
    Ok(response)
}

async fn record(gateway: &Gateway, caller: &Caller, id: ExecutionId) -> Result<Option<ExecutionRecord>, Problem> {
    Ok(gateway.deps().views.executions().get(caller.tenant_id(), id).await?)
}

/// DELETE /v1/executions/{execution_id}
pub(crate) async fn cancel(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let execution_id: ExecutionId = path(&request, "execution_id", Kind::ExecutionNotFound)?;
    let (tenant, by, origin) = (caller.tenant_id().clone(), caller.authority(), Context::origin(&request));
    let room = gateway.memory_of(&caller).room(RECEIPT_BYTES)?;
    let cancel = Cancel { tenant, by, origin, execution_id };
    let (at, requested) = match gateway.deps().dispatch.cancel(cancel).await {
        Ok(Cancelling::Ended(at)) => (at, false),
        Ok(Cancelling::Requested) => (gateway.deps().log.tail().await?, true),
        // It has ended, or there never was one: the view tells which.
        Err(DispatchError::Ask(AskError::Refused(Refusal::ExecutionNotOpen))) => {
            if let Some(record) = record(&gateway, &caller, execution_id).await?.filter(|record| record.end.is_some()) {
                return cancelled(record, room);
            }
            (gateway.deps().log.tail().await?, false)
        }
        Err(error) => return Err(error.into()),
    };
    gateway.deps().views.wait_for_view(View::Executions, at, gateway.config().visible_wait()).await?;
    let record = record(&gateway, &caller, execution_id).await?;
    let record = record.ok_or_else(|| not_found(Kind::ExecutionNotFound))?;
    if record.end.is_some() {
        return cancelled(record, room);
    }
    if !requested {
        return Err(Problem::not_there_yet());
    }
    answered(StatusCode::ACCEPTED, at, record, room)
}

/// The answer for one that has ended: it was cancelled, now or before, or it cannot be any more.
fn cancelled(record: ExecutionRecord, room: Room) -> Answer {
    let Some(end) = record.end.as_ref() else { return Err(Problem::not_there_yet()) };
    if end.outcome != Outcome::Cancelled {
        let detail = format!(
            "The execution had ended before it could be cancelled: {}. GET /v1/executions/{} shows it.",
            end.outcome, record.id
        );
        return Err(Problem::new(Kind::ExecutionEnded, detail).because(end.outcome.as_str()));
    }
    answered(StatusCode::OK, end.finished_position, record, room)
}

fn answered(status: StatusCode, at: Position, record: ExecutionRecord, room: Room) -> Answer {
    let mut response = receipt(room, status, &ExecutionSummary::from(record))?;
    position::mark(&mut response, at);
    Ok(response)
}
