//! The bytes that nodes exchange: commands, their answers, and what is told without an answer. The one home of bincode.
//!
//! ```text
//! "wwzf" │ version u8 │ kind u8 │ length of the body u32 │ CRC-32 of version, kind and body u32 │ body        big-endian
//! ```
//! Nothing here lasts: a frame is read at once or never. Its body is positional, so any change of a type in it is a new
//! `VERSION`; a node that is given one that it does not read says so with a header alone, whose shape never changes.
//! What bincode cannot read back, such as events with their optional fields, is in the body as JSON.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    id::{CommandId, ExecutionId, RequestId, TenantId},
    idempotency::Idempotency,
    payload::Payload,
    revision::{Position, Revision},
    time::Timestamp,
};

use crate::{
    aggregate::{Authority, Life},
    handle::{Ask, Decided, Origin},
    tenant::{Command, Refusal, expected::Seen, idempotency::Replayed},
};

mod fields;
pub(crate) mod snapshot;

pub(crate) use fields::{json, moment, never, scope};

/// The largest frame, in bytes: a message bus takes 1 MiB with its own headers. Payloads of more than
/// [`wasmwiz_events::payload::MAX_INLINE_BYTES`] are in the blob store, so that no command comes near it.
pub const FRAME_MAX_BYTES: usize = 1_000_000;

/// The version of the frames that this node writes, and the only one that it reads so far. A later one reads its
/// predecessor too, and answers in the version that it was asked in.
pub(crate) const VERSION: u8 = 1;

const MAGIC: &[u8; 4] = b"wwzf";
const HEADER_BYTES: usize = 14;
/// Where the kind is in the header.
const KIND_AT: usize = 5;

/// What a frame is. The numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// "I do not read your version": a header alone, of the version that the sender reads.
    Unreadable = 0,
    /// A command.
    Ask = 1,
    /// A command that records what has happened already: it is let in when others are turned away.
    Report = 2,
    /// What became of a command.
    Reply = 3,
    /// Something to be done, without an answer.
    Control = 4,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        let all = [Self::Unreadable, Self::Ask, Self::Report, Self::Reply, Self::Control];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The bytes are no frame that can be read here, or would be none elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Nothing of ours.
    #[error("these bytes are no frame")]
    NotAFrame,
    /// Cut off, or changed on its way.
    #[error("the frame is torn: its length or its checksum does not fit")]
    Torn,
    /// A node of another version.
    #[error("the frame is of version {0}, and this node reads version {VERSION} alone; bring all nodes to one version")]
    Version(u8),
    /// A kind that is not expected here.
    #[error("a frame of another kind was expected")]
    Kind,
    /// More than a message bus takes.
    #[error("the frame would have {0} bytes, more than the {FRAME_MAX_BYTES} that go between nodes")]
    TooLarge(usize),
    /// It cannot be written, or its body is not of its shape.
    #[error("the frame cannot be written or read: {0}")]
    Body(String),
}

/// A command on its way to the owner of its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) tenant: TenantId,
    /// How long somebody waits for the answer from now on.
    pub(crate) within: Duration,
    pub(crate) ask: Ask,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Decided(Decided),
    Refused(Refusal),
    /// Not decided: a queue is full.
    Busy {
        retry_after_ms: u64,
    },
    /// Not decided: the tenant is not owned here.
    NotHere,
    /// Not decided: the frame could not be read.
    Unread {
        reason: Arc<str>,
    },
    /// Nobody knows: it took longer than somebody waits.
    TooLate,
    /// It may not be known whether it was.
    Unavailable {
        reason: Arc<str>,
        retry_after_ms: u64,
    },
}

/// Something that a node is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    /// End an execution that runs there.
    Cancel { execution_id: ExecutionId },
}

/// The kind of a frame that is whole, and its body.
///
/// # Errors
/// [`FrameError`].
pub(crate) fn open(frame: &[u8]) -> Result<(Kind, &[u8]), FrameError> {
    let Some((header, body)) = frame.split_first_chunk::<HEADER_BYTES>() else { return Err(FrameError::NotAFrame) };
    let [m0, m1, m2, m3, version, kind, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(FrameError::NotAFrame);
    }
    if version != VERSION {
        // Also of "unreadable": the version in it is what the other node reads.
        return Err(FrameError::Version(version));
    }
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).ok();
    if length != Some(body.len()) || u32::from_be_bytes([c0, c1, c2, c3]) != checksum(version, kind, body) {
        return Err(FrameError::Torn);
    }
    Ok((Kind::of(kind).ok_or(FrameError::Kind)?, body))
}

/// What is answered to a frame of a version that is not read here.
pub(crate) fn unreadable() -> Bytes {
    seal(Kind::Unreadable, &[]).into()
}

impl Question {
    pub(crate) fn encode(&self) -> Result<Bytes, FrameError> {
        let kind = if self.ask.command.is_report() { Kind::Report } else { Kind::Ask };
        let Ask { command, by, origin, payloads } = &self.ask;
        // A command within a command would have no end for whoever reads it.
        let (previews, command) = match command {
            Command::Preview(command) => (true, &**command),
            command => (false, command),
        };
        let sent = Sent {
            tenant: self.tenant.clone(),
            within_ms: u64::try_from(self.within.as_millis()).unwrap_or(u64::MAX),
            previews,
            command: command.clone(),
            by: by.clone(),
            command_id: origin.command,
            correlation: origin.correlation.clone(),
            traceparent: origin.traceparent.clone(),
            once: origin.once.map(|once| (once.key, once.request)),
            expected: origin.expected,
            payloads: payloads.iter().map(|payload| payload.bytes().clone()).collect(),
        };
        encode(kind, &sent)
    }

