//! The executors: where guests run, and what keeps them contained.
//!
//! A guest is a core WebAssembly module that speaks WASI preview 1. Nothing of it is trusted. On its way it passes
//! - [`inspect`](Executors::inspect): format, our own limits, imports, validation; no compilation;
//! - [`prepare`](Executors::prepare): compilation in a child process with CPU, memory and time limits
//!   ([`compile`]), once for each digest; the result is authenticated before it is loaded;
//! - [`reserve_for`](Executors::reserve_for): a place among the guests of this node, from a bounded line of its tenant;
//! - [`run`](Executors::run): a fresh store from a pool, on one of the executor threads. What stops it there:
//!
//! | a guest that | meets |
//! |---|---|
//! | loops | the epoch: it yields every tick, and its future is dropped at the deadline; if it is metered, the end of its fuel |
//! | sleeps | the same deadline, a timer beside the guest; where nobody waits for its sleep it yields instead |
//! | grows memory or tables | its own limit; growth is refused, not the process |
//! | takes memory that others need | its tenant's share of the node's budget: it is run again with more reserved for it |
//! | recurses | the engine's stack limit |
//! | floods its output | a sink that keeps the first bytes, counted in the node's budget, and forgets the rest |
//! | keeps its thread busy | turns: the heavy guests of a thread share one permit |
//! | asks for files, environment or network | there are none |
//! | reads a clock | its own time, which moves by rule and not with the host's, unless its version says otherwise |
//!
//! One step cannot be interrupted: filling or copying all of its memory at once. The memory limit bounds it.
//!
//! A panic of the host in one guest's task loses that guest alone, which is reported as *failed*.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use wasmtime::Engine;
use wasmwiz_events::{
    execution::{Accepted, Limits, Outcome, Seed},
    id::{ExecutionId, ModuleName, TenantId},
    reproducibility::Reproducibility,
    settings::Sleep,
    time::{Millis, Timestamp},
};

mod allowance;
mod artefact;
pub(crate) mod budget;
mod bulk;
mod cache;
mod check;
mod clocks;
pub mod compile;
pub mod config;
mod engine;
mod inspect;
mod limits;
mod memory;
pub mod metrics;
pub(crate) mod places;
mod poll;
mod pool;
mod prepare;
mod profile;
mod random;
pub mod rejection;
mod run;
mod sink;
mod slots;
mod swap;
mod ticker;
mod time;
mod turns;
mod vectored;
mod wasi;

pub use self::{
    clocks::Clocks,
    config::{CompileConfig, ExecutorConfig, MemoryReset},
    inspect::Inspected,
    prepare::{Asker, PrepareError, Prepared},
    profile::{CodeId, Profile},
    rejection::Rejection,
    slots::{Busy, Slot},
};

/// When to try again while guests of a tenant wait for memory, in milliseconds: for one of them to end.
const MEMORY_RETRY_MS: u64 = 1_000;

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
    /// How many units of fuel it may use up, about one for each instruction, if it is metered. It has to be prepared so.
    pub fuel: Option<u64>,
    /// Where its random numbers come from.
    pub seed: Seed,
    /// Where its clocks start.
    pub start_time: Timestamp,
    /// Which clocks it reads.
    pub clocks: Clocks,
    /// Is it made to wait where it sleeps? Its own time moves all the same.
    pub sleep: Sleep,
    /// Cancelling it ends the guest.
    pub cancel: CancellationToken,
}

impl Job {
    /// The guest of an execution that was accepted.
    pub fn of(accepted: &Accepted, stdin: Bytes, cancel: CancellationToken) -> Self {
        Self {
            execution_id: accepted.execution_id,
            program: accepted.module.name.as_ref().map_or("module", ModuleName::as_str).to_owned(),
            args: accepted.args.clone(),
            stdin,
            limits: accepted.limits,
            fuel: accepted.fuel,
            seed: accepted.seed,
            start_time: accepted.start_time,
            clocks: accepted.clock.into(),
            sleep: accepted.sleep,
            cancel,
        }
    }
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
    /// How many units of fuel it used up, if it was metered.
    pub fuel: Option<u64>,
    /// CPU time, instantiation included.
    pub cpu: Millis,
    /// Time from start to end on the executor.
    pub wall: Millis,
    /// The most linear memory it held.
    pub peak_memory_bytes: u64,
    /// What its end depended on.
    pub reproducibility: Reproducibility,
    /// Was it told what its record has of the host's clocks, and did it ask for more, though the host had all for it that it may have? Then
    /// it is not the guest of that record, however it ended.
    pub asked_for_more: bool,
    /// What it was told by the host's clocks, now or when it was recorded. Counted in the node's memory budget, as outputs are.
    pub transcript: Bytes,
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
    fingerprints: profile::Each<String>,
    memory_reset: MemoryReset,
    /// How memory is reset: by a scan of the pages that were written?
    scans: bool,
    budget: Arc<budget::MemoryBudget>,
    /// What the guest of the health check takes, beside the others.
    probe: Arc<budget::MemoryBudget>,
    memory_wait: Duration,
}

