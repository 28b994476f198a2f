//! One execution from its request to its recorded end, and one module from its bytes to its published version.
//!
//! ```text
//! slot on this node ─► admission by the owner ─► guest runs ─► end recorded ─► answer
//!      503 if none       ExecutionAccepted         here         ExecutionFinished
//! ```
//! If the process dies between any two of these, the log says which: nothing recorded, then nothing ran for anybody;
//! accepted and no more, then the tenant's entity declares it lost when it is next read back.
//!
//! The whole way runs in a task of its own: a caller that hangs up does not leave an execution without its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wasmwiz_events::{
    blobs::{BlobError, Blobs},
    digest::Digest,
    envelope::Envelope,
    event::Event,
    execution::{Accepted, Content, Finished, Lost, Outcome, Output},
    id::{BootId, ExecutionId, KeyId, ModuleName, NodeId, TenantId},
    log::{EventLog, ReadLimit},
    payload::{MAX_INLINE_BYTES, Payload},
    revision::{Position, Revision},
    time::{Millis, Timestamp},
};

use crate::{
    aggregate::Authority,
    executor::{Executors, Inspected, Job, PrepareError, Prepared, Ran, Rejection, Slot, Stream},
    handle::{Ask, AskError, Decided, Origin},
    ids::Ids,
    region::Region,
    tenant::{Command, Execute, ModuleChoice, Refusal},
};

/// How often the end of an execution is offered to its entity before it is left to be declared lost. The pauses below
/// add up to about eight seconds: longer than an entity takes to be read back, shorter than the grace of a loss.
const FINISH_ATTEMPTS: u32 = 8;

/// The first pause between those; each further one is twice as long.
const FINISH_PAUSE_MS: u64 = 60;

/// Modules that are being taken in at the same time: each is in memory as a whole.
const UPLOADS_AT_ONCE: usize = 16;

/// Modules up to this size, in bytes, are validated where they are: it takes less than a millisecond.
const INSPECT_HERE_BYTES: usize = 64 * 1_024;

/// A request to run something once.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose.
    pub tenant: TenantId,
    /// The key that asks.
    pub key: KeyId,
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
}

/// A module to be published.
#[derive(Debug, Clone)]
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
    /// The node has as much to do as it takes.
    #[error("this node has as much to do as it takes; try again in {retry_after_ms} ms")]
    Busy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The bytes could not be kept.
    #[error("the bytes could not be kept")]
    Blobs(#[from] BlobError),
    /// The host failed.
    #[error("the host failed: {0}")]
    Host(String),
}

/// What a dispatch needs from its node.
pub struct DispatchDeps {
    /// The tenants.
    pub region: Region,
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
}

/// A clonable way to run and to publish.
#[derive(Clone)]
pub struct Dispatch {
    shared: Arc<Shared>,
}

struct Shared {
    deps: DispatchDeps,
    ids: Ids,
    uploads: Semaphore,
    /// Executions on their way: a node that stops waits for them.
    under_way: TaskTracker,
}

impl Dispatch {
    /// A dispatch on this node.
    pub fn new(deps: DispatchDeps) -> Self {
        let (uploads, under_way) = (Semaphore::new(UPLOADS_AT_ONCE), TaskTracker::new());
        Self { shared: Arc::new(Shared { deps, ids: Ids, uploads, under_way }) }
    }

    /// Runs a module once and waits until its end is durable.
    ///
    /// # Errors
    /// [`DispatchError`] when nothing ran, or when it ran and its end could not be recorded; then it will be declared
    /// lost. A guest that fails is no error: see its outcome.
    pub async fn execute(&self, request: Request) -> Result<Done, DispatchError> {
        let shared = Arc::clone(&self.shared);
        let task = self.shared.under_way.spawn(async move { shared.execute(request).await });
        task.await.unwrap_or_else(|error| Err(DispatchError::Host(error.to_string())))
    }

    /// Takes in a module and publishes it as the next version of its name. Bytes that are no module which this platform
    /// runs are recorded as rejected.
    ///
    /// # Errors
    /// [`DispatchError`] when nothing was published.
    pub async fn publish(&self, upload: Upload) -> Result<Decided, DispatchError> {
        let shared = Arc::clone(&self.shared);
        let task = self.shared.under_way.spawn(async move { shared.publish(upload).await });
        task.await.unwrap_or_else(|error| Err(DispatchError::Host(error.to_string())))
    }

