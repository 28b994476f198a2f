//! What happens to an execution: accepted, begun again and again if it is asynchronous, then exactly one of finished and lost.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    digest::Digest,
    id::{BootId, ExecutionId, KeyId, ModuleName, NodeId},
    reproducibility::Reproducibility,
    settings::{Clock, Sleep, is_default},
    time::{Millis, Timestamp},
    transcript::READING_BYTES,
};

/// Which code an execution runs. Name and version are absent when the module was uploaded with the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModuleRef {
    /// The tenant's name for the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ModuleName>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// SHA-256 of its bytes: what is really run.
    pub digest: Digest,
}

/// Some bytes that are not in the event: their digest and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// How many.
    pub size_bytes: u64,
}

impl Content {
    /// Describes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size_bytes: bytes.len() as u64 }
    }
}

/// What a guest wrote to one of its output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// SHA-256 of the bytes kept.
    pub digest: Digest,
    /// How many bytes were kept.
    pub size_bytes: u64,
    /// Did the guest write more than its limit? The rest was thrown away.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What one execution may use. Granted at acceptance, recorded in the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock time from start to end, in milliseconds.
    pub wall_ms: u64,
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Standard input, in bytes.
    pub stdin_bytes: u64,
    /// Standard output kept, in bytes.
    pub stdout_bytes: u64,
    /// Standard error kept, in bytes.
    pub stderr_bytes: u64,
}

/// Where the random numbers of one execution come from: 128 bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed([u8; 16]);

impl Seed {
    /// A seed that the shell has drawn.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(&*text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// An execution was admitted: it will run, and it will end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The execution.
    pub execution_id: ExecutionId,
    /// 1 for the first attempt. Only the current attempt may finish.
    pub attempt: u32,
    /// What runs.
    pub module: ModuleRef,
    /// Which key asked.
    pub key_id: KeyId,
    /// Its input.
    pub stdin: Content,
    /// Its arguments, after the program's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// Where its random numbers come from.
    pub seed: Seed,
    /// Where the guest's clocks begin, in every attempt: at its acceptance, or where those of the execution began that it does
    /// again as it was.
    pub start_time: Timestamp,
    /// Version and settings of the engine that compiles it, as a short fingerprint.
    pub engine: String,
    /// The node that runs it.
    pub node: NodeId,
    /// The life of that node in which it runs: a later life knows that it is gone.
    pub boot: BootId,
    /// When the tenant's rate bucket will be full again if nothing else is admitted: the state of the token bucket after
    /// this admission, so that replay does not depend on configuration. Absent when the tier has no rate limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_full_at: Option<Timestamp>,
    /// Present when it is asynchronous: nobody waits, it may wait for its turn, and a later life of the node runs it. After
    /// this moment no attempt begins any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,
    /// The execution whose record this one was made of, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<ExecutionId>,
    /// How much fuel its guest may use up, if it is metered: about a unit for each instruction, as the engine of `engine` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// What sleeping is to its guest. Absent: it waits in the host's time, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sleep: Sleep,
    /// Which clocks its guest reads. Absent: its own, which begin at `start_time`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clock: Clock,
    /// How many bytes its tenant stores more by the module that came along. Absent: none came, or these bytes are stored already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded_bytes: Option<u64>,
}

/// An attempt at an asynchronous execution began. Others begin with their acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The execution.
    pub execution_id: ExecutionId,
    /// 1 for the first attempt. Only the current attempt may finish.
    pub attempt: u32,
    /// The node that runs it.
    pub node: NodeId,
    /// The life of that node in which it runs.
    pub boot: BootId,
    /// The time it starts at.
    pub start_time: Timestamp,
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest returned, or exited with code 0.
    Succeeded,
    /// The guest exited with another code.
    Exited,
    /// The guest did what the engine stops: unreachable, out of bounds, stack overflow, division by zero.
    Trapped,
    /// The wall-clock limit passed.
    DeadlineExceeded,
    /// The instruction budget was used up.
    OutOfFuel,
    /// The guest wanted more memory than it may have, and ended because of it.
    OutOfMemory,
    /// Somebody cancelled it.
    Cancelled,
    /// The host could not run it. Never the guest's fault.
    Failed,
    /// Its node went away before it ended.
    Lost,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::Exited,
        Self::Trapped,
        Self::DeadlineExceeded,
        Self::OutOfFuel,
        Self::OutOfMemory,
        Self::Cancelled,
        Self::Failed,
        Self::Lost,
    ];

    /// The outcome's name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Exited => "exited",
            Self::Trapped => "trapped",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::OutOfFuel => "out_of_fuel",
            Self::OutOfMemory => "out_of_memory",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an outcome is one of succeeded, exited, trapped, deadline_exceeded, out_of_fuel, out_of_memory, cancelled, failed \
     and lost"
)]
pub struct NotAnOutcome;

