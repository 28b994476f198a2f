//! An execution on the wire.
//!
//! The resource is written straight from the record and the bytes, without copying outputs that are text.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use poem_openapi::Object;
use serde::Serialize;
use wasmwiz_actors::{
    dispatch::{Done, End, Queued},
    json::escaped_size,
};
use wasmwiz_events::{
    execution::{ModuleRef, Outcome},
    id::{ExecutionId, KeyId},
    reproducibility::Reproducibility,
    time::Timestamp,
};
use wasmwiz_projections::executions::ExecutionRecord;

use super::{Inline, ModuleUsed, ResourceUse, Truncated};

/// An execution. What is not known yet is null.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Execution {
    /// Its id.
    pub(crate) id: String,
    /// What was run.
    pub(crate) module: ModuleUsed,
    /// queued, running or finished.
    pub(crate) status: String,
    /// succeeded, exited, trapped, deadline_exceeded, out_of_fuel, out_of_memory, cancelled, lost or failed; null while
    /// it runs.
    pub(crate) outcome: Option<String>,
    /// The guest's exit code, when it ended by itself.
    pub(crate) exit_code: Option<i32>,
    /// Its standard output, or the beginning of it: see inline. Null while it runs, when it was lost, or when it is no longer kept.
    pub(crate) stdout: Option<String>,
    /// Its standard error, or the beginning of it: see inline. Null while it runs, when it was lost, or when it is no longer kept.
    pub(crate) stderr: Option<String>,
    /// utf-8 or base64.
    pub(crate) stdout_encoding: Option<String>,
    /// utf-8 or base64.
    pub(crate) stderr_encoding: Option<String>,
    /// Which streams were cut off at their limit.
    pub(crate) truncated: Truncated,
    /// Which streams are here as far as they are kept; of others /stdout and /stderr have all of it.
    pub(crate) inline: Inline,
    /// What it used; null while it runs.
    pub(crate) usage: Option<ResourceUse>,
    /// When it was accepted.
    pub(crate) accepted_at: String,
    /// When its end was recorded.
    pub(crate) finished_at: Option<String>,
    /// Which key asked.
    pub(crate) key_id: String,
    /// The execution of whose record it was made, if it was.
    pub(crate) rerun_of: Option<String>,
    /// How much fuel it is given, if it is metered.
    pub(crate) fuel: Option<u64>,
    /// Does a run from this record give the same result by construction?
    pub(crate) deterministic: Option<bool>,
    /// What its end depended on: pure (its module, input, arguments and seed), virtual-time (also the moment of its acceptance),
    /// transcript (also what it read from the host's clocks, which is kept) or unverifiable (something that is not recorded);
    /// null while it runs.
    pub(crate) reproducibility: Option<String>,
    /// Why it ended as it did, for people.
    pub(crate) message: Option<String>,
}

/// An execution in a list: without its streams.
#[derive(Debug, Serialize, Object)]
pub(crate) struct ExecutionSummary {
    /// Its id.
    pub(crate) id: String,
    /// What was run.
    pub(crate) module: ModuleUsed,
    /// queued, running or finished.
    pub(crate) status: String,
    /// How it ended; null while it runs.
    pub(crate) outcome: Option<String>,
    /// The guest's exit code, when it ended by itself.
    pub(crate) exit_code: Option<i32>,
    /// Which streams were cut off at their limit.
    pub(crate) truncated: Truncated,
    /// What it used; null while it runs.
    pub(crate) usage: Option<ResourceUse>,
    /// When it was accepted.
    pub(crate) accepted_at: String,
    /// When its end was recorded.
    pub(crate) finished_at: Option<String>,
    /// Which key asked.
    pub(crate) key_id: String,
    /// The execution of whose record it was made, if it was.
    pub(crate) rerun_of: Option<String>,
    /// How much fuel it is given, if it is metered.
    pub(crate) fuel: Option<u64>,
    /// Does a run from the record give the same result by construction?
    pub(crate) deterministic: Option<bool>,
    /// pure, virtual-time, transcript or unverifiable; null while it runs.
    pub(crate) reproducibility: Option<String>,
    /// Why it ended as it did, for people.
    pub(crate) message: Option<String>,
}

