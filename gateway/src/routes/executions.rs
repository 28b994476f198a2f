//! Executions of the caller's tenant: two doors to run, and what is remembered.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use poem::{Request, Response};
use wasmwiz_actors::{
    dispatch::{self, Code, DispatchError, Done, Hold, RerunOf},
    tenant::{FUEL_MAX, FUEL_MIN},
};
use wasmwiz_events::{
    digest::Digest,
    id::{ExecutionId, ModuleName},
    idempotency::Idempotency,
    revision::Position,
};
use wasmwiz_projections::{
    executions::{ExecutionFilter, ExecutionRecord},
    views::View,
};

use super::{json_in, locate, of_pieces};
use crate::{
    accept,
    auth::Caller,
    extract::{
        Context, Query,
        body::{self, Held, Limit},
        media_type::MediaType,
        multipart, not_found, path,
    },
    gateway::Gateway,
    idempotency,
    memory::{self, Room},
    page::Paging,
    position,
    prefer::RespondAsync,
    problem::{Kind, Problem},
    rate_limit::RateLimit,
    router::Answer,
    views::{ExecutionSummary, Resource, Streams},
};

mod asynchronous;
mod document;
mod events;
mod rerun;
mod stored;
mod verify;

pub(crate) use asynchronous::cancel;
pub(crate) use document::*;
pub(crate) use events::{events, events_doc};
pub(crate) use rerun::{rerun, rerun_doc};
use stored::Head;
pub(crate) use verify::{verify, verify_doc};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// POST /v1/modules/{name}/executions
pub(crate) async fn run(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    let name: ModuleName = path(&request, "name", Kind::ModuleNotFound)?;
    let mut query = Query::of(&request)?;
    let (version, timeout_ms, fuel) = (query.number("version"), timeout(&mut query), fuel(&mut query));
    let args = query.all("arg");
    query.finish()?;
    let raw = wants_bytes(&request)?;
    let Held { bytes: stdin, room } = read_stdin(&gateway, &caller, &mut request).await?;
    let once = idempotency::of(&request, &caller, [&*stdin])?;
    let wanted =
        Wanted { code: Code::Named { name, version }, stdin, args, timeout_ms, fuel, rerun: None, room, once, raw };
    execute(&gateway, &caller, &request, wanted).await
}

/// POST /v1/executions
pub(crate) async fn run_upload(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (timeout_ms, fuel) = (timeout(&mut query), fuel(&mut query));
    query.finish()?;
    let raw = wants_bytes(&request)?;
    let parts = multipart::read(&gateway, &caller, &mut request).await?;
    let multipart::Parts { wasm, input: stdin, args, room } = parts;
    // The parts themselves: each try has a boundary of its own.
    let body = [&*wasm, &*stdin].into_iter().chain(args.iter().map(String::as_bytes));
    let once = idempotency::of(&request, &caller, body)?;
    let wanted = Wanted { code: Code::Inline(wasm), stdin, args, timeout_ms, fuel, rerun: None, room, once, raw };
    execute(&gateway, &caller, &request, wanted).await
}

/// What is to run, and the room for its bytes.
struct Wanted {
    code: Code,
    stdin: Bytes,
    args: Vec<String>,
    timeout_ms: Option<u64>,
    /// How much fuel it is given, if it is metered.
    fuel: Option<u64>,
    /// Of which record it is made, if it is.
    rerun: Option<RerunOf>,
    room: Room,
    once: Option<Idempotency>,
    /// Is it answered with the guest's output itself?
    raw: bool,
}

fn timeout(query: &mut Query) -> Option<u64> {
    let timeout_ms = query.number::<u64>("timeout_ms");
    if timeout_ms == Some(0) {
        query.fault("timeout_ms", "is at least 1");
    }
    timeout_ms
}

/// A guest with fuel is metered.
pub(super) fn fuel(query: &mut Query) -> Option<u64> {
    let fuel = query.number::<u64>("fuel");
    if fuel.is_some_and(|fuel| !may_be_given(fuel)) {
        query.fault("fuel", FUEL_RULE);
    }
    fuel
}

/// What is said of fuel that is none.
const FUEL_RULE: &str = "is a whole number from 1 to 1000000000000";

fn may_be_given(fuel: u64) -> bool {
    (FUEL_MIN..=FUEL_MAX).contains(&fuel)
}

