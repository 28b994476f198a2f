//! Modules of the caller's tenant.

use http::{StatusCode, header};
use poem::{Request, Response};
use wasmwiz_actors::{
    dispatch::{Hold, Upload},
    handle::Decided,
    tenant::{Command, FUEL_DEFAULT},
};
use wasmwiz_events::{
    event::Event,
    id::ModuleName,
    module::Published,
    settings::{Clock, Settings, Sleep},
};
use wasmwiz_projections::views::View;

use super::{executions::fuel, json, json_in, locate, measured, of_pieces};
use crate::{
    auth::Caller,
    etag::{self, About, Tag},
    extract::{
        Context, Query,
        body::{self, Held, Limit},
        media_type::{MediaType, unsupported},
        not_found, path,
    },
    gateway::Gateway,
    memory,
    openapi::Operation,
    page::Paging,
    position,
    problem::{Kind, Problem},
    router::Answer,
    views::{self, Module},
};

const WASM: &str = "application/wasm";

/// What clients send that know no media type of modules, also those that are made of the document.
const BYTES: &str = "application/octet-stream";

/// PUT /v1/modules/{name}
pub(crate) async fn publish(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let settings = settings(&mut query);
    query.finish()?;
    let name = named(&request)?;
    let expected = etag::expected(&request, About::Version)?;
    let held = read_wasm(&gateway, &caller, &mut request).await?;
    let upload = Upload {
        tenant: caller.tenant_id().clone(),
        by: caller.authority(),
        origin: Context::origin(&request).expecting(expected),
        name: name.clone(),
        wasm: held.bytes,
        settings,
        hold: Hold::of(held.room),
    };
    let decided = gateway.deps().dispatch.publish(upload).await?;
    let (at, location) = (decided.position, format!("/v1/modules/{name}"));
    let (status, module) = published(&gateway, &caller, &name, decided).await?;
    // What a module imports and exports may take more than any room that is taken before it is known.
    let size_bytes = measured(&module)?;
    let room = gateway.memory_of(&caller).room_in_time(size_bytes).await;
    let room = room.map_err(|full| {
        let detail =
            format!("The module is published as {location}, and there is no memory to show it. {}", full.detail());
        let problem = Problem::new(full.kind(), detail).because("recorded").retry_after_ms(memory::RETRY_MS);
        problem.header(header::LOCATION, &location).header(position::POSITION, &position::token(at))
    })?;
    let mut response = json_in(room, size_bytes, status, &module)?;
    position::mark(&mut response, at);
    locate(&mut response, &location);
    Ok(response)
}

/// How the executions of the version are to run. What is not said is the default, whatever the version before has.
fn settings(query: &mut Query) -> Settings {
    let (sleep, clock): (Option<Sleep>, Option<Clock>) = (query.one("sleep"), query.one("clock"));
    let metered = query.one::<bool>("metered");
    let fuel = fuel(query);
    if fuel.is_some() && metered != Some(true) {
        query.fault("fuel", "needs metered=true: only what is metered has fuel");
    }
    if (sleep, clock) == (Some(Sleep::Skip), Some(Clock::Host)) {
        query.fault(
            "sleep",
            "needs clock=virtual to be skip: the host's clocks do not move for a sleep that nobody waits for",
        );
    }
    let fuel = (metered == Some(true)).then(|| fuel.unwrap_or(FUEL_DEFAULT));
    Settings { sleep: sleep.unwrap_or_default(), clock: clock.unwrap_or_default(), fuel }
}

async fn read_wasm(gateway: &Gateway, caller: &Caller, request: &mut Request) -> Result<Held, Problem> {
    // A client that names no type has nothing else to send here.
    if MediaType::of(request)?.is_some_and(|given| !given.is(WASM) && !given.is(BYTES)) {
        return Err(unsupported("application/wasm, application/octet-stream"));
    }
    body::require_length(request)?;
    let tier = caller.tenant.tier;
    let bytes = gateway.deps().policy.of(tier).module_bytes;
    let limit = Limit { bytes, what: "A module", tier: Some(tier) };
    let held = body::read(gateway.config(), &gateway.memory_of(caller), request, limit).await?;
    if held.bytes.is_empty() {
        return Err(Problem::new(Kind::EmptyBody, "The body is empty. Send the bytes of a .wasm file."));
    }
    Ok(held)
}

