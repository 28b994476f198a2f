//! Answers that are made of what is recorded of an execution.

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use poem::Response;
use wasmwiz_actors::dispatch::{Done, End};
use wasmwiz_events::{
    execution::{Outcome, Output as Recorded},
    id::ExecutionId,
    revision::Position,
    time::Millis,
};
use wasmwiz_projections::{executions::ExecutionRecord, views::View};

use super::{BYTES, kept, locate};
use crate::{
    auth::Caller,
    gateway::Gateway,
    idempotency, position,
    problem::{Kind, Problem},
    router::Answer,
    routes::json_in,
    views::{Output, Resource, Streams},
};

/// The execution as a resource, with its outputs as far as they are kept.
pub(super) async fn resource(gateway: &Gateway, caller: &Caller, record: &ExecutionRecord) -> Answer {
    let mut streams = Streams::default();
    let share = gateway.memory_of(caller);
    let mut room = share.room(0)?;
    let message = record.end.as_ref().and_then(|end| end.message.as_deref());
    if let Some(end) = &record.end {
        let most = gateway.config().inline_output_bytes;
        let sizes = [end.stdout, end.stderr].map(|output| output.map_or(0, |output| output.size_bytes));
        let pieces = if sizes.iter().any(|size| *size > most) { PIECES_BYTES } else { 0 };
        room.grow_to(sizes.iter().fold(pieces, |all, size| all.saturating_add(*size.min(&most))))?;
        if let Some(output) = end.stdout {
            streams.stdout = shown(gateway, end.finished_position, output).await?;
        }
        if let Some(output) = end.stderr {
            streams.stderr = shown(gateway, end.finished_position, output).await?;
        }
    }
    // How much of it JSON escapes is known once it has been read.
    let size = Resource::size_of(&streams, message);
    room.grow_to(size.in_memory_bytes)?;
    json_in(room, size.written_bytes, StatusCode::OK, &Resource::stored(record, &streams))
}

/// What is in memory beside the beginning of an output that is read, in bytes: what rides with a commit, or pieces of a blob.
const PIECES_BYTES: u64 = 768 << 10;

/// An output as far as a resource shows it; `None` when it is no longer kept. All of a blob is read, because only then it is known
/// whether it is what was recorded.
async fn shown(gateway: &Gateway, at: Position, output: Recorded) -> Result<Option<Output>, Problem> {
    let Recorded { digest, size_bytes, .. } = output;
    let most = gateway.config().inline_output_bytes;
    if size_bytes <= most {
        let bytes = kept(gateway, at, digest, size_bytes).await?;
        return Ok(bytes.map(|bytes| Output::shown(&bytes, size_bytes, most)));
    }
    if let Some(bytes) = gateway.deps().log.payload(at, digest).await? {
        return Ok(Some(Output::shown(&bytes, size_bytes, most)));
    }
    let Some(mut pieces) = gateway.deps().blobs.open_pieces(digest).await? else { return Ok(None) };
    let wanted = usize::try_from(most).unwrap_or(usize::MAX);
    let mut first = BytesMut::new();
    while let Some(piece) = pieces.next().await? {
        let rest = wanted.saturating_sub(first.len()).min(piece.len());
        first.extend_from_slice(piece.get(..rest).unwrap_or_default());
    }
    Ok(Some(Output::shown(&first.freeze(), size_bytes, most)))
}

/// Answers a request that was sent again as it was answered first, from the record. `at` is where the stream was known to
/// hold the end.
pub(super) async fn replay(gateway: &Gateway, caller: &Caller, id: ExecutionId, at: Position, raw: bool) -> Answer {
    gateway.until_visible(View::Executions, at).await;
    let found = gateway.deps().views.executions().get(caller.tenant_id(), id).await?;
    let Some(record) = found.filter(|record| record.end.is_some()) else {
        let detail = "The request was done before, but this node does not show yet what came of it. Send it again after the \
             pause: it is done once.";
        return Err(Problem::unavailable(detail, "the view of executions is behind"));
    };
    let mut response =
        if raw { recorded_bytes(gateway, caller, &record).await? } else { resource(gateway, caller, &record).await? };
    if !raw {
        locate(&mut response, &format!("/v1/executions/{id}"));
    }
    position::mark(&mut response, record.end.as_ref().map_or(at, |end| end.finished_position));
    idempotency::mark(&mut response);
    Ok(response)
}

async fn recorded_bytes(gateway: &Gateway, caller: &Caller, record: &ExecutionRecord) -> Answer {
    let head = Head::from(record);
    let recorded = record.end.as_ref().and_then(|end| Some((end.finished_position, end.stdout?)));
    let Some((at, output)) = recorded else { return Ok(raw(&head, Bytes::new())) };
    let room = gateway.memory_of(caller).room(output.size_bytes)?;
    let bytes = kept(gateway, at, output.digest, output.size_bytes).await?;
    let bytes = bytes.ok_or_else(|| {
        let detail = "The execution has run, and its output is no longer kept: its retention has passed.";
        Problem::new(Kind::PayloadGone, detail)
    })?;
    Ok(raw(&head, room.keep(bytes)))
}

/// What an answer of bytes says beside them.
pub(super) struct Head {
    id: ExecutionId,
    outcome: Outcome,
    exit_code: Option<i32>,
    /// Time from start to end, and CPU time; unknown of what was lost.
    times: Option<(Millis, Millis)>,
}

impl From<&Done> for Head {
    fn from(done: &Done) -> Self {
        let id = done.accepted.execution_id;
        match &done.end {
            End::Finished(finished) => {
                let times = Some((finished.wall_ms, finished.cpu_ms));
                Self { id, outcome: finished.outcome, exit_code: finished.exit_code, times }
            }
            End::Lost(_) => Self { id, outcome: Outcome::Lost, exit_code: None, times: None },
        }
    }
}

impl From<&ExecutionRecord> for Head {
    fn from(record: &ExecutionRecord) -> Self {
        let end = record.end.as_ref();
        Self {
            id: record.id,
            outcome: end.map_or(Outcome::Lost, |end| end.outcome),
            exit_code: end.and_then(|end| end.exit_code),
            times: end.filter(|end| end.outcome != Outcome::Lost).map(|end| (end.wall, end.cpu)),
        }
    }
}

/// The guest's output itself.
pub(super) fn raw(head: &Head, stdout: Bytes) -> Response {
    let mut response = Response::builder().header(header::CONTENT_TYPE, BYTES).body(stdout);
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("wasmwiz-outcome"), HeaderValue::from_static(head.outcome.as_str()));
    if let Some(code) = head.exit_code {
        headers.insert(HeaderName::from_static("wasmwiz-exit-code"), code.into());
    }
    if let Ok(id) = HeaderValue::from_str(&head.id.to_string()) {
        headers.insert(HeaderName::from_static("wasmwiz-execution-id"), id);
    }
    if let Some((wall, cpu)) = head.times {
        let timing = format!("exec;dur={}, cpu;dur={}", wall.as_ms(), cpu.as_ms());
        if let Ok(timing) = HeaderValue::from_str(&timing) {
            headers.insert(HeaderName::from_static("server-timing"), timing);
        }
    }
    response
}