    /// Runs a small module, to see that modules run.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub async fn check(&self) -> Result<(), String> {
        self.shared.deps.executors.check().await
    }

    /// Waits until everything under way has its end, at most `deadline`. Call it once no more requests come.
    pub async fn drain(&self, deadline: Duration) {
        self.shared.under_way.close();
        if tokio::time::timeout(deadline, self.shared.under_way.wait()).await.is_err() {
            tracing::warn!(under_way = self.shared.under_way.len(), "executions did not end in time");
        }
    }
}

impl Shared {
    async fn execute(&self, request: Request) -> Result<Done, DispatchError> {
        let slot = self.deps.executors.reserve().await;
        let slot = slot.map_err(|busy| DispatchError::Busy { retry_after_ms: busy.retry_after_ms })?;
        let Request { tenant, key, origin, code, stdin, args, timeout_ms } = request;
        let (module, inline) = match code {
            Code::Named { name, version } => (ModuleChoice::Named { name, version }, None),
            Code::Inline(wasm) => {
                self.inspect(&wasm).await?;
                let digest = self.take_in(&wasm).await?;
                (ModuleChoice::Inline { digest, size_bytes: wasm.len() as u64 }, Some(wasm))
            }
        };
        let input = Payload::new(stdin.clone());
        let payloads = self.keep([input.clone()]).await?;
        let execute = Execute {
            execution_id: self.ids.execution(),
            module,
            stdin: Content { digest: input.digest(), size_bytes: stdin.len() as u64 },
            args,
            timeout_ms,
            seed: self.ids.seed(),
            engine: self.deps.executors.fingerprint().to_owned(),
            node: self.deps.node.clone(),
            boot: self.deps.boot,
        };
        let command = Command::Execute(Box::new(execute));
        let ask = Ask { command, by: Authority::Key(key), origin: origin.clone(), payloads };
        let decided = self.deps.region.ask(&tenant, ask).await?;
        let accepted_at = decided.time;
        let Some(Event::ExecutionAccepted(accepted)) = decided.events.into_iter().next() else {
            return Err(DispatchError::Host("an admission gave no execution".into()));
        };
        let ran = self.run(slot, &accepted, stdin, inline).await;
        let began = Began { tenant, origin, accepted, at: accepted_at, revision: decided.revision };
        self.finish(began, ran).await
    }

    async fn run(&self, slot: Slot, accepted: &Accepted, stdin: Bytes, inline: Option<Bytes>) -> Ran {
        let prepared = match self.prepare(accepted.module.digest, inline).await {
            Ok(prepared) => prepared,
            Err(message) => return Ran::failed(message),
        };
        let job = Job {
            execution_id: accepted.execution_id,
            program: accepted.module.name.as_ref().map_or("module", ModuleName::as_str).to_owned(),
            args: accepted.args.clone(),
            stdin,
            limits: accepted.limits,
            seed: accepted.seed,
            cancel: CancellationToken::new(),
        };
        self.deps.executors.run(slot, &prepared, job).await
    }

    /// The compiled module: from memory, from its artefact, or compiled again from its bytes.
    async fn prepare(&self, digest: Digest, inline: Option<Bytes>) -> Result<Prepared, String> {
        if let Some(prepared) = self.deps.executors.prepared(digest).await {
            return Ok(prepared);
        }
        let wasm = match inline {
            Some(wasm) => wasm,
            None => match self.deps.blobs.get(digest).await {
                Ok(Some(wasm)) => wasm,
                Ok(None) => return Err("the bytes of the module are not kept any more".into()),
                Err(error) => {
                    tracing::error!(%digest, %error, "a module cannot be read");
                    return Err("the bytes of the module cannot be read".into());
                }
            },
        };
        match self.deps.executors.prepare(digest, wasm).await {
            Ok(prepared) => Ok(prepared),
            Err(PrepareError::Rejected(rejection)) => Err(rejection.to_string()),
            Err(PrepareError::Busy) => Err("too many modules were waiting to be compiled".into()),
            Err(PrepareError::Failed(error)) => {
                tracing::error!(%digest, %error, "a module cannot be compiled");
                Err("the host could not compile the module".into())
            }
        }
    }

