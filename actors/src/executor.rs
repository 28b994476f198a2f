//! The executors: where guests run, and what keeps them contained.
//!
//! A guest is a core WebAssembly module that speaks WASI preview 1. Nothing of it is trusted. On its way it passes
//! - [`inspect`](Executors::inspect): format, our own limits, imports, validation; no compilation;
//! - [`prepare`](Executors::prepare): compilation in a child process with CPU, memory and time limits
//!   ([`compile`]), once for each digest; the result is authenticated before it is loaded;
//! - [`reserve`](Executors::reserve): a place among the guests of this node, from a bounded line;
//! - [`run`](Executors::run): a fresh store from a pool, on one of the executor threads. What stops it there:
//!
//! | a guest that | meets |
//! |---|---|
//! | loops | the epoch: it yields every tick, and its future is dropped at the deadline |
//! | sleeps | the same deadline, a timer beside the guest |
//! | grows memory or tables | its own limit and the node's budget; growth is refused, not the process |
//! | recurses | the engine's stack limit |
//! | floods its output | a sink that keeps the first bytes, counted in the node's budget, and forgets the rest |
//! | keeps its thread busy | turns: the heavy guests of a thread share one permit |
//! | asks for files, environment or network | there are none |
//!
//! One step cannot be interrupted: filling or copying all of its memory at once. The memory limit bounds it.
//!
//! A panic of the host in one guest's task loses that guest alone, which is reported as *failed*.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wasmtime::Engine;
use wasmwiz_events::{
    digest::Digest,
    execution::{Limits, Outcome, Seed},
    id::ExecutionId,
    time::Millis,
};

mod artefact;
mod cache;
mod check;
pub mod compile;
pub mod config;
mod engine;
mod inspect;
mod limits;
pub mod metrics;
mod pool;
mod prepare;
mod random;
pub mod rejection;
mod run;
mod shares;
mod sink;
mod slots;
mod swap;
mod ticker;
mod turns;
mod wasi;

pub use self::{
    config::{CompileConfig, ExecutorConfig, MemoryReset},
    inspect::Inspected,
    prepare::{Asker, PrepareError, Prepared},
    rejection::Rejection,
    slots::{Busy, Slot},
};

/// The executors could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine refused its settings, or could not reserve the address space of its pool.
    #[error("the engine cannot be set up: {0}")]
    Engine(String),
    /// The operating system refused a thread, or the folder of compiled modules.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// One guest to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its execution, for traces.
    pub execution_id: ExecutionId,
    /// The program's name as it sees it: the first argument.
    pub program: String,
    /// Its other arguments.
    pub args: Vec<String>,
    /// Its standard input.
    pub stdin: Bytes,
    /// What it may use.
    pub limits: Limits,
    /// Where its random numbers come from.
    pub seed: Seed,
    /// Cancelling it ends the guest.
    pub cancel: CancellationToken,
}

/// What a guest wrote to one of its outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// The first bytes, up to the limit. Counted in the node's memory budget until the last clone is dropped.
    pub bytes: Bytes,
    /// Did it write more?
    pub truncated: bool,
}

/// How a guest ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// In one word.
    pub outcome: Outcome,
    /// Its exit code, when it ended by itself.
    pub exit_code: Option<i32>,
    /// What it wrote to standard output, whatever the outcome.
    pub stdout: Stream,
    /// What it wrote to standard error, whatever the outcome.
    pub stderr: Stream,
    /// Instructions. Executions are not metered, so there is none.
    pub fuel: Option<u64>,
    /// CPU time, instantiation included.
    pub cpu: Millis,
    /// Time from start to end on the executor.
    pub wall: Millis,
    /// The most linear memory it held.
    pub peak_memory_bytes: u64,
    /// Why it ended as it did. At most 1 KiB, and nothing about the host.
    pub message: Option<String>,
}

/// The executors of one node. Cheap to clone; when the last clone is gone, so are the threads.
#[derive(Clone)]
pub struct Executors(Arc<Inner>);

struct Inner {
    // Before the rest: its threads end first.
    pool: pool::Pool,
    slots: slots::Slots,
    prepare: Arc<prepare::Preparer>,
    imports: engine::Imports,
    memory_max_bytes: u64,
    fingerprint: String,
    memory_reset: MemoryReset,
    /// How memory is reset: by a scan of the pages that were written?
    scans: bool,
}

impl Executors {
    /// The engine's settings, for a benchmark that runs the same engine without executors.
    pub fn engine_settings(config: &ExecutorConfig) -> wasmtime::Config {
        engine::pooled(config)
    }