    /// Reads the body of an ask or a report.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let sent: Sent = decode(body)?;
        let origin = Origin {
            command: sent.command_id,
            correlation: sent.correlation,
            traceparent: sent.traceparent,
            once: sent.once.map(|(key, request)| Idempotency { key, request }),
            expected: sent.expected,
        };
        let command = if sent.previews { Command::Preview(Box::new(sent.command)) } else { sent.command };
        let payloads = sent.payloads.into_iter().map(Payload::new).collect();
        let ask = Ask { command, by: sent.by, origin, payloads };
        Ok(Self { tenant: sent.tenant, within: Duration::from_millis(sent.within_ms), ask })
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Result<Bytes, FrameError> {
        let answered = match self {
            Self::Decided(decided) => Answered::Decided(Settled::of(decided)?),
            Self::Refused(refusal) => Answered::Refused(refusal.clone()),
            Self::Busy { retry_after_ms } => Answered::Busy { retry_after_ms: *retry_after_ms },
            Self::NotHere => Answered::NotHere,
            Self::Unread { reason } => Answered::Unread { reason: Arc::clone(reason) },
            Self::TooLate => Answered::TooLate,
            Self::Unavailable { reason, retry_after_ms } => {
                Answered::Unavailable { reason: Arc::clone(reason), retry_after_ms: *retry_after_ms }
            }
        };
        encode(Kind::Reply, &answered)
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let body = match open(frame) {
            Ok((Kind::Reply, body)) => body,
            Ok(_) => return Err(FrameError::Kind),
            // Only a header alone says that the command was not read.
            Err(FrameError::Version(_)) if frame.get(KIND_AT) != Some(&(Kind::Unreadable as u8)) => {
                return Err(FrameError::Kind);
            }
            Err(error) => return Err(error),
        };
        Ok(match decode(body)? {
            Answered::Decided(settled) => Self::Decided(settled.decided()?),
            Answered::Refused(refusal) => Self::Refused(refusal),
            Answered::Busy { retry_after_ms } => Self::Busy { retry_after_ms },
            Answered::NotHere => Self::NotHere,
            Answered::Unread { reason } => Self::Unread { reason },
            Answered::TooLate => Self::TooLate,
            Answered::Unavailable { reason, retry_after_ms } => Self::Unavailable { reason, retry_after_ms },
        })
    }
}

impl Control {
    pub(crate) fn encode(&self) -> Result<Bytes, FrameError> {
        encode(Kind::Control, self)
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let (Kind::Control, body) = open(frame)? else { return Err(FrameError::Kind) };
        decode(body)
    }
}

/// The body of an ask and of a report.
#[derive(Serialize, Deserialize)]
struct Sent {
    tenant: TenantId,
    within_ms: u64,
    previews: bool,
    command: Command,
    by: Authority,
    command_id: CommandId,
    correlation: Option<RequestId>,
    traceparent: Option<Arc<str>>,
    once: Option<(Digest, Digest)>,
    expected: Option<Seen>,
    payloads: Vec<Bytes>,
}

/// The body of a reply.
#[derive(Serialize, Deserialize)]
enum Answered {
    Decided(Settled),
    Refused(Refusal),
    Busy { retry_after_ms: u64 },
    NotHere,
    Unread { reason: Arc<str> },
    TooLate,
    Unavailable { reason: Arc<str>, retry_after_ms: u64 },
}

/// A decision, with its events as the log writes them: the type, and the data in JSON.
#[derive(Serialize, Deserialize)]
struct Settled {
    events: Vec<(String, String)>,
    replayed: Option<Replayed>,
    #[serde(with = "moment")]
    time: Timestamp,
    revision: Revision,
    position: Position,
    runs_at: Option<Life>,
}

impl Settled {
    fn of(decided: &Decided) -> Result<Self, FrameError> {
        let Decided { events, replayed, time, revision, position, runs_at } = decided;
        let written = |event: &Event| serde_json::to_string(event).map(|data| (event.type_name().to_owned(), data));
        let events = events.iter().map(written).collect::<Result<_, _>>().map_err(body_error)?;
        let (replayed, runs_at) = (replayed.clone(), runs_at.clone());
        Ok(Self { events, replayed, time: *time, revision: *revision, position: *position, runs_at })
    }

    fn decided(self) -> Result<Decided, FrameError> {
        let Self { events, replayed, time, revision, position, runs_at } = self;
        let read = |(name, data): (String, String)| {
            let data = RawValue::from_string(data).map_err(body_error)?;
            Event::decode(&name, &data).map_err(body_error)
        };
        let events = events.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Decided { events, replayed, time, revision, position, runs_at })
    }
}

fn encode(kind: Kind, body: &impl Serialize) -> Result<Bytes, FrameError> {
    let body = bincode::serde::encode_to_vec(body, bincode::config::standard()).map_err(body_error)?;
    let bytes = HEADER_BYTES.saturating_add(body.len());
    if bytes > FRAME_MAX_BYTES {
        return Err(FrameError::TooLarge(bytes));
    }
    Ok(seal(kind, &body).into())
}

/// Allocates no more than a frame has.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let config = bincode::config::standard().with_limit::<FRAME_MAX_BYTES>();
    let (read, bytes) = bincode::serde::decode_from_slice(body, config).map_err(body_error)?;
    if bytes == body.len() { Ok(read) } else { Err(FrameError::Body("it has more than its body".to_owned())) }
}

fn seal(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&[VERSION, kind as u8]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&checksum(VERSION, kind as u8, body).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn checksum(version: u8, kind: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version, kind]);
    hasher.update(body);
    hasher.finalize()
}

fn body_error(error: impl std::fmt::Display) -> FrameError {
    FrameError::Body(error.to_string())
}

#[cfg(test)]
mod tests;
