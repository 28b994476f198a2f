//! Executions that are made of the records of earlier ones.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use poem::Request;
use wasmwiz_actors::dispatch::{Code, GuestView, RerunOf};
use wasmwiz_events::{
    digest::Digest,
    id::{ExecutionId, ModuleName},
};

use super::{FUEL_RULE, Wanted, current, document, execute, may_be_given, timeout, wants_bytes};
use crate::{
    auth::Caller,
    extract::{Query, json::Fields, not_found, path},
    gateway::Gateway,
    idempotency,
    openapi::Operation,
    problem::{Kind, Problem},
    router::Answer,
    views,
};

/// What is to be otherwise than it was.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    version: Option<u32>,
    stdin: Option<Bytes>,
    args: Option<Vec<String>>,
    fuel: Option<u64>,
    as_recorded: bool,
}

/// POST /v1/executions/{execution_id}/rerun
pub(crate) async fn rerun(gateway: Gateway, caller: Caller, mut request: Request) -> Answer {
    let id: ExecutionId = path(&request, "execution_id", Kind::ExecutionNotFound)?;
    let mut query = Query::of(&request)?;
    let timeout_ms = timeout(&mut query);
    query.finish()?;
    let raw = wants_bytes(&request)?;
    let fields = Fields::read_of_work(&gateway, &caller, &mut request).await?;
    let digest = fields.as_ref().map_or_else(|| Digest::of(b""), Fields::digest);
    let once = idempotency::of(&request, &caller, [&digest.as_bytes()[..]])?;
    let Wish { version, stdin, args, fuel, as_recorded } = fields.map(wish).transpose()?.unwrap_or_default();

    let record = current(&gateway, &caller, id, |_| true).await?.ok_or_else(|| not_found(Kind::ExecutionNotFound))?;
    let at = record.accepted_position;
    let accepted = gateway.deps().dispatch.accepted(id, at).await?;
    let input_bytes = stdin.as_ref().map_or(accepted.stdin.size_bytes, |stdin| stdin.len() as u64);
    let room = gateway.memory_of(&caller).room(input_bytes)?;
    let is_same_version = version.is_none_or(|version| accepted.module.version == Some(version));
    let code = code(accepted.module.name.clone().zip(accepted.module.version), version, accepted.module.digest)?;
    let view = as_recorded.then(|| GuestView::from(&accepted));
    let input = stdin.is_none().then_some((at, accepted.stdin));
    let wanted = Wanted {
        code,
        stdin: stdin.unwrap_or_default(),
        args: args.unwrap_or(accepted.args),
        timeout_ms,
        // What was metered is metered again. Another version has fuel of its own, or none: as much may be too little for it, and who gave it,
        // the request or the recorded version, the record does not say.
        fuel: fuel.or(accepted.fuel.filter(|_| is_same_version)),
        rerun: Some(RerunOf { id, view, input }),
        room,
        once,
        raw,
    };
    execute(&gateway, &caller, &request, wanted).await
}

/// The recorded version of the recorded module, or another one.
fn code(named: Option<(ModuleName, u32)>, version: Option<u32>, digest: Digest) -> Result<Code, Problem> {
    match (named, version) {
        (Some((name, recorded)), version) => Ok(Code::Named { name, version: Some(version.unwrap_or(recorded)) }),
        (None, None) => Ok(Code::Kept(digest)),
        (None, Some(_)) => {
            let detail = "The execution ran an uploaded module, which has no versions. Leave version out, or run the module that \
                 you want by its name, with the input of GET /v1/executions/{execution_id}/stdin.";
            Err(Problem::new(Kind::InvalidBody, detail).at("/version", "must be absent"))
        }
    }
}

fn wish(mut fields: Fields) -> Result<Wish, Problem> {
    let version = fields.optional::<u32>("version");
    let has_stdin = fields.has("stdin");
    let text = fields.optional::<String>("stdin");
    let encoding = fields.optional::<String>("stdin_encoding");
    let stdin = match (text, encoding.as_deref()) {
        (Some(text), None | Some("utf-8")) => Some(Bytes::from(text)),
        (Some(text), Some("base64")) => match STANDARD.decode(text) {
            Ok(bytes) => Some(bytes.into()),
            Err(_) => {
                fields.fault("/stdin", "is not base64 with its padding");
                None
            }
        },
        (None, Some("utf-8" | "base64")) if !has_stdin => {
            fields.fault("/stdin_encoding", "says how stdin is written, and there is none");
            None
        }
        (_, None | Some("utf-8" | "base64")) => None,
        (_, Some(_)) => {
            fields.fault("/stdin_encoding", "is utf-8 or base64");
            None
        }
    };
    let args = fields.optional::<Vec<String>>("args");
    let fuel = fields.optional::<u64>("fuel");
    if fuel.is_some_and(|fuel| !may_be_given(fuel)) {
        fields.fault("/fuel", FUEL_RULE);
    }
    let as_recorded = fields.optional::<bool>("as_recorded").unwrap_or_default();
    fields.finish(Some(Wish { version, stdin, args, fuel, as_recorded }))
}

pub(crate) fn rerun_doc() -> Operation {
    let operation = Operation::new("rerunExecution", "executions", "Run something again from the record of an execution")
        .describe(
            "Needs the scopes executions:run and executions:read. A new execution, with an id, limits and a record of its own, of \
             the recorded module in the recorded version, with the recorded input and arguments, as far as the body does not \
             say otherwise, metered if that one was, or, of another version, as that one says; rerun_of names the earlier one, which may be open, \
             ended or lost. With as_recorded its guest also sees the recorded time and random numbers: what differs then is due to what was \
             changed, except of a version with clock=host, whose guest sees the host's time as ever. A body of more than \
             the node's bound for JSON is refused: run the module by its name instead.",
        )
        .takes_json::<views::RerunRequest>(false)
        .problem(&[
            Kind::ExecutionNotFound,
            Kind::ModuleNotFound,
            Kind::VersionNotFound,
            Kind::HostClockForbidden,
            Kind::PayloadGone,
        ]);
    document::ran(operation)
}