/// What an execution wrote, as far as it is kept and shown.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Standard output.
    pub(crate) stdout: Option<Output>,
    /// Standard error.
    pub(crate) stderr: Option<Output>,
}

/// One stream, or its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    bytes: Bytes,
    is_whole: bool,
}

impl Output {
    /// The first `bytes_max` of a stream that has `size_bytes`, of which these are the first: fewer where a character would be cut.
    pub(crate) fn shown(bytes: &Bytes, size_bytes: u64, bytes_max: u64) -> Self {
        if size_bytes <= bytes_max {
            return Self { bytes: bytes.clone(), is_whole: true };
        }
        let cut = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(bytes.len());
        let first = bytes.get(..cut).unwrap_or_default();
        let cut = match std::str::from_utf8(first) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => cut,
        };
        // A copy: a part of the bytes would keep all of them.
        Self { bytes: Bytes::copy_from_slice(first.get(..cut).unwrap_or_default()), is_whole: false }
    }
}

impl Streams {
    /// What one that has just ended wrote, at most `bytes_max` of each.
    pub(crate) fn of(done: &Done, bytes_max: u64) -> Self {
        // Nothing is recorded of what a lost one wrote, which is not the same as that it wrote nothing.
        if matches!(done.end, End::Lost(_)) {
            return Self::default();
        }
        let shown = |bytes: &Bytes| Some(Output::shown(bytes, bytes.len() as u64, bytes_max));
        Self { stdout: shown(&done.stdout), stderr: shown(&done.stderr) }
    }

    fn inline(&self) -> Inline {
        let is_whole = |output: &Option<Output>| output.as_ref().is_none_or(|output| output.is_whole);
        Inline { stdout: is_whole(&self.stdout), stderr: is_whole(&self.stderr) }
    }
}

/// Nothing is missing of what there is not.
const ALL_INLINE: Inline = Inline { stdout: true, stderr: true };

/// An execution with its streams, borrowed: serialises as [`Execution`].
#[derive(Debug, Serialize)]
pub(crate) struct Resource<'a> {
    id: ExecutionId,
    module: Module<'a>,
    status: &'static str,
    outcome: Option<Outcome>,
    exit_code: Option<i32>,
    stdout: Option<Cow<'a, str>>,
    stderr: Option<Cow<'a, str>>,
    stdout_encoding: Option<&'static str>,
    stderr_encoding: Option<&'static str>,
    truncated: Truncated,
    inline: Inline,
    usage: Option<ResourceUse>,
    accepted_at: Timestamp,
    finished_at: Option<Timestamp>,
    key_id: &'a KeyId,
    rerun_of: Option<ExecutionId>,
    fuel: Option<u64>,
    deterministic: Option<bool>,
    reproducibility: Option<&'static str>,
    message: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Module<'a> {
    name: Option<&'a str>,
    version: Option<u32>,
    digest: String,
}

impl<'a> From<&'a ModuleRef> for Module<'a> {
    fn from(module: &'a ModuleRef) -> Self {
        let name = module.name.as_ref().map(|name| name.as_str());
        Self { name, version: module.version, digest: module.digest.to_string() }
    }
}

/// Bytes in a JSON text: as they are when they are UTF-8, otherwise base64.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) Cow<'a, str>, pub(crate) &'static str);

impl<'a> From<&'a Bytes> for Body<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self(text.into(), "utf-8"),
            Err(_) => Self(STANDARD.encode(bytes).into(), "base64"),
        }
    }
}

/// What a resource has beside its streams and its message, written as JSON, in bytes: names, numbers, times, a module's
/// name and digest. It is less than half of it.
const REST_BYTES: u64 = 4_096;

