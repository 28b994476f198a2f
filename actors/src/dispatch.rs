//! One execution from its request to its recorded end, and one module from its bytes to its published version.
//!
//! ```text
//! compiled ─► slot on this node ─► admission by the owner ─► guest runs ─► end recorded ─► answer
//!  an upload      503 if none       ExecutionAccepted         here         ExecutionFinished
//! ```
//! An upload that cannot be compiled, or not now, is told so before anything is accepted, and while it is compiled it holds
//! no slot. A published module was compiled when it was published: that it has to be again, because its artefact is gone,
//! turns out after the admission; a failure then is the host's.
//!
//! The guest runs while its admission is being synced; its end is only recorded on top of it, and nobody hears of
//! anything before that (ADR 031).
//!
//! If the process dies between any two of these, the log says which: nothing recorded, then nothing ran for anybody;
//! accepted and no more, then the tenant's entity declares it lost when it is next read back, or has it run if nobody
//! waits for it.
//!
//! The whole way runs in a task of its own: a caller that hangs up does not leave an execution without its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use wasmwiz_events::{
    blobs::{BlobError, Blobs},
    digest::Digest,
    execution::{Accepted, Finished, Lost},
    id::{BootId, ExecutionId, ModuleName, NodeId, TenantId},
    log::EventLog,
    payload::{MAX_INLINE_BYTES, Payload},
    revision::Position,
    settings::Settings,
    time::Timestamp,
};

use crate::{
    aggregate::Authority,
    bus::CommandBus,
    disk_space::{DiskSpace, Level},
    executor::{Executors, Rejection, budget::MemoryBudget, places::Places},
    handle::{AskError, Decided, Origin},
    ids::Ids,
    queue::Queue,
    region::unavailable,
    verify::{Inconclusive, NotVerifiable},
};

mod again;
mod cancel;
mod ending;
mod finish;
mod hold;
mod keeping;
mod known;
mod once;
mod patience;
mod publish;
mod queued;
mod run;
mod runs;
mod unended;
mod verify;

pub use again::{GuestView, RerunOf};
pub use cancel::{Cancel, Cancelling};
pub use hold::Hold;
pub use queued::Queued;
pub use verify::{Verification, Verify};

/// A request to run something once.
#[derive(Debug)]
pub struct Request {
    /// Whose.
    pub tenant: TenantId,
    /// On whose authority.
    pub by: Authority,
    /// Where it comes from.
    pub origin: Origin,
    /// What to run.
    pub code: Code,
    /// Its input.
    pub stdin: Bytes,
    /// Its arguments.
    pub args: Vec<String>,
    /// The most wall-clock time the caller wants to wait, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How much fuel its guest is given, if the request meters it or gives it less than its version does: from [`FUEL_MIN`](crate::tenant::FUEL_MIN) to
    /// [`FUEL_MAX`](crate::tenant::FUEL_MAX).
    pub fuel: Option<u64>,
    /// Of which record it is made, if it is.
    pub rerun: Option<RerunOf>,
    /// Kept until its end is recorded.
    pub hold: Hold,
}

