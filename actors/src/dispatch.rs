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
//! If the process dies between any two of these, the log says which: nothing recorded, then nothing ran for anybody;
//! accepted and no more, then the tenant's entity declares it lost when it is next read back.
//!
//! The whole way runs in a task of its own: a caller that hangs up does not leave an execution without its end.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use wasmwiz_events::{
    blobs::{BlobError, Blobs},
    execution::{Accepted, Finished, Lost},
    id::{BootId, KeyId, ModuleName, NodeId, TenantId},
    log::EventLog,
    payload::{MAX_INLINE_BYTES, Payload},
    revision::Position,
    time::Timestamp,
};

use crate::{
    aggregate::Authority,
    executor::{Executors, Rejection},
    handle::{AskError, Decided, Origin},
    ids::Ids,
    region::Region,
};

mod finish;
mod publish;
mod run;

/// Modules that are being taken in at the same time: each is in memory as a whole.
const UPLOADS_AT_ONCE: usize = 16;

/// What is to last as long as the bytes of a request are in memory, such as what counts them. It is dropped when the
/// request has been dealt with: a caller that hangs up before does not take it along.
#[derive(Default)]
pub struct Hold {
    _guard: Option<Box<dyn Send + Sync>>,
}

impl Hold {
    /// Holds `guard`.
    pub fn of(guard: impl Send + Sync + 'static) -> Self {
        Self { _guard: Some(Box::new(guard)) }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold(…)")
    }
}

/// A request to run something once.
#[derive(Debug)]
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
    /// Kept until its end is recorded.
    pub hold: Hold,
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