/// How much memory a resource takes while it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// The JSON text, at most.
    pub(crate) written_bytes: u64,
    /// That, with the streams it is written from.
    pub(crate) in_memory_bytes: u64,
}

impl<'a> Resource<'a> {
    /// How much a resource with these streams and this message takes.
    pub(crate) fn size_of(streams: &Streams, message: Option<&str>) -> Size {
        let written = |text: &str| escaped_size(text) as u64;
        let rest = REST_BYTES.saturating_add(message.map_or(0, written));
        let mut size = Size { written_bytes: rest, in_memory_bytes: rest };
        for Output { bytes, .. } in [&streams.stdout, &streams.stderr].into_iter().flatten() {
            let length = bytes.len() as u64;
            let (kept, text) = match std::str::from_utf8(bytes) {
                Ok(text) => (length, written(text)),
                // Base64 is made in full before it is written, and has nothing to escape.
                Err(_) => {
                    let base64 = length.div_ceil(3).saturating_mul(4);
                    (length.saturating_add(base64), base64.saturating_add(written("")))
                }
            };
            size.written_bytes = size.written_bytes.saturating_add(text);
            size.in_memory_bytes = size.in_memory_bytes.saturating_add(text).saturating_add(kept);
        }
        size
    }

    /// An execution that has just ended, with what is shown of its streams.
    pub(crate) fn of(done: &'a Done, streams: &'a Streams) -> Self {
        let accepted = &*done.accepted;
        let (stdout, stdout_encoding) = streams.stdout.as_ref().map(split).unzip();
        let (stderr, stderr_encoding) = streams.stderr.as_ref().map(split).unzip();
        let mut resource = Self {
            id: accepted.execution_id,
            module: (&accepted.module).into(),
            status: FINISHED,
            outcome: Some(Outcome::Lost),
            exit_code: None,
            stdout,
            stderr,
            stdout_encoding,
            stderr_encoding,
            truncated: Truncated { stdout: false, stderr: false },
            inline: streams.inline(),
            usage: None,
            accepted_at: done.accepted_at,
            finished_at: Some(done.finished_at),
            key_id: &accepted.key_id,
            rerun_of: accepted.rerun_of,
            fuel: accepted.fuel,
            deterministic: None,
            reproducibility: None,
            message: None,
        };
        match &done.end {
            End::Lost(lost) => {
                resource.reproducibility = Some(Reproducibility::Unverifiable.as_str());
                resource.message = Some(&lost.reason);
            }
            End::Finished(finished) => {
                resource.outcome = Some(finished.outcome);
                resource.exit_code = finished.exit_code;
                resource.truncated = Truncated { stdout: finished.stdout.truncated, stderr: finished.stderr.truncated };
                resource.usage = Some(ResourceUse {
                    fuel: finished.fuel,
                    cpu_ms: finished.cpu_ms.as_ms(),
                    wall_ms: finished.wall_ms.as_ms(),
                    peak_memory_bytes: finished.peak_memory_bytes,
                    stdin_bytes: accepted.stdin.size_bytes,
                    stdout_bytes: finished.stdout.size_bytes,
                });
                resource.deterministic = Some(finished.class().is_deterministic());
                resource.reproducibility = Some(finished.class().as_str());
                resource.message = finished.message.as_deref();
            }
        }
        resource
    }

    /// An execution that was just accepted, to run when its turn comes.
    pub(crate) fn begun(queued: &'a Queued) -> Self {
        let accepted = &*queued.accepted;
        Self {
            id: accepted.execution_id,
            module: (&accepted.module).into(),
            status: QUEUED,
            outcome: None,
            exit_code: None,
            stdout: None,
            stderr: None,
            stdout_encoding: None,
            stderr_encoding: None,
            truncated: Truncated { stdout: false, stderr: false },
            inline: ALL_INLINE,
            usage: None,
            accepted_at: queued.accepted_at,
            finished_at: None,
            key_id: &accepted.key_id,
            rerun_of: accepted.rerun_of,
            fuel: accepted.fuel,
            deterministic: None,
            reproducibility: None,
            message: None,
        }
    }