/// The version that came of an upload: a new one, or the one that has these bytes already.
async fn published(
    gateway: &Gateway,
    caller: &Caller,
    name: &ModuleName,
    decided: Decided,
) -> Result<(StatusCode, Module), Problem> {
    let Decided { events, time, position, .. } = decided;
    for event in events {
        if let Event::ModulePublished(published) = event {
            return Ok((StatusCode::CREATED, shown(published, views::written(time))));
        }
    }
    gateway.until_visible(View::Modules, position).await;
    let found = gateway.deps().views.modules().get(caller.tenant_id(), name).await?;
    let module =
        found.ok_or_else(|| Problem::unavailable("The module is not shown yet. Read it again.", "view behind"))?;
    Ok((StatusCode::OK, module.into()))
}

fn shown(published: Published, created_at: String) -> Module {
    let Published { name, version, digest, size_bytes, kind, imports, exports, settings, writes_full_at: _ } =
        published;
    let (name, digest, kind) = (name.to_string(), digest.to_string(), kind.as_str().to_owned());
    Module { name, version, digest, size_bytes, kind, imports, exports, settings: settings.into(), created_at }
}

/// The name of the module to be written: one that is none is malformed, not absent.
fn named(request: &Request) -> Result<ModuleName, Problem> {
    let name = request.raw_path_param("name").unwrap_or_default();
    name.parse().map_err(|error: wasmwiz_events::id::InvalidId| {
        Problem::new(Kind::InvalidName, format!("A module cannot have this name. A name is {}.", error.rule))
    })
}

/// GET /v1/modules
pub(crate) async fn list(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let mut query = Query::of(&request)?;
    let (paging, page) = Paging::of(&request, &mut query, "modules", caller.tenant_id())?;
    query.finish()?;
    let _turn = gateway.turn_of_list(&caller).await?;
    let listed =
        gateway.deps().views.modules().list(caller.tenant_id(), page.within(gateway.config().page_bytes_max)).await?;
    paging.answer(&gateway.memory_of(&caller), listed, Module::from)
}

/// GET /v1/modules/{name}
pub(crate) async fn get(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let name = path(&request, "name", Kind::ModuleNotFound)?;
    let found = gateway.deps().views.modules().get(caller.tenant_id(), &name).await?;
    let module = found.ok_or_else(|| not_found(Kind::ModuleNotFound))?;
    let tag = Tag::from(&module);
    Ok(tag.mark(&request, json(&gateway.memory_of(&caller), StatusCode::OK, &Module::from(module))?))
}

/// GET /v1/modules/{name}/versions
pub(crate) async fn versions(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    let name: ModuleName = path(&request, "name", Kind::ModuleNotFound)?;
    let mut query = Query::of(&request)?;
    // The name is part of the path, so a cursor of one module is none of another.
    let list = "module-versions";
    let (paging, page) = Paging::of(&request, &mut query, list, caller.tenant_id())?;
    query.finish()?;
    let _turn = gateway.turn_of_list(&caller).await?;
    let modules = gateway.deps().views.modules();
    let page = page.within(gateway.config().page_bytes_max);
    let listed = modules.versions(caller.tenant_id(), &name, page).await?;
    if listed.items.is_empty() && modules.get(caller.tenant_id(), &name).await?.is_none() {
        return Err(not_found(Kind::ModuleNotFound));
    }
    paging.answer(&gateway.memory_of(&caller), listed, Module::from)
}

/// GET /v1/modules/{name}/versions/{version}/wasm
pub(crate) async fn wasm(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let name: ModuleName = path(&request, "name", Kind::ModuleNotFound)?;
    let version = path(&request, "version", Kind::VersionNotFound)?;
    let modules = gateway.deps().views.modules();
    let found = modules.get_version(caller.tenant_id(), &name, version).await?;
    let module = found.filter(|module| module.deleted_at.is_none());
    let module = module.ok_or_else(|| not_found(Kind::VersionNotFound))?;
    let pieces = gateway.deps().blobs.open_pieces(module.digest).await?;
    let pieces = pieces.ok_or_else(|| {
        // The view may not have come to its deletion yet; otherwise they are lost.
        tracing::warn!(module.digest = %module.digest, "the bytes of a version are not kept");
        let detail = "The bytes of the version are no longer kept: it was deleted, and their retention has passed.";
        Problem::new(Kind::PayloadGone, detail)
    })?;
    let room = gateway.memory_of(&caller).room(pieces.in_memory_bytes())?;
    Ok(of_pieces(room, WASM, pieces))
}