impl std::str::FromStr for Outcome {
    type Err = NotAnOutcome;

    fn from_str(text: &str) -> Result<Self, NotAnOutcome> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or(NotAnOutcome)
    }
}

/// An execution ended: on the node that ran it, or before it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The execution.
    pub execution_id: ExecutionId,
    /// Which attempt.
    pub attempt: u32,
    /// How it ended; never [`Outcome::Lost`], which has its own event.
    pub outcome: Outcome,
    /// The guest's exit code, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Output,
    /// What it wrote to standard error.
    pub stderr: Output,
    /// How much fuel it used up, as the engine counts. Absent when it was not metered, or was stopped where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// CPU time of the guest's own thread slices.
    pub cpu_ms: Millis,
    /// Time from start to end.
    pub wall_ms: Millis,
    /// The most linear memory it held.
    pub peak_memory_bytes: u64,
    /// Digest of the [transcript](crate::transcript) of what its guest read from the host's clocks, if its class is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_digest: Option<Digest>,
    /// How many readings those are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_readings: Option<u64>,
    /// Will a run from this record give the same result by construction? Follows from its reproducibility.
    pub deterministic: bool,
    /// What its end depended on. Absent in records from before there was a word for it: their guests read the host's clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproducibility: Option<Reproducibility>,
    /// Why it ended as it did, for people. At most 1 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Finished {
    /// The end of an execution whose `attempt` never ran, or is not going to: it wrote nothing and used nothing.
    pub fn without_run(execution_id: ExecutionId, attempt: u32, outcome: Outcome, message: String) -> Self {
        let nothing = Output { digest: Digest::of(b""), size_bytes: 0, truncated: false };
        Self {
            execution_id,
            attempt,
            outcome,
            exit_code: None,
            stdout: nothing,
            stderr: nothing,
            fuel: None,
            cpu_ms: Millis::default(),
            wall_ms: Millis::default(),
            peak_memory_bytes: 0,
            trace_digest: None,
            trace_readings: None,
            deterministic: false,
            reproducibility: Some(Reproducibility::Unverifiable),
            message: Some(message),
        }
    }

    /// What its end depended on; of a record without a word for it nothing is known.
    pub fn class(&self) -> Reproducibility {
        self.reproducibility.unwrap_or(Reproducibility::Unverifiable)
    }

    /// What its guest was told by the host's clocks, if that is kept.
    pub fn transcript(&self) -> Option<Content> {
        let size_bytes = self.trace_readings?.checked_mul(READING_BYTES as u64)?;
        Some(Content { digest: self.trace_digest?, size_bytes })
    }

    /// How many bytes its tenant stores more by this end: outputs as far as they were kept, and the transcript.
    pub fn stored_bytes(&self) -> u64 {
        let transcript_bytes = self.transcript().map_or(0, |kept| kept.size_bytes);
        self.stdout.size_bytes.saturating_add(self.stderr.size_bytes).saturating_add(transcript_bytes)
    }

    /// How long the guest ran; `None` if it never did.
    pub fn ran_for(&self) -> Option<Millis> {
        (self.wall_ms > Millis::default()).then_some(self.wall_ms)
    }
}

/// An execution will never finish: its node went away, or it passed its deadline without a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The execution.
    pub execution_id: ExecutionId,
    /// Which attempt.
    pub attempt: u32,
    /// How that was noticed.
    pub reason: String,
}
