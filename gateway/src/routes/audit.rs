//! The history of the caller's tenant, event by event, as the log has it.

use std::sync::Arc;

use http::StatusCode;
use poem::Request;
use serde::Deserialize;
use serde_json::value::RawValue;
use wasmwiz_events::{commit::Recorded, revision::Position};
use wasmwiz_projections::{
    Listed,
    audit::{AuditCursor, AuditFilter, EventRef},
};

use super::json;
use crate::{
    auth::Caller,
    extract::Query,
    gateway::Gateway,
    openapi::Operation,
    page::Paging,
    position,
    problem::{Kind, Problem},
    router::Answer,
    views::{AuditEvent, AuditHead},
};

mod stream;

pub(crate) use stream::{stream, stream_doc};

/// GET /v1/audit
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (from, to) = query.between();
    let (type_name, actor, subject) = (query.one("type"), query.one("actor"), query.one("subject"));
    let filter = AuditFilter { type_name, actor, subject, from, to };
    let (paging, page) = Paging::of(&request, &mut query, "audit", caller.tenant_id())?;
    query.finish()?;
    let _turn = gateway.turn_of_audit(&caller).await?;
    let found = gateway.deps().views.audit().find(caller.tenant_id(), filter.clone(), page).await?;
    let Listed { items: places, mut next } = found;
    let mut commits = Commits { gateway: &gateway, last: None };
    let mut events = Vec::with_capacity(places.len());
    let (mut room, mut size_bytes, mut last) = (gateway.memory_of(&caller).room(0)?, 0_u64, None);
    for place in places {
        let stored = commits.at(place.position).await?;
        // The index names places of the caller's tenant; a view that were wrong must not show another's.
        let is_own = stored.recorded.commit.tenant() == caller.tenant_id();
        if let Some(event) = if is_own { event(stored, place, &filter)? } else { None } {
            size_bytes = size_bytes.saturating_add(event.get().len() as u64);
            if size_bytes > gateway.config().page_bytes_max && !events.is_empty() {
                next = last;
                break;
            }
            // The events, and the page that they are written into.
            room.grow_to(size_bytes.saturating_mul(2))?;
            events.push(event);
        }
        last = Some(AuditCursor { position: place.position, index: place.index });
    }
    paging.write(room, events, next.as_ref())
}

/// Commits of the log, the last one kept: neighbouring events are mostly of one commit.
struct Commits<'a> {
    gateway: &'a Gateway,
    last: Option<Stored>,
}

/// A commit and its events as they are stored, taken apart once.
struct Stored {
    recorded: Arc<Recorded>,
    events: Vec<Box<RawValue>>,
}

impl Commits<'_> {
    async fn at(&mut self, at: Position) -> Result<&Stored, Problem> {
        let last = match self.last.take().filter(|last| last.recorded.position == at) {
            Some(last) => last,
            None => self.read(at).await?,
        };
        Ok(self.last.insert(last))
    }

    async fn read(&self, at: Position) -> Result<Stored, Problem> {
        let found = self.gateway.deps().log.read_at(at).await?;
        let recorded =
            found.ok_or_else(|| Problem::internal(format_args!("the log has no commit at position {at}")))?;
        let events = serde_json::from_slice(recorded.commit.body()).map_err(Problem::internal)?;
        Ok(Stored { recorded, events })
    }
}

/// What a search compares: the index may take two texts for one.
#[derive(Deserialize)]
struct Compared<'a> {
    #[serde(borrow)]
    actor: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    subject: std::borrow::Cow<'a, str>,
}

/// The event at `place` as it is stored, with its position; `None` when it is not what was searched for.
fn event(commit: &Stored, place: EventRef, filter: &AuditFilter) -> Result<Option<Box<RawValue>>, Problem> {
    let Some(stored) = commit.events.get(place.index as usize).map(|stored| stored.get()) else { return Ok(None) };
    let compared: Compared<'_> = serde_json::from_str(stored).map_err(Problem::internal)?;
    let wanted = |asked: &Option<String>, found: &str| asked.as_deref().is_none_or(|asked| asked == found);
    if !wanted(&filter.actor, &compared.actor) || !wanted(&filter.subject, &compared.subject) {
        return Ok(None);
    }
    // The stored bytes are shown as they are; the position is put in front of them.
    let members = stored.trim_start().strip_prefix('{').unwrap_or_default();
    let shown = format!("{{\"position\":\"{}\",{members}", position::token(commit.recorded.position));
    RawValue::from_string(shown).map(Some).map_err(Problem::internal)
}

/// GET /v1/audit/head
pub(crate) async fn head(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let head = gateway.deps().views.audit().head(caller.tenant_id()).await?;
    let head = head.ok_or_else(|| Problem::unavailable("The history is not shown yet. Try again.", "view behind"))?;
    let body = AuditHead {
        revision: head.revision.get(),
        hash: hex::encode(head.hash.as_bytes()),
        position: position::token(head.position),
    };
    json(&gateway.memory_of(&caller), StatusCode::OK, &body)
}

pub(crate) fn list_doc() -> Operation {
    Operation::new("listEvents", "audit", "List events, the newest first")
        .describe(
            "Needs the scope audit:read. A filter that few pass gives short pages, even empty ones; go on while \
             next_cursor is not null.",
        )
        .query::<String>("type", "Only of this type, for instance dev.wasmwiz.key.issued.v1.")
        .query::<String>("actor", "Only by this key, or by operator:<subject>, or by system.")
        .query::<String>("subject", "Only about this, for instance keys/4kD2.")
        .query::<String>("from", "Only those recorded at this time or later, as in RFC 3339.")
        .query::<String>("to", "Only those recorded before this time, as in RFC 3339.")
        .paged()
        .answers_page::<AuditEvent>("A page of events, each as the log has it")
        .problem(&[Kind::RateLimited])
}

pub(crate) fn head_doc() -> Operation {
    Operation::new("getAuditHead", "audit", "Read the end of the history")
        .describe("Needs the scope audit:read. The hash covers everything before it.")
        .answers::<AuditHead>(200, "Revision and hash of the last commit")
}