/// Any media type is input. Without a length there is none, except from HTTP/1.0, where it may end with the connection.
async fn read_stdin(gateway: &Gateway, caller: &Caller, request: &mut Request) -> Result<Held, Problem> {
    if request.version() < Version::HTTP_11 {
        body::require_length(request)?;
    }
    let given = MediaType::of(request).ok().flatten();
    if given.is_some_and(|given| given.is("multipart/form-data")) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "The body is the input itself, of any media type but multipart/form-data. POST /v1/executions takes parts.",
        ));
    }
    let tier = caller.tenant.tier;
    let bytes = gateway.deps().policy.of(tier).stdin_bytes;
    let limit = Limit { bytes, what: "Standard input", tier: Some(tier) };
    body::read(gateway.config(), &gateway.memory_of(caller), request, limit).await
}

async fn execute(gateway: &Gateway, caller: &Caller, request: &Request, wanted: Wanted) -> Answer {
    let Wanted { code, stdin, args, timeout_ms, fuel, rerun, room, once, raw } = wanted;
    let (tenant, by) = (caller.tenant_id().clone(), caller.authority());
    let origin = Context::origin(request).once(once);
    // The room goes along: what is run stays in memory whether or not its caller stays.
    let hold = Hold::of(room);
    let wanted = dispatch::Request { tenant, by, origin, code, stdin, args, timeout_ms, fuel, rerun, hold };
    if let Some(preference) = RespondAsync::of(request.headers(), gateway.config().prefer_wait_max()) {
        return asynchronous::accept(gateway, caller, wanted, preference).await;
    }
    let done = match gateway.deps().dispatch.execute(wanted).await {
        Ok(done) => done,
        Err(DispatchError::RanBefore { execution_id, running: false, position }) => {
            let replayed = stored::replay(gateway, caller, execution_id, position, raw).await?;
            return Ok(varying(replayed));
        }
        Err(error) => return Err(error.into()),
    };
    let streams = Streams::of(&done, gateway.config().inline_output_bytes);
    let resource = Resource::size_of(&streams, done.message());
    let size_bytes = if raw { done.stdout.len() as u64 } else { resource.in_memory_bytes };
    let room = gateway.memory_of(caller).room_in_time(size_bytes).await;
    let room = room.map_err(|full| recorded_only(&full, &done))?;
    let mut response = if raw {
        stored::raw(&Head::from(&done), room.keep(done.stdout.clone()))
    } else {
        json_in(room, resource.written_bytes, StatusCode::OK, &Resource::of(&done, &streams))?
    };
    position::mark(&mut response, done.position);
    if let Some(limit) = RateLimit::of_executions(&done, gateway.deps().policy.of(caller.tenant.tier)) {
        limit.mark(&mut response);
    }
    if !raw {
        locate(&mut response, &location(&done));
    }
    Ok(varying(response))
}

/// Says that the answer would be another for another `Accept`.
fn varying(mut response: Response) -> Response {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn location(done: &Done) -> String {
    format!("/v1/executions/{}", done.accepted.execution_id)
}

/// What ran is recorded, but there is no memory to answer it in. An answer without the outputs could not be told from one
/// of a guest that wrote nothing; so the caller is told where they are.
fn recorded_only(full: &Problem, done: &Done) -> Problem {
    let (id, location) = (done.accepted.execution_id, location(done));
    let detail = format!(
        "Execution {id} has run and is recorded: do not run it again, read {location}. It is not answered here because \
         there is no memory for it. {}",
        full.detail()
    );
    let problem = Problem::new(full.kind(), detail).because("recorded").retry_after_ms(memory::RETRY_MS);
    problem.header(header::LOCATION, &location).header(position::POSITION, &position::token(done.position))
}

/// Does the caller want the guest's output itself? Asked before anything runs: what is refused has not happened.
fn wants_bytes(request: &Request) -> Result<bool, Problem> {
    Ok(accept::choose(request.headers(), &[JSON, BYTES])? == BYTES)
}

/// GET /v1/executions
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (from, to) = query.between();
    let (module, outcome, key) = (query.one("module"), query.one("outcome"), query.one("key"));
    let filter = ExecutionFilter { module, outcome, key, from, to };
    let (paging, page) = Paging::of(&request, &mut query, "executions", caller.tenant_id())?;
    query.finish()?;
    let _turn = gateway.turn_of_list(&caller).await?;
    let page = page.within(gateway.config().page_bytes_max);
    let listed = gateway.deps().views.executions().list(caller.tenant_id(), filter, page).await?;
    paging.answer(&gateway.memory_of(&caller), listed, ExecutionSummary::from)
}

