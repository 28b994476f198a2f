//! What the document says about executions.

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::Type as _,
};

use super::BYTES;
use crate::{
    openapi::Operation,
    problem::Kind,
    views::{Execution, ExecutionSummary},
};

/// What a run can be refused for, whichever door it came through.
const REFUSED: [Kind; 6] = [
    Kind::InvalidArguments,
    Kind::RateLimited,
    Kind::DailyQuotaUsed,
    Kind::TooManyConcurrent,
    Kind::NotAcceptable,
    Kind::StorageQuotaExceeded,
];

pub(super) fn ran(operation: Operation) -> Operation {
    operation
        .query::<u64>(
            "timeout_ms",
            "The most wall-clock time to wait, in milliseconds; at most the tier's. What waits for its turn as long as \
             that does not run: 504 deadline-passed, or the outcome deadline_exceeded of an asynchronous one.",
        )
        .header("Prefer", ASYNCHRONOUS)
        .answers::<Execution>(200, "It ran; see its outcome. A guest that fails is no error of the platform")
        .answers_bytes(200, BYTES, "The guest's standard output itself, with Accept: application/octet-stream")
        .answers::<Execution>(202, "It is accepted and will run, with Prefer: respond-async")
        .with_header("Location", "Where the execution is.")
        .with_header("Vary", "accept: it chooses between the two forms. Not on a 202.")
        .with_header("Preference-Applied", "With Prefer: respond-async: what was followed.")
        .with_header("Wasmwiz-Execution-Id", "With octet-stream: the execution.")
        .with_header("Wasmwiz-Outcome", "With octet-stream: how it ended.")
        .with_header("Wasmwiz-Exit-Code", "With octet-stream: the guest's exit code, when it ended by itself.")
        .with_header("Server-Timing", "With octet-stream: exec and cpu, in milliseconds.")
        .with_header("RateLimit", "What is left of the executions that the tier allows a minute, when it limits them.")
        .with_header("RateLimit-Policy", "How many the tier allows, and in how many seconds.")
        .problem(&REFUSED)
        .problem(&[Kind::TooManyBodies, Kind::TooManyQueued])
}

/// What is said of fuel.
const FUEL: &str = "Meter the guest: its instructions are counted, about a unit of fuel for each, and it ends as out_of_fuel when it \
    has used up as many as this, at the same one in every run. How many it used is in usage.fuel. It runs slower, and is \
    compiled once more. The time is limited as without. Of a version that is metered it counts up to the version's own.";

/// What is said of both doors.
const ASYNCHRONOUS: &str = "respond-async: answer 202 once it is accepted, and run it when its turn comes, also after a \
    restart of the node: at least once, and it ends exactly once. With wait=N too: answer 200 if it ends within N seconds. \
    The answer is JSON.";

pub(crate) fn cancel_doc() -> Operation {
    Operation::new("cancelExecution", "executions", "Cancel an execution that waits or runs")
        .describe(
            "Needs the scope executions:run. A guest that runs is stopped at once, and whoever waits for it is answered \
             with the outcome cancelled. Asking again for one that was cancelled is the same 200; one that ended otherwise \
             is a 409 whose reason is its outcome.",
        )
        .answers::<ExecutionSummary>(200, "It is cancelled: its end is recorded")
        .answers::<ExecutionSummary>(202, "It is being stopped; its end is not recorded yet")
        .problem(&[Kind::ExecutionNotFound, Kind::ExecutionEnded, Kind::NotThereYet])
}

pub(crate) fn run_doc() -> Operation {
    let operation = Operation::new("runModule", "executions", "Run a published module")
        .describe(
            "Needs the scope executions:run. The body is standard input, of any media type but multipart/form-data. \
             A request without a length has no input; from HTTP/1.0 it is refused as length-required.",
        )
        .query::<u64>("fuel", FUEL)
        .query::<u32>("version", "The version to run; the latest when absent.")
        .query::<Vec<String>>("arg", "An argument; may be repeated.")
        .takes_bytes(&[BYTES], "Standard input", false)
        .problem(&[Kind::ModuleNotFound, Kind::VersionNotFound, Kind::HostClockForbidden])
        .problem(&[Kind::LengthRequired, Kind::UnsupportedMediaType]);
    ran(operation)
}

pub(crate) fn run_upload_doc() -> Operation {
    let binary = || MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")));
    let mut parts = MetaSchema::new("object");
    parts.required = vec!["wasm"];
    parts.properties = vec![("wasm", binary()), ("input", binary()), ("arg", Vec::<String>::schema_ref())];
    let operation = Operation::new("runUpload", "executions", "Upload a module and run it at once")
        .query::<u64>("fuel", FUEL)
        .describe("Needs the scope executions:run. For instance: curl -F wasm=@hello.wasm -F input=world.")
        .takes_parts("The module, its input, and its arguments in their order", parts)
        .problem(&[Kind::ModuleRejected, Kind::TooManyCompilations, Kind::TooManyUploads]);
    ran(operation)
}

pub(crate) fn list_doc() -> Operation {
    Operation::new("listExecutions", "executions", "List executions, the newest first")
        .describe(
            "Needs the scope executions:read. A filter that few pass gives short pages, even empty ones; go on while \
             next_cursor is not null.",
        )
        .query::<String>("module", "Only of this module.")
        .query::<String>("outcome", "Only those that ended like this.")
        .query::<String>("key", "Only those asked for with this key.")
        .query::<String>("from", "Only those accepted at this time or later, as in RFC 3339.")
        .query::<String>("to", "Only those accepted before this time, as in RFC 3339.")
        .paged()
        .answers_page::<ExecutionSummary>("A page of executions, without their streams")
        .problem(&[Kind::RateLimited])
}

pub(crate) fn get_doc() -> Operation {
    Operation::new("getExecution", "executions", "Read an execution")
        .describe("Needs the scope executions:read. While it runs, outcome is null.")
        .answers::<Execution>(200, "The execution, with its outputs as far as they are kept")
        .problem(&[Kind::ExecutionNotFound, Kind::TooManyBodies])
}

fn stream(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, "executions", summary)
        .describe("Needs the scope executions:read.")
        .answers_bytes(200, BYTES, "The bytes")
        .problem(&[Kind::ExecutionNotFound, Kind::PayloadGone, Kind::TooManyBodies])
}

pub(crate) fn stdin_doc() -> Operation {
    stream("getExecutionStdin", "Read the standard input of an execution")
}

pub(crate) fn stdout_doc() -> Operation {
    stream("getExecutionStdout", "Read the standard output of an execution").problem(&[Kind::ExecutionRunning])
}

pub(crate) fn stderr_doc() -> Operation {
    stream("getExecutionStderr", "Read the standard error of an execution").problem(&[Kind::ExecutionRunning])
}