    async fn finish(&self, began: Began, mut ran: Ran) -> Result<Done, DispatchError> {
        let mut outputs = ran.outputs();
        let payloads = match self.keep(outputs.clone()).await {
            Ok(payloads) => payloads,
            Err(error) => {
                tracing::error!(execution.id = %began.accepted.execution_id, %error, "an output cannot be kept");
                ran = Ran::failed("the host could not keep the output".into());
                outputs = ran.outputs();
                self.keep(outputs.clone()).await?
            }
        };
        let finished = finished(&began.accepted, &ran, &outputs);
        match self.record_end(&began, &finished, payloads).await {
            Ok(decided) => {
                let [stdout, stderr] = outputs.map(|output| output.bytes().clone());
                let (end, finished_at) = (End::Finished(Box::new(finished)), decided.time);
                let (accepted, accepted_at, position) = (began.accepted, began.at, decided.position);
                Ok(Done { accepted, accepted_at, end, finished_at, stdout, stderr, position })
            }
            Err(AskError::Refused(Refusal::ExecutionNotOpen)) => self.ended_already(began, outputs).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn record_end(
        &self,
        began: &Began,
        finished: &Finished,
        payloads: Vec<Payload>,
    ) -> Result<Decided, AskError> {
        let mut pause_ms = FINISH_PAUSE_MS;
        for attempt in 1.. {
            let command = Command::Finish(Box::new(finished.clone()));
            let origin = Origin { command: self.ids.command(), ..began.origin.clone() };
            let ask = Ask { command, by: Authority::System, origin, payloads: payloads.clone() };
            match self.deps.region.ask(&began.tenant, ask).await {
                Err(AskError::Busy { .. } | AskError::Unavailable { .. }) if attempt < FINISH_ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms *= 2;
                }
                answered => return answered,
            }
        }
        Err(AskError::Busy { retry_after_ms: pause_ms })
    }

    /// The execution has its end in the log: it was declared lost, or an earlier report of ours was recorded and only
    /// its answer got lost. Whoever asks is told what the log says, and nothing else.
    async fn ended_already(&self, began: Began, outputs: [Payload; 2]) -> Result<Done, DispatchError> {
        let unreadable =
            |error: &dyn std::fmt::Display| DispatchError::Host(format!("its end cannot be read: {error}"));
        let mut from = began.revision.next();
        loop {
            let read = self.deps.log.read_stream(&began.tenant, from, ReadLimit::default()).await;
            let commits = read.map_err(|error| unreadable(&error))?;
            let Some(last) = commits.last() else { return Err(unreadable(&"the stream ends before it")) };
            from = last.commit.last_revision().next();
            for recorded in &commits {
                let events = recorded.commit.events().map_err(|error| unreadable(&error))?;
                let id = began.accepted.execution_id;
                let Some((end, finished_at)) = events.iter().find_map(|envelope| end_of(id, envelope)) else {
                    continue;
                };
                let kept = matches!(end, End::Finished(_));
                let [stdout, stderr] = outputs.map(|output| if kept { output.bytes().clone() } else { Bytes::new() });
                let (accepted, accepted_at, position) = (began.accepted, began.at, recorded.position);
                return Ok(Done { accepted, accepted_at, end, finished_at, stdout, stderr, position });
            }
        }
    }

    async fn publish(&self, upload: Upload) -> Result<Decided, DispatchError> {
        let Upload { tenant, by, origin, name, wasm } = upload;
        let size_bytes = wasm.len() as u64;
        let inspected = match self.inspect(&wasm).await {
            Ok(inspected) => self.compile(&wasm).await.map(|()| inspected),
            Err(error) => Err(error),
        };
        let rejection = match inspected {
            Ok(Inspected { kind, imports, exports }) => {
                let digest = self.take_in(&wasm).await?;
                let command = Command::PublishModule { name, digest, size_bytes, kind, imports, exports };
                let ask = Ask { command, by, origin, payloads: vec![] };
                return Ok(self.deps.region.ask(&tenant, ask).await?);
            }
            Err(DispatchError::Rejected(rejection)) => rejection,
            Err(error) => return Err(error),
        };
        let (digest, reason) = (Digest::of(&wasm), rejection.to_string());
        let command = Command::RejectModule { name, digest, size_bytes, reason };
        self.deps.region.ask(&tenant, Ask { command, by, origin, payloads: vec![] }).await?;
        Err(rejection.into())
    }

    async fn compile(&self, wasm: &Bytes) -> Result<(), DispatchError> {
        match self.deps.executors.prepare(Digest::of(wasm), wasm.clone()).await {
            Ok(_) => Ok(()),
            Err(PrepareError::Rejected(rejection)) => Err(rejection.into()),
            Err(PrepareError::Busy) => Err(DispatchError::Busy { retry_after_ms: 1_000 }),
            Err(PrepareError::Failed(error)) => Err(DispatchError::Host(error)),
        }
    }

    /// Keeps the bytes of a module, durably.
    async fn take_in(&self, wasm: &Bytes) -> Result<Digest, DispatchError> {
        let Ok(_permit) = self.uploads.try_acquire() else {
            return Err(DispatchError::Busy { retry_after_ms: 1_000 });
        };
        Ok(self.deps.blobs.put(wasm.clone()).await?)
    }

    /// Validates a module, on a thread that may be busy when it is large.
    async fn inspect(&self, wasm: &Bytes) -> Result<Inspected, DispatchError> {
        if wasm.len() <= INSPECT_HERE_BYTES {
            return Ok(self.deps.executors.inspect(wasm)?);
        }
        let (executors, wasm) = (self.deps.executors.clone(), wasm.clone());
        let inspected = tokio::task::spawn_blocking(move || executors.inspect(&wasm)).await;
        Ok(inspected.map_err(|error| DispatchError::Host(error.to_string()))??)
    }

    /// Puts large payloads into the blob store and gives those that ride with the commit.
    async fn keep<const N: usize>(&self, payloads: [Payload; N]) -> Result<Vec<Payload>, BlobError> {
        let mut inline: Vec<Payload> = Vec::with_capacity(N);
        for payload in payloads {
            if payload.bytes().len() > MAX_INLINE_BYTES {
                self.deps.blobs.put(payload.bytes().clone()).await?;
            } else if inline.iter().all(|kept| kept.digest() != payload.digest()) {
                inline.push(payload);
            }
        }
        Ok(inline)
    }
}

/// What is known of an execution once it is admitted.
struct Began {
    tenant: TenantId,
    origin: Origin,
    accepted: Box<Accepted>,
    at: Timestamp,
    /// The stream's revision when the admission was durable: its end comes after it.
    revision: Revision,
}

fn end_of(id: ExecutionId, envelope: &Envelope) -> Option<(End, Timestamp)> {
    match &envelope.event {
        Event::ExecutionFinished(finished) if finished.execution_id == id => {
            Some((End::Finished(finished.clone()), envelope.time))
        }
        Event::ExecutionLost(lost) if lost.execution_id == id => Some((End::Lost(lost.clone()), envelope.time)),
        _ => None,
    }
}

fn finished(accepted: &Accepted, ran: &Ran, [stdout, stderr]: &[Payload; 2]) -> Finished {
    let output = |payload: &Payload, truncated| Output {
        digest: payload.digest(),
        size_bytes: payload.bytes().len() as u64,
        truncated,
    };
    Finished {
        execution_id: accepted.execution_id,
        attempt: accepted.attempt,
        outcome: ran.outcome,
        exit_code: ran.exit_code,
        stdout: output(stdout, ran.stdout.truncated),
        stderr: output(stderr, ran.stderr.truncated),
        fuel: ran.fuel,
        cpu_ms: ran.cpu,
        wall_ms: ran.wall,
        peak_memory_bytes: ran.peak_memory_bytes,
        trace_digest: None,
        deterministic: false,
        message: ran.message.clone(),
    }
}

impl Ran {
    /// The host could not run it: never the guest's fault.
    fn failed(message: String) -> Self {
        let nothing = || Stream { bytes: Bytes::new(), truncated: false };
        Self {
            outcome: Outcome::Failed,
            exit_code: None,
            stdout: nothing(),
            stderr: nothing(),
            fuel: None,
            cpu: Millis::default(),
            wall: Millis::default(),
            peak_memory_bytes: 0,
            message: Some(message),
        }
    }

    fn outputs(&self) -> [Payload; 2] {
        [&self.stdout, &self.stderr].map(|stream| Payload::new(stream.bytes.clone()))
    }
}