impl Request {
    /// The same without its hold, which stays with this one.
    fn again(&self) -> Self {
        Self {
            tenant: self.tenant.clone(),
            by: self.by.clone(),
            origin: self.origin.clone(),
            code: self.code.clone(),
            stdin: self.stdin.clone(),
            args: self.args.clone(),
            timeout_ms: self.timeout_ms,
            fuel: self.fuel,
            rerun: self.rerun.clone(),
            hold: Hold::default(),
        }
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub enum Code {
    /// A published module; its latest version when none is named.
    Named {
        /// Its name.
        name: ModuleName,
        /// Its version.
        version: Option<u32>,
    },
    /// The bytes of a module that came with the request.
    Inline(Bytes),
    /// A module that came with an earlier request, and is kept by its digest.
    Kept(Digest),
}

/// A module to be published.
#[derive(Debug)]
pub struct Upload {
    /// Whose.
    pub tenant: TenantId,
    /// On whose authority.
    pub by: Authority,
    /// Where it comes from.
    pub origin: Origin,
    /// The name it is to have.
    pub name: ModuleName,
    /// Its bytes.
    pub wasm: Bytes,
    /// How the executions of this version are to run.
    pub settings: Settings,
    /// Kept until it is published, or is not.
    pub hold: Hold,
}

/// An execution whose end is durable.
#[derive(Debug, Clone)]
pub struct Done {
    /// What was admitted.
    pub accepted: Box<Accepted>,
    /// When.
    pub accepted_at: Timestamp,
    /// How it ended.
    pub end: End,
    /// When its end was recorded.
    pub finished_at: Timestamp,
    /// What it wrote to standard output, as far as it was kept.
    pub stdout: Bytes,
    /// What it wrote to standard error, as far as it was kept.
    pub stderr: Bytes,
    /// Position of the commit that holds the end.
    pub position: Position,
}

impl Done {
    /// Why it ended as it did, for people.
    pub fn message(&self) -> Option<&str> {
        match &self.end {
            End::Finished(finished) => finished.message.as_deref(),
            End::Lost(lost) => Some(&lost.reason),
        }
    }
}

/// How an execution ended.
#[derive(Debug, Clone)]
pub enum End {
    /// Here, with an outcome.
    Finished(Box<Finished>),
    /// Declared lost before its outcome could be recorded.
    Lost(Lost),
}

/// Nothing was run or published.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The tenant's entity did not record it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The bytes are no module that this platform runs.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The same request was sent before, under the same idempotency key.
    #[error("the request was sent before, and execution {execution_id} came of it")]
    RanBefore {
        /// What came of it.
        execution_id: ExecutionId,
        /// Has it not ended yet?
        running: bool,
        /// The stream had this when that was looked up.
        position: Position,
    },
    /// The same request is on its way on this node, and it is not decided yet what comes of it.
    #[error("the same request is under way")]
    InProgress,
    /// The node has as much to do as it takes.
    #[error("this node has as much to do as it takes; try again in {retry_after_ms} ms")]
    Busy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant has as many modules to be compiled as it may.
    #[error(
        "the tenant has as many modules to be compiled as the {limit} that it may; wait for one of them, or try again in \
         {retry_after_ms} ms"
    )]
    TooManyCompilations {
        /// The most that wait or are being compiled.
        limit: usize,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// Compiling the tenant's modules has taken the processor time that it may.
    #[error(
        "compiling the modules of the tenant has taken more than the {ms_per_minute} ms of processor time a minute \
         that it may, whether or not they compiled; try again in {retry_after_ms} ms"
    )]
    CompiledTooMuch {
        /// What comes back in a minute, in milliseconds of processor time.
        ms_per_minute: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant has as many modules to be taken in as it may.
    #[error(
        "the tenant has as many modules to be taken in as the {limit} that it may; wait for one of them, or try again in \
         {retry_after_ms} ms"
    )]
    TooManyUploads {
        /// The most that wait or are being taken in.
        limit: usize,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant has had as much kept for what was refused then as it may.
    #[error(
        "more than {limit_bytes} bytes were kept within an hour for requests of the tenant that were refused then; try again in \
         {retry_after_ms} ms"
    )]
    KeptInVain {
        /// The most, in an hour.
        limit_bytes: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The execution cannot be run again from its record.
    #[error(transparent)]
    NotVerifiable(#[from] NotVerifiable),
    /// It was run again, and the run says nothing.
    #[error(transparent)]
    Inconclusive(#[from] Inconclusive),
    /// Its module cannot be made ready now.
    #[error("{0}")]
    NotNow(String),
    /// The node's disk, or its log, has no room for a module, or for an execution that has not begun.
    #[error("the node's storage is nearly full; try again later, or at another node")]
    DiskFull,
    /// The bytes could not be kept.
    #[error("the bytes could not be kept")]
    Blobs(#[from] BlobError),
    /// The host failed.
    #[error("the host failed: {0}")]
    Host(String),
}

/// What a dispatch needs from its node.
pub struct DispatchDeps {
    /// The tenants, wherever they are.
    pub bus: CommandBus,
    /// The executors.
    pub executors: Executors,
    /// Where modules and large payloads are.
    pub blobs: Arc<dyn Blobs>,
    /// Where the ends of executions are read back, when an answer got lost.
    pub log: Arc<dyn EventLog>,
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// How much room its disk has: without plenty, what waits for its turn goes on waiting.
    pub space: DiskSpace,
}

/// A clonable way to run and to publish.
#[derive(Clone)]
pub struct Dispatch {
    shared: Arc<Shared>,
}

struct Shared {
    deps: DispatchDeps,
    ids: Ids,
    keeping: keeping::Keeping,
    once: once::UnderWay,
    /// How the versions run that were run lately.
    known: known::Known,
    runs: Arc<runs::Runs>,
    /// Room for the input of the asynchronous executions that run.
    input: Arc<MemoryBudget>,
    /// Asynchronous executions that may run.
    running: Arc<Places>,
    /// Executions on their way: a node that stops waits for them.
    under_way: TaskTracker,
    /// Places for verifications.
    lane: verify::Lane,
    /// Tenants that are asked to see to executions.
    nudges: unended::Nudges,
}

impl Dispatch {
    /// A dispatch on this node. Call it within a tokio runtime: it begins to run what waits.
    pub fn new(deps: DispatchDeps) -> Self {
        let (keeping, under_way) = (keeping::Keeping::default(), TaskTracker::new());
        let queue = deps.bus.region().queue().clone();
        let input = MemoryBudget::new(u64::from(queue.config().input_bytes_max));
        let running = Places::new(u32::try_from(queue.config().running_max).unwrap_or(u32::MAX), u32::MAX);
        let (once, known, runs) = (once::UnderWay::default(), known::Known::default(), Arc::default());
        let (lane, nudges) = (verify::Lane::default(), unended::Nudges::default());
        let shared = Shared { deps, ids: Ids, keeping, once, known, runs, input, running, under_way, lane, nudges };
        let shared = Arc::new(shared);
        tokio::spawn(queued::conduct(Arc::downgrade(&shared), queue));
        Self { shared }
    }

    /// Runs a module once and waits until its end is durable.
    ///
    /// # Errors
    /// [`DispatchError`] when nothing ran, or when it ran and its end is not recorded as soon as a region answers; it is
    /// offered on, and when nobody takes it the execution will be declared lost. A guest that fails is no error: see its outcome.
    pub async fn execute(&self, request: Request) -> Result<Done, DispatchError> {
        let (shared, within) = (Arc::clone(&self.shared), self.shared.deps.bus.region().answer_within());
        let (offered, seen) = watch::channel(None);
        let task = async move { shared.execute(request, offered).await };
        let mut task = self.shared.under_way.spawn(task.in_current_span());
        tokio::select! {
            biased;
            done = &mut task => done.unwrap_or_else(|error| Err(DispatchError::Host(error.to_string()))),
            // However long a log stands still: the end is offered on without its caller.
            () = finish::is_late(seen, within) => Err(unavailable(finish::IS_UNKNOWN).into()),
        }
    }

    /// Accepts an execution that runs when its turn comes, whatever becomes of its caller and of this life of the node.
    /// Returns once the acceptance is durable; with `wait`, once its end is, if that comes sooner than this.
    ///
    /// # Errors
    /// [`DispatchError`] when nothing was accepted, or it is not known.
    pub async fn enqueue(&self, request: Request, wait: Option<Duration>) -> Result<Queued, DispatchError> {
        let shared = Arc::clone(&self.shared);
        let task = self.shared.under_way.spawn(async move { shared.enqueue(request).await }.in_current_span());
        let enqueued = task.await.unwrap_or_else(|error| Err(DispatchError::Host(error.to_string())));
        Ok(self.shared.answer(enqueued?, wait).await)
    }

    /// Cancels an execution that waits or runs, and waits for its end, a few seconds at most.
    ///
    /// # Errors
    /// [`DispatchError`]; among them the refusal of an execution that is not open.
    pub async fn cancel(&self, cancel: Cancel) -> Result<Cancelling, DispatchError> {
        self.shared.cancel(cancel).await
    }

    /// Ends an execution that this node runs, if it does.
    pub(crate) fn stop(&self, execution_id: ExecutionId) {
        if let Some(run) = self.shared.runs.find(execution_id) {
            run.stop();
        }
    }

    /// An execution as it was accepted, from its record at this position.
    ///
    /// # Errors
    /// [`DispatchError`] when the log cannot be read, or does not have it there.
    pub async fn accepted(&self, execution_id: ExecutionId, at: Position) -> Result<Accepted, DispatchError> {
        self.shared.accepted(at, execution_id).await
    }

    /// Takes in a module and publishes it as the next version of its name. Bytes that are no module which this platform
    /// runs are recorded as rejected.
    ///
    /// # Errors
    /// [`DispatchError`] when nothing was published.
    pub async fn publish(&self, upload: Upload) -> Result<Decided, DispatchError> {
        let shared = Arc::clone(&self.shared);
        let task = self.shared.under_way.spawn(async move { shared.publish(upload).await }.in_current_span());
        task.await.unwrap_or_else(|error| Err(DispatchError::Host(error.to_string())))
    }

    /// Runs an execution again from its record, compares, and returns once what came of it is durable.
    ///
    /// # Errors
    /// [`DispatchError`]: it cannot be run again, not now, or not by this caller. That it did not give the same is no error.
    pub async fn verify(&self, verify: Verify) -> Result<Verification, DispatchError> {
        let shared = Arc::clone(&self.shared);
        let task = self.shared.under_way.spawn(async move { shared.verify(verify).await }.in_current_span());
        task.await.unwrap_or_else(|error| Err(DispatchError::Host(error.to_string())))
    }

    /// Runs a small module, to see that modules run.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub async fn check(&self) -> Result<(), String> {
        self.shared.deps.executors.check().await
    }

    /// How much room the node's disk and its log have.
    pub fn space(&self) -> &DiskSpace {
        &self.shared.deps.space
    }

    /// How the memory of guests is reset for the next ones, in words.
    pub fn memory_reset(&self) -> &'static str {
        self.shared.deps.executors.memory_reset()
    }

    /// Waits until everything under way has its end, at most `deadline`, and says whether it has. Call it once no more
    /// requests come.
    pub async fn drain(&self, deadline: Duration) -> bool {
        // What waits goes on in the node's next life.
        self.shared.queue().close();
        self.shared.under_way.close();
        let drained = tokio::time::timeout(deadline, self.shared.under_way.wait()).await.is_ok();
        if !drained {
            tracing::warn!(under_way = self.shared.under_way.len(), "executions did not end in time");
        }
        drained
    }

    /// Ends every guest, as the node stops, and lets none begin. Those that somebody waits for are recorded as failed, which
    /// is the host's fault; the others are run again by the node's next life. Call [`Self::drain`] after it.
    pub fn cut_off(&self) {
        self.shared.runs.cut_off();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue().close();
    }
}

impl Shared {
    /// What waits for its turn on this node.
    fn queue(&self) -> &Queue {
        self.deps.bus.region().queue()
    }

    /// Refuses, unless there is room for modules, inputs and outputs. It was looked at when the request came; its body may
    /// have taken minutes, and its turn as well.
    fn require_space(&self) -> Result<(), DispatchError> {
        if self.deps.space.level() == Level::Plenty { Ok(()) } else { Err(DispatchError::DiskFull) }
    }

    /// Puts large payloads into the blob store and gives those that ride with the commit. What is left of a full disk is for
    /// ends, and not for what guests have written.
    async fn keep(&self, payloads: Vec<Payload>) -> Result<Vec<Payload>, BlobError> {
        let mut inline: Vec<Payload> = Vec::with_capacity(payloads.len());
        for payload in payloads {
            if payload.bytes().len() > MAX_INLINE_BYTES {
                // They go beside the log, whose bound says nothing of them.
                if self.deps.space.of_disk() == Level::Least {
                    let source = std::io::ErrorKind::StorageFull.into();
                    return Err(BlobError::Io { doing: "keeping what a guest has written", source });
                }
                self.deps.blobs.put(payload.bytes().clone()).await?;
            } else if inline.iter().all(|kept| kept.digest() != payload.digest()) {
                inline.push(payload);
            }
        }
        Ok(inline)
    }
}