impl Executors {
    /// The engine's settings, for a benchmark that runs the same engine without executors.
    pub fn engine_settings(config: &ExecutorConfig) -> wasmtime::Config {
        engine::pooled(Profile::Plain, config)
    }

    /// Starts the executor threads.
    ///
    /// # Errors
    /// [`StartError`] when the machine does not provide what the settings ask for.
    pub fn start(config: ExecutorConfig) -> Result<Self, StartError> {
        let refused = |error: wasmtime::Error| StartError::Engine(format!("{error:#}"));
        let io = |what: &'static str| move |source: std::io::Error| StartError::Io { what, source };
        let (memory_reset, scans) = (config.memory_reset, engine::scans(&config));
        let mut imports = engine::Imports::new();
        let engines = profile::Each::make(|profile| {
            let engine = Engine::new(&engine::pooled(profile, &config)).map_err(refused)?;
            let (linker, offered) = engine::linker(&engine).map_err(refused)?;
            // The same of both.
            imports = offered;
            Ok::<_, StartError>(prepare::Linked { engine, linker })
        })?;
        let engine_of = |profile| &engines.of(profile).engine;
        let fingerprints = profile::Each::make(|profile| Ok::<_, StartError>(engine::fingerprint(engine_of(profile))))?;
        let tick = Duration::from_millis(config.tick_ms.max(1));
        let ticking = Profile::ALL.map(|profile| engine_of(profile).clone());
        let ticker = ticker::Ticker::start(ticking, tick).map_err(io("the ticker thread cannot be started"))?;
        let artefacts = artefact::Artefacts::open(&config, fingerprints.clone())
            .map_err(io("the folder of compiled modules cannot be opened"))?;
        let prepare = prepare::Preparer::new(engines, imports.clone(), artefacts, &config);
        let budget = budget::MemoryBudget::new(config.memory_budget_bytes);
        let probe = budget::MemoryBudget::new(check::MEMORY_BYTES);
        let memory_wait = Duration::from_millis(config.memory_wait_ms);
        let node = run::Node { ticker, heavy_after: Duration::from_millis(config.heavy_after_ms) };
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
        let inner = Inner {
            pool,
            slots,
            prepare,
            imports,
            memory_max_bytes,
            fingerprints,
            memory_reset,
            scans,
            budget,
            probe,
            memory_wait,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// How the memory of guests is reset for the next ones, in words.
    pub fn memory_reset(&self) -> &'static str {
        if self.0.scans {
            "memory is reset by a scan of written pages"
        } else {
            "memory is reset by zeroing, because pages can be swapped out or the kernel cannot scan"
        }
    }

    /// A place to run one guest of the platform's own, at once or after waiting in a bounded line.
    ///
    /// # Errors
    /// [`Busy`] when too many wait already, or none became free in time.
    pub async fn reserve(&self) -> Result<Slot, Busy> {
        self.0.slots.reserve(None).await
    }

    /// The same for a tenant's guest, within what one tenant may have of the places and of the line.
    ///
    /// # Errors
    /// [`Busy`], also when the tenant has as many as it may, or guests of it wait for memory.
    pub async fn reserve_for(&self, tenant: &TenantId) -> Result<Slot, Busy> {
        let whose = Some(tenant.clone());
        if self.0.budget.is_waited_for(&whose) {
            return Err(Busy { retry_after_ms: MEMORY_RETRY_MS });
        }
        self.0.slots.reserve(whose).await
    }

    /// Reads an upload: is it a module that can run here? Costs one pass over its bytes, no compilation.
    ///
    /// # Errors
    /// [`Rejection`] says why it cannot.
    pub fn inspect(&self, wasm: &[u8]) -> Result<Inspected, Rejection> {
        inspect::inspect(wasm, Some(&self.0.imports), self.0.memory_max_bytes)
    }

    /// The module ready to run: from memory, from an artefact on disk, or compiled. Concurrent calls for the same code by one
    /// asker compile once, and the compilation goes on when a caller goes away. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`PrepareError`]: the module is refused, too many compilations wait, of the node or of the tenant, or the host failed.
    pub async fn prepare(&self, asker: Asker, code: impl Into<CodeId>, wasm: Bytes) -> Result<Prepared, PrepareError> {
        self.0.prepare.prepare(asker, code.into(), wasm).await
    }

    /// The module ready to run if this node has compiled it before; never compiles.
    pub async fn prepared(&self, code: impl Into<CodeId>) -> Option<Prepared> {
        self.0.prepare.prepared(code.into()).await
    }

    /// Runs one guest to its end. Never fails: what the host cannot do is [`Outcome::Failed`]. Dropping the future ends the
    /// guest.
    pub async fn run(&self, slot: Slot, prepared: &Prepared, job: Job) -> Ran {
        let ran = self.run_again(slot, prepared, job).await;
        ::metrics::counter!(metrics::EXECUTIONS_TOTAL, "outcome" => ran.outcome.as_str()).increment(1);
        ::metrics::histogram!(metrics::EXECUTION_SECONDS).record(ran.wall.as_ms() / 1_000.0);
        ::metrics::histogram!(metrics::GUEST_CPU_SECONDS).record(ran.cpu.as_ms() / 1_000.0);
        ran
    }

    /// The same of an execution that ran before, only to be compared: it counts in no figure of executions.
    #[tracing::instrument(name = "guest.run", level = "debug", skip_all, fields(execution.id = %job.execution_id))]
    pub async fn run_again(&self, slot: Slot, prepared: &Prepared, job: Job) -> Ran {
        let (budget, whose) = match slot.whose() {
            Some(whose) => (&self.0.budget, whose.clone()),
            None => (&self.0.probe, None),
        };
        let most = [job.limits.memory_bytes, job.limits.stdout_bytes, job.limits.stderr_bytes];
        let most_bytes = most.into_iter().fold(0, u64::saturating_add);
        // Later it is not run again any more: its entity would not wait for the end of that.
        let mut until = Instant::now() + self.0.memory_wait;
        let (mut slot, mut job, mut account) = (slot, job, budget.account(whose.clone()));
        let mut reserved_bytes = 0;
        // Ends with `until`, and before that with all that it may have, as each reservation is twice the last one.
        loop {
            let lack = match self.launch(slot, prepared, job, account, until).await {
                pool::Ended::Ran(ran) => return *ran,
                pool::Ended::SetBack(kept, again, lack) => {
                    (slot, job) = (kept, *again);
                    lack
                }
            };
            reserved_bytes = budget::reservation(lack.bytes, reserved_bytes).min(most_bytes);
            let left = until.saturating_duration_since(Instant::now());
            let reserved = budget.reserve(whose.clone(), reserved_bytes, left);
            account = match job.cancel.run_until_cancelled(reserved).await {
                Some(Ok(account)) => account,
                Some(Err(_)) if lack.is_output => {
                    // It has come to its end, and does so again, with as much of its output as there is room for.
                    until = Instant::now();
                    budget.account(whose.clone())
                }
                Some(Err(full)) => {
                    set_back("failed");
                    return run::failed(&full.to_string());
                }
                None => return Ran { outcome: Outcome::Cancelled, ..run::failed("the execution was cancelled") },
            };
            set_back("again");
        }
    }

    async fn launch(
        &self,
        slot: Slot,
        prepared: &Prepared,
        job: Job,
        account: Arc<budget::Account>,
        until: Instant,
    ) -> pool::Ended {
        let (reply, ended) = oneshot::channel();
        let launch = pool::Launch { prepared: prepared.clone(), job, slot, account, until, reply };
        let failed = |message| pool::Ended::Ran(Box::new(run::failed(message)));
        match self.0.pool.launch(launch) {
            Ok(()) => ended.await.unwrap_or_else(|_| failed("the executor was lost while the guest ran")),
            Err(_) => failed("no executor could take the guest"),
        }
    }

    /// Sets the gauges of what is held now, when metrics are read.
    pub fn observe(&self) {
        let (used, max) = self.0.budget.state();
        ::metrics::gauge!(metrics::GUEST_MEMORY_BYTES).set(used as f64);
        ::metrics::gauge!(metrics::GUEST_MEMORY_MAX_BYTES).set(max as f64);
    }

    /// Version and settings of the engine of a profile, as short hexadecimal text. Recorded with every execution.
    pub fn fingerprint(&self, profile: Profile) -> &str {
        self.0.fingerprints.of(profile)
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

fn set_back(result: &'static str) {
    ::metrics::counter!(metrics::GUESTS_SET_BACK_TOTAL, "result" => result).increment(1);
}