async fn found(gateway: &Gateway, caller: &Caller, request: &Request) -> Result<ExecutionRecord, Problem> {
    Query::of(request)?.finish()?;
    let id: ExecutionId = path(request, "execution_id", Kind::ExecutionNotFound)?;
    let found = gateway.deps().views.executions().get(caller.tenant_id(), id).await?;
    found.ok_or_else(|| not_found(Kind::ExecutionNotFound))
}

/// An execution as the log has it: also one that the view does not show yet, or not with its end if that `is_wanted`.
async fn current(
    gateway: &Gateway,
    caller: &Caller,
    id: ExecutionId,
    is_wanted: impl Fn(&ExecutionRecord) -> bool,
) -> Result<Option<ExecutionRecord>, Problem> {
    let executions = gateway.deps().views.executions();
    let record = executions.get(caller.tenant_id(), id).await?;
    if record.as_ref().is_some_and(is_wanted) {
        return Ok(record);
    }
    gateway.until_visible(View::Executions, gateway.deps().log.tail().await?).await;
    Ok(executions.get(caller.tenant_id(), id).await?)
}

/// GET /v1/executions/{execution_id}
pub(crate) async fn get(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let record = found(&gateway, &caller, &request).await?;
    stored::resource(&gateway, &caller, &record).await
}

/// Bytes that a commit names: they ride with it, or are a blob; `None` when they are no longer kept.
async fn kept(gateway: &Gateway, at: Position, digest: Digest, size_bytes: u64) -> Result<Option<Bytes>, Problem> {
    if size_bytes == 0 {
        return Ok(Some(Bytes::new()));
    }
    match gateway.deps().log.payload(at, digest).await? {
        Some(bytes) => Ok(Some(bytes)),
        None => Ok(gateway.deps().blobs.get(digest).await?),
    }
}

async fn stream(gateway: &Gateway, caller: &Caller, at: Position, digest: Digest, size_bytes: u64) -> Answer {
    let share = gateway.memory_of(caller);
    let inline = if size_bytes == 0 { Some(Bytes::new()) } else { gateway.deps().log.payload(at, digest).await? };
    if let Some(bytes) = inline {
        let room = share.room(size_bytes)?;
        return Ok(Response::builder().header(header::CONTENT_TYPE, BYTES).body(room.keep(bytes)));
    }
    let pieces = gateway.deps().blobs.open_pieces(digest).await?.ok_or_else(|| {
        let detail = "The bytes are no longer kept: their retention has passed. Their digest stays in the record.";
        Problem::new(Kind::PayloadGone, detail)
    })?;
    Ok(of_pieces(share.room(pieces.in_memory_bytes())?, BYTES, pieces))
}

/// GET /v1/executions/{execution_id}/stdin
pub(crate) async fn stdin(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let record = found(&gateway, &caller, &request).await?;
    stream(&gateway, &caller, record.accepted_position, record.stdin.digest, record.stdin.size_bytes).await
}

/// GET /v1/executions/{execution_id}/stdout
pub(crate) async fn stdout(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    output(&gateway, &caller, &found(&gateway, &caller, &request).await?, |end| end.stdout).await
}

/// GET /v1/executions/{execution_id}/stderr
pub(crate) async fn stderr(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    output(&gateway, &caller, &found(&gateway, &caller, &request).await?, |end| end.stderr).await
}

async fn output(
    gateway: &Gateway,
    caller: &Caller,
    record: &ExecutionRecord,
    of: fn(&wasmwiz_projections::executions::ExecutionEnd) -> Option<wasmwiz_events::execution::Output>,
) -> Answer {
    let Some(end) = &record.end else {
        let detail = "The execution still runs. Its outputs are there once it has an outcome.";
        return Err(Problem::new(Kind::ExecutionRunning, detail).retry_after_ms(1_000));
    };
    let Some(output) = of(end) else {
        return Err(Problem::new(Kind::PayloadGone, "The execution was lost with its node. No output was recorded."));
    };
    stream(gateway, caller, end.finished_position, output.digest, output.size_bytes).await
}
