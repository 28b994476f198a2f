//! The progress of one execution as it happens.

use http::StatusCode;
use poem::{Request, Response};
use serde::Serialize;
use wasmwiz_events::{
    event::Event,
    execution::Outcome,
    id::ExecutionId,
    key::Scope,
    revision::{Position, Revision},
    time::Timestamp,
};
use wasmwiz_projections::views::View;

use super::found;
use crate::{
    accept,
    auth::Caller,
    gateway::Gateway,
    openapi::Operation,
    problem::{Kind, Problem},
    router::Answer,
    stream::{self, Happened, Shown},
};

/// What is said of each step.
#[derive(Serialize)]
struct Step {
    id: ExecutionId,
    status: &'static str,
    attempt: u32,
    outcome: Option<Outcome>,
    time: Timestamp,
}

/// GET /v1/executions/{execution_id}/events
pub(crate) async fn events(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    accept::choose(request.headers(), &[stream::MEDIA_TYPE])?;
    let mut record = found(&gateway, &caller, &request).await?;
    let head = gateway.deps().log.head(caller.tenant_id()).await?.revision;
    let begin = first_revision(&gateway, record.accepted_position).await?;
    let resumed = stream::resumed(request.headers(), head)?;
    if resumed.is_some() && record.end.is_none() {
        // A client that has seen the end comes back at once; it saw it in the log, and the view may be behind.
        gateway.until_visible(View::Executions, gateway.deps().log.tail().await?).await;
        record = found(&gateway, &caller, &request).await?;
    }
    let from = resumed.map_or(begin, |from| from.max(begin));
    if let Some(end) = &record.end
        && end_revision(&gateway, record.id, end.finished_position).await? < from
    {
        // Nothing will ever follow: this status tells a client not to come back.
        return Ok(Response::builder().status(StatusCode::NO_CONTENT).finish());
    }
    let show = move |happened: &Happened<'_>| shown(record.id, happened);
    stream::answer(&gateway, caller, Scope::ExecutionsRead, from, show).await
}

async fn first_revision(gateway: &Gateway, at: Position) -> Result<Revision, Problem> {
    let recorded = gateway.deps().log.read_at(at).await?;
    let recorded = recorded.ok_or_else(|| Problem::internal(format_args!("the log has no commit at position {at}")))?;
    Ok(recorded.commit.header().first_revision)
}

/// Where the stream has the end itself: other events of its commit may come after it.
async fn end_revision(gateway: &Gateway, id: ExecutionId, at: Position) -> Result<Revision, Problem> {
    let recorded = gateway.deps().log.read_at(at).await?;
    let events = recorded.as_ref().and_then(|recorded| recorded.commit.events().ok());
    let end = events.and_then(|events| events.iter().find(|envelope| ends(&envelope.event, id)));
    let end = end.ok_or_else(|| Problem::internal(format_args!("execution {id} does not end at position {at}")))?;
    Ok(end.revision)
}

fn ends(event: &Event, id: ExecutionId) -> bool {
    match event {
        Event::ExecutionFinished(finished) => finished.execution_id == id,
        Event::ExecutionLost(lost) => lost.execution_id == id,
        _ => false,
    }
}

fn shown(id: ExecutionId, happened: &Happened<'_>) -> Shown {
    let time = happened.envelope.time;
    let step = |status, attempt, outcome| {
        serde_json::to_string(&Step { id, status, attempt, outcome, time }).unwrap_or_default()
    };
    match &happened.envelope.event {
        Event::ExecutionAccepted(accepted) if accepted.execution_id == id => {
            // One that somebody waits for runs from its acceptance on.
            let status = if accepted.start_by.is_some() { "queued" } else { "running" };
            Shown::As("accepted".into(), step(status, accepted.attempt, None))
        }
        Event::ExecutionStarted(started) if started.execution_id == id => {
            Shown::As("started".into(), step("running", started.attempt, None))
        }
        Event::ExecutionFinished(finished) if finished.execution_id == id => {
            Shown::Last("finished".into(), step("finished", finished.attempt, Some(finished.outcome)))
        }
        Event::ExecutionLost(lost) if lost.execution_id == id => {
            Shown::Last("finished".into(), step("finished", lost.attempt, Some(Outcome::Lost)))
        }
        _ => Shown::Not,
    }
}

pub(crate) fn events_doc() -> Operation {
    Operation::new("followExecution", "executions", "Follow an execution to its end")
        .describe(
            "Needs the scope executions:read. Server-sent events from the log: accepted, started (each attempt at an \
             asynchronous one), and finished, after which the stream ends. data is {id, status, attempt, outcome, time}. \
             With Last-Event-ID it goes on right after that event; after the last one there is nothing: 204.",
        )
        .header("Last-Event-ID", "The id of the last event that was seen, unchanged.")
        .answers_events(200, "Events, up to the end")
        .answers_nothing(204, "The last event was seen already")
        .problem(&[Kind::ExecutionNotFound, Kind::TooManyStreams, Kind::NotAcceptable])
}