/// DELETE /v1/modules/{name}
pub(crate) async fn delete(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let name = path(&request, "name", Kind::ModuleNotFound)?;
    let origin = Context::origin(&request).expecting(etag::expected(&request, About::Version)?);
    let command = Command::DeleteModule { name };
    let decided = gateway.ask(caller.tenant_id(), command, caller.authority(), origin).await?;
    let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
    position::mark(&mut response, decided.position);
    Ok(response)
}

/// What is said of the parameters of a version.
const SLEEP: &str = "What sleeping is to its guests: wait, the default, or skip: their own time moves, and nobody waits. Not with clock=host.";
const CLOCK: &str = "Which clocks its guests read: virtual, the default, which begin at the acceptance and move by rule, or host. What the \
    host's clocks say is kept beside the record, 65,536 readings at most; with more of them an execution is unverifiable.";
const METERED: &str = "Meter each execution of the version, as one that is given fuel.";
const FUEL: &str = "With metered=true: how much fuel each execution has. One may ask for less, and more is cut to it. 1000000000 when it is left \
    out.";

pub(crate) fn publish_doc() -> Operation {
    Operation::new("publishModule", "modules", "Publish a module as the next version of its name")
        .describe(
            "Needs the scope modules:write. The body is the .wasm file, as application/wasm or \
             application/octet-stream. A body of no bytes is refused as empty-body, one without a length as \
             length-required; chunked is taken. The parameters say how the executions of this version run; what is left out is the \
             default, whatever the version before has.",
        )
        .query::<String>("sleep", SLEEP)
        .query::<String>("clock", CLOCK)
        .query::<bool>("metered", METERED)
        .query::<u64>("fuel", FUEL)
        .takes_bytes(&[BYTES, WASM], "The module: a WebAssembly binary for WASI preview 1", true)
        .answers::<Module>(201, "A new version")
        .answers::<Module>(200, "The latest version has these bytes and settings already")
        .conditional()
        .problem(&[Kind::EmptyBody, Kind::InvalidName, Kind::LengthRequired, Kind::UnsupportedMediaType])
        .problem(&[Kind::ModuleRejected, Kind::TooManyModules, Kind::TooManyVersions, Kind::TooManyCompilations])
        .problem(&[Kind::RateLimited, Kind::TooManyUploads, Kind::HostClockForbidden, Kind::StorageQuotaExceeded])
}

pub(crate) fn list_doc() -> Operation {
    Operation::new("listModules", "modules", "List the modules in the order of their names")
        .describe("Needs the scope modules:read. Each is shown in its latest version.")
        .paged()
        .answers_page::<Module>("A page of modules")
        .problem(&[Kind::RateLimited])
}

pub(crate) fn get_doc() -> Operation {
    Operation::new("getModule", "modules", "Read the latest version of a module")
        .describe("Needs the scope modules:read.")
        .answers::<Module>(200, "The module")
        .tagged()
        .problem(&[Kind::ModuleNotFound])
}

pub(crate) fn versions_doc() -> Operation {
    Operation::new("listModuleVersions", "modules", "List the versions of a module, the latest first")
        .describe("Needs the scope modules:read.")
        .paged()
        .answers_page::<Module>("A page of versions")
        .problem(&[Kind::ModuleNotFound, Kind::RateLimited])
}

pub(crate) fn wasm_doc() -> Operation {
    Operation::new("getModuleBytes", "modules", "Read the bytes of a version")
        .describe("Needs the scope modules:read.")
        .answers_bytes(200, WASM, "The bytes as they were uploaded")
        .problem(&[Kind::ModuleNotFound, Kind::VersionNotFound, Kind::PayloadGone, Kind::TooManyBodies])
}

pub(crate) fn delete_doc() -> Operation {
    Operation::new("deleteModule", "modules", "Delete all versions of a module")
        .describe("Needs the scope modules:write. Executions that ran them stay in the record.")
        .answers_nothing(204, "The module is deleted")
        .conditional()
        .problem(&[Kind::ModuleNotFound, Kind::RateLimited])
}
