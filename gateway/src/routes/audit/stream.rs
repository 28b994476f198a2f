//! The history as it happens.

use poem::Request;
use wasmwiz_events::key::Scope;

use crate::{
    accept,
    auth::Caller,
    extract::Query,
    gateway::Gateway,
    openapi::Operation,
    problem::Kind,
    router::Answer,
    stream::{self, Happened, Shown},
};

/// GET /v1/audit/stream
pub(crate) async fn stream(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    accept::choose(request.headers(), &[stream::MEDIA_TYPE])?;
    let head = gateway.deps().log.head(caller.tenant_id()).await?.revision;
    let from = stream::resumed(request.headers(), head)?.unwrap_or_else(|| head.next());
    let show = |happened: &Happened<'_>| {
        Shown::As(happened.envelope.event.type_name().replace(['\r', '\n'], " "), happened.stored.to_owned())
    };
    stream::answer(&gateway, caller, Scope::AuditRead, from, show).await
}

pub(crate) fn stream_doc() -> Operation {
    Operation::new("streamEvents", "audit", "Follow the history as it happens")
        .describe(
            "Needs the scope audit:read. Server-sent events, read from the log itself: event is the type, data the event as \
             the log has it, id its place. Begins with what comes next; with Last-Event-ID, right after that event: nothing \
             is missed and nothing comes twice. Comments say that the stream stands. It ends when the key does not hold any \
             more, when the node stops, and when the client takes nothing for a while: connect again with Last-Event-ID.",
        )
        .header("Last-Event-ID", "The id of the last event that was seen, unchanged.")
        .answers_events(200, "Events, until the client goes")
        .problem(&[Kind::TooManyStreams, Kind::NotAcceptable])
}