    /// Starts the executor threads.
    ///
    /// # Errors
    /// [`StartError`] when the machine does not provide what the settings ask for.
    pub fn start(config: ExecutorConfig) -> Result<Self, StartError> {
        let refused = |error: wasmtime::Error| StartError::Engine(format!("{error:#}"));
        let io = |what: &'static str| move |source: std::io::Error| StartError::Io { what, source };
        let (memory_reset, scans) = (config.memory_reset, engine::scans(&config));
        let engine = Engine::new(&engine::pooled(&config)).map_err(refused)?;
        let (linker, imports) = engine::linker(&engine).map_err(refused)?;
        let fingerprint = engine::fingerprint(&engine);
        let tick = Duration::from_millis(config.tick_ms.max(1));
        let ticker = ticker::Ticker::start(&engine, tick).map_err(io("the ticker thread cannot be started"))?;
        let artefacts = artefact::Artefacts::open(&config, &fingerprint)
            .map_err(io("the folder of compiled modules cannot be opened"))?;
        let prepare = prepare::Preparer::new(engine.clone(), linker, imports.clone(), artefacts, &config);
        let node = run::Node {
            engine,
            ticker,
            budget: limits::MemoryBudget::new(config.memory_budget_bytes),
            heavy_after: Duration::from_millis(config.heavy_after_ms),
        };
        let pool = pool::Pool::start(pool::Plan {
            node: Arc::new(node),
            threads: config.threads,
            // The health check and the watchdog send messages, too.
            mailbox: config.guests_max as usize + 4,
            watch: Duration::from_millis(config.watch_ms.max(1)),
        })
        .map_err(io("the executor threads cannot be started"))?;
        let wait = Duration::from_millis(config.wait_ms);
        let slots = slots::Slots::new(config.guests_max, config.waiting_max, wait);
        let memory_max_bytes = config.memory_max_bytes;
        Ok(Self(Arc::new(Inner { pool, slots, prepare, imports, memory_max_bytes, fingerprint, memory_reset, scans })))
    }

    /// How the memory of guests is reset for the next ones, in words.
    pub fn memory_reset(&self) -> &'static str {
        if self.0.scans {
            "memory is reset by a scan of written pages"
        } else {
            "memory is reset by zeroing, because pages can be swapped out or the kernel cannot scan"
        }
    }

    /// A place to run one guest, at once or after waiting in a bounded line.
    ///
    /// # Errors
    /// [`Busy`] when too many wait already, or none became free in time.
    pub async fn reserve(&self) -> Result<Slot, Busy> {
        self.0.slots.reserve().await
    }

    /// Reads an upload: is it a module that can run here? Costs one pass over its bytes, no compilation.
    ///
    /// # Errors
    /// [`Rejection`] says why it cannot.
    pub fn inspect(&self, wasm: &[u8]) -> Result<Inspected, Rejection> {
        inspect::inspect(wasm, Some(&self.0.imports), self.0.memory_max_bytes)
    }

    /// The module ready to run: from memory, from an artefact on disk, or compiled. Concurrent calls for one digest by one
    /// asker compile once, and the compilation goes on when a caller goes away. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`PrepareError`]: the module is refused, too many compilations wait, of the node or of the tenant, or the host failed.
    pub async fn prepare(&self, asker: Asker, digest: Digest, wasm: Bytes) -> Result<Prepared, PrepareError> {
        self.0.prepare.prepare(asker, digest, wasm).await
    }

    /// The module ready to run if this node has compiled it before; never compiles.
    pub async fn prepared(&self, digest: Digest) -> Option<Prepared> {
        self.0.prepare.prepared(digest).await
    }

    /// Runs one guest to its end. Never fails: what the host cannot do is [`Outcome::Failed`]. Dropping the future ends the
    /// guest.
    #[tracing::instrument(name = "guest.run", level = "debug", skip_all, fields(execution.id = %job.execution_id))]
    pub async fn run(&self, slot: Slot, prepared: &Prepared, job: Job) -> Ran {
        let (reply, ran) = oneshot::channel();
        let launch = pool::Launch { prepared: prepared.clone(), job, slot, reply };
        let ran = match self.0.pool.launch(launch) {
            Ok(()) => ran.await.unwrap_or_else(|_| run::failed("the executor was lost while the guest ran")),
            Err(_) => run::failed("no executor could take the guest"),
        };
        ::metrics::counter!(metrics::EXECUTIONS_TOTAL, "outcome" => ran.outcome.as_str()).increment(1);
        ::metrics::histogram!(metrics::EXECUTION_SECONDS).record(ran.wall.as_ms() / 1_000.0);
        ran
    }

    /// Version and settings of the engine, as short hexadecimal text. Recorded with every execution.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// Do the executors work? Compiles (the first time) and runs a small module that copies its input to its output.
    ///
    /// # Errors
    /// Says what does not work.
    pub async fn check(&self) -> Result<(), String> {
        if self.0.scans && self.0.memory_reset == MemoryReset::Auto && !swap::is_impossible() {
            return Err(
                "swap was switched on while memory is reset by a scan that does not see swapped pages; start the \
                        node again, or switch swap off"
                    .to_owned(),
            );
        }
        check::check(self).await
    }

    /// Lets running guests end for at most `deadline`, then ends the rest. New guests find no place.
    pub async fn shutdown(&self, deadline: Duration) {
        if !self.0.slots.drain(deadline).await {
            tracing::warn!("guests still ran at the end of the shutdown deadline and were ended");
        }
        self.0.pool.stop();
    }
}