    /// An execution as the view knows it, with the streams that are still kept.
    pub(crate) fn stored(record: &'a ExecutionRecord, streams: &'a Streams) -> Self {
        let end = record.end.as_ref();
        let (stdout, stdout_encoding) = streams.stdout.as_ref().map(split).unzip();
        let (stderr, stderr_encoding) = streams.stderr.as_ref().map(split).unzip();
        Self {
            id: record.id,
            module: (&record.module).into(),
            status: status(record),
            outcome: end.map(|end| end.outcome),
            exit_code: end.and_then(|end| end.exit_code),
            stdout,
            stderr,
            stdout_encoding,
            stderr_encoding,
            truncated: truncated(record),
            inline: streams.inline(),
            usage: usage(record),
            accepted_at: record.accepted_at,
            finished_at: end.map(|end| end.finished_at),
            key_id: &record.key_id,
            rerun_of: record.rerun_of,
            fuel: record.fuel,
            deterministic: deterministic(record),
            reproducibility: end.map(|end| end.reproducibility.as_str()),
            message: end.and_then(|end| end.message.as_deref()),
        }
    }
}

const QUEUED: &str = "queued";
const FINISHED: &str = "finished";

/// Where an execution stands. After a restart of its node an interrupted one is running until its next attempt is.
const fn status(record: &ExecutionRecord) -> &'static str {
    match (&record.end, record.started_at) {
        (Some(_), _) => FINISHED,
        (None, Some(_)) => "running",
        (None, None) => QUEUED,
    }
}

fn split(output: &Output) -> (Cow<'_, str>, &'static str) {
    let Body(text, encoding) = Body::from(&output.bytes);
    (text, encoding)
}

fn truncated(record: &ExecutionRecord) -> Truncated {
    let cut = |output: Option<wasmwiz_events::execution::Output>| output.is_some_and(|output| output.truncated);
    let end = record.end.as_ref();
    Truncated { stdout: cut(end.and_then(|end| end.stdout)), stderr: cut(end.and_then(|end| end.stderr)) }
}

/// What an execution used; a lost one is not known to have used anything.
fn usage(record: &ExecutionRecord) -> Option<ResourceUse> {
    let end = record.end.as_ref().filter(|end| end.outcome != Outcome::Lost)?;
    Some(ResourceUse {
        fuel: end.fuel,
        cpu_ms: end.cpu.as_ms(),
        wall_ms: end.wall.as_ms(),
        peak_memory_bytes: end.peak_memory_bytes,
        stdin_bytes: record.stdin.size_bytes,
        stdout_bytes: end.stdout.map_or(0, |output| output.size_bytes),
    })
}

fn deterministic(record: &ExecutionRecord) -> Option<bool> {
    record.end.as_ref().filter(|end| end.outcome != Outcome::Lost).map(|end| end.reproducibility.is_deterministic())
}

impl From<ExecutionRecord> for ExecutionSummary {
    fn from(record: ExecutionRecord) -> Self {
        let (truncated, usage, deterministic) = (truncated(&record), usage(&record), deterministic(&record));
        let end = record.end.as_ref();
        Self {
            id: record.id.to_string(),
            module: ModuleUsed {
                name: record.module.name.as_ref().map(ToString::to_string),
                version: record.module.version,
                digest: record.module.digest.to_string(),
            },
            status: status(&record).to_owned(),
            outcome: end.map(|end| end.outcome.as_str().to_owned()),
            exit_code: end.and_then(|end| end.exit_code),
            truncated,
            usage,
            accepted_at: record.accepted_at.to_string(),
            finished_at: end.map(|end| end.finished_at.to_string()),
            key_id: record.key_id.to_string(),
            rerun_of: record.rerun_of.map(|of| of.to_string()),
            fuel: record.fuel,
            deterministic,
            reproducibility: end.map(|end| end.reproducibility.as_str().to_owned()),
            message: end.and_then(|end| end.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
