//! From bytes to a module that is ready to run: memory, then disk, then the compiler; once for each module and profile.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use lru::LruCache;
use tokio::time::Instant;
use wasmtime::{Engine, InstancePre, Linker};
use wasmwiz_events::{digest::Digest, id::TenantId};

use super::{
    CodeId, ExecutorConfig, Rejection,
    allowance::{Allowance, Empty},
    artefact::{Artefacts, Code},
    cache::Cache,
    compile::{Compiled, Compiler, Lane},
    engine::Imports,
    inspect, metrics,
    profile::Each,
    rejection::CompileResource,
    run::Guest,
};
use crate::shares::{Full, Shares};

/// A module that is compiled, loaded and linked. Cheap to clone.
#[derive(Clone)]
pub struct Prepared(Arc<Ready>);

struct Ready {
    id: CodeId,
    size_bytes: u64,
    instance: InstancePre<Guest>,
}

impl Prepared {
    /// Which module it is, in which profile.
    pub fn id(&self) -> CodeId {
        self.0.id
    }

    /// Size of its machine code, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    pub(crate) fn instance(&self) -> &InstancePre<Guest> {
        &self.0.instance
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Prepared").field(&self.0.id).finish()
    }
}

/// A module is not ready to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// It never will be.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many compilations wait already. Try again.
    #[error("this node compiles as many modules as it may; try again later")]
    Busy,
    /// Too many compilations of this tenant wait already.
    #[error("the tenant has as many modules to be compiled as the {limit} that it may; wait for one of them")]
    OverShare {
        /// The most that wait or are being compiled.
        limit: usize,
    },
    /// The modules of this tenant have taken the processor time that compiling them may take.
    #[error(
        "compiling the modules of this tenant has taken more than the {ms_per_minute} ms of processor time a minute \
         that it may; try again in {retry_after_ms} ms"
    )]
    OverAllowance {
        /// What comes back in a minute, in milliseconds of processor time.
        ms_per_minute: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The host had too little for it: that says nothing about the module. Try again.
    #[error("this node had too little {which} to compile the module; try again later")]
    HostShort {
        /// What there was too little of.
        which: CompileResource,
    },
    /// The host could not compile or load it.
    #[error("the module could not be prepared: {0}")]
    Failed(String),
}

impl From<Empty> for PrepareError {
    fn from(Empty { ms_per_minute, retry_after_ms }: Empty) -> Self {
        Self::OverAllowance { ms_per_minute, retry_after_ms }
    }
}

impl From<Full> for PrepareError {
    fn from(full: Full) -> Self {
        Self::OverShare { limit: full.limit }
    }
}

/// For whom a module is compiled: it says which bounds hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Asker {
    /// The platform itself.
    Platform,
    /// A tenant, within its share of the compiler.
    Tenant(TenantId),
    /// An execution of a tenant that is admitted already. It takes its turn among the tenant's others, but is not turned
    /// away for their number: the admission has bounded it.
    Admitted(TenantId),
}

/// How long a module that was too expensive to compile is refused without trying again. That other bytes may be as
/// expensive is what the allowance of a tenant is for.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How many of those are remembered.
const REFUSED_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1_023);

type Flight = Shared<BoxFuture<'static, Result<Option<Prepared>, PrepareError>>>;

/// What is made, and for whom it may be compiled, if at all: nobody gets an error that is another's.
type FlightKey = (CodeId, Option<Asker>);

/// An engine, and what it links modules with.
pub(crate) struct Linked {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
}

pub(crate) struct Preparer {
    engines: Each<Linked>,
    imports: Imports,
    artefacts: Artefacts,
    compiler: Compiler,
    shares: Arc<Shares>,
    allowance: Allowance,
    memory_max_bytes: u64,
    cache: Mutex<Cache>,
    refused: Mutex<LruCache<CodeId, (Instant, Rejection)>>,
    flights: Mutex<HashMap<FlightKey, Flight>>,
}

impl Preparer {
    pub(crate) fn new(
        engines: Each<Linked>,
        imports: Imports,
        artefacts: Artefacts,
        config: &ExecutorConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            compiler: Compiler::new(config.compile.clone()),
            shares: Shares::new(config.compile.permits_per_tenant, config.compile.waiting_per_tenant_max),
            allowance: Allowance::new(
                config.compile.cpu_ms_per_minute_per_tenant,
                config.compile.cpu_ms_burst_per_tenant,
            ),
            engines,
            imports,
            artefacts,
            memory_max_bytes: config.memory_max_bytes,
            cache: Mutex::new(Cache::new(config.cached_modules_max, config.cached_bytes_max)),
            refused: Mutex::new(LruCache::new(REFUSED_MAX)),
            flights: Mutex::default(),
        })
    }

    pub(crate) async fn prepare(
        self: &Arc<Self>,
        asker: Asker,
        id: CodeId,
        wasm: Bytes,
    ) -> Result<Prepared, PrepareError> {
        if let Some(prepared) = self.cached(id) {
            return Ok(prepared);
        }
        if let Some(rejection) = self.refused(id) {
            return Err(rejection.into());
        }
        let prepared = self.fly(id, Some((asker, wasm))).await?;
        prepared.ok_or_else(|| PrepareError::Failed("the compilation gave no module".into()))
    }

    pub(crate) async fn prepared(self: &Arc<Self>, id: CodeId) -> Option<Prepared> {
        if let Some(prepared) = self.cached(id) {
            return Some(prepared);
        }
        // A failure to read is the same as nothing to read: the caller compiles.
        self.fly(id, None).await.ok().flatten()
    }

    fn cached(&self, id: CodeId) -> Option<Prepared> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(id)
    }

    fn refused(&self, id: CodeId) -> Option<Rejection> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, rejection) = refused.get(&id)?;
        (at.elapsed() < REFUSED_FOR).then(|| rejection.clone())
    }

    fn remember_refusal(&self, id: CodeId, error: &PrepareError) {
        if let PrepareError::Rejected(rejection @ Rejection::CompileLimit { .. }) = error {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.put(id, (Instant::now(), rejection.clone()));
        }
    }

    /// Joins the flight to this code, or starts it. It is a task: it lands also when all passengers have left.
    fn fly(self: &Arc<Self>, id: CodeId, order: Option<(Asker, Bytes)>) -> Flight {
        let key = (id, order.as_ref().map(|(asker, _)| asker.clone()));
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (preparer, landing_key) = (Arc::clone(self), key.clone());
        let task = tokio::spawn(async move {
            // Takes the flight off the board however it ends, after the cache has the module.
            let landing = Landing { preparer, key: landing_key };
            landing.preparer.make(id, order).await
        });
        let flight = async move {
            task.await.unwrap_or_else(|_| Err(PrepareError::Failed("the task that prepares it was lost".into())))
        };
        let flight = flight.boxed().shared();
        flights.insert(key, flight.clone());
        flight
    }

    async fn make(
        self: &Arc<Self>,
        id: CodeId,
        order: Option<(Asker, Bytes)>,
    ) -> Result<Option<Prepared>, PrepareError> {
        // Somebody may have landed between the caller's look and this one.
        if let Some(prepared) = self.cached(id) {
            return Ok(Some(prepared));
        }
        if let Some(prepared) = self.blocking(move |preparer| Ok(preparer.read_from_disk(id))).await? {
            count("artefact");
            return Ok(Some(prepared));
        }
        let Some((asker, wasm)) = order else { return Ok(None) };
        let made = self.compile(&asker, id, wasm).await;
        count(match &made {
            Ok(_) => "compiled",
            Err(PrepareError::Rejected(_)) => "rejected",
            Err(PrepareError::Busy) => "busy",
            Err(PrepareError::OverShare { .. }) => "over_share",
            Err(PrepareError::OverAllowance { .. }) => "over_allowance",
            Err(PrepareError::HostShort { .. }) => "host_short",
            Err(PrepareError::Failed(_)) => "failed",
        });
        made.map(Some)
    }

    async fn compile(self: &Arc<Self>, asker: &Asker, id: CodeId, wasm: Bytes) -> Result<Prepared, PrepareError> {
        self.is_allowed(asker)?;
        let place = match asker {
            Asker::Platform => None,
            Asker::Tenant(tenant) => Some(self.shares.enter(tenant, false)?),
            Asker::Admitted(tenant) => Some(self.shares.enter(tenant, true)?),
        };
        let (wasm, weight) = self
            .blocking(move |preparer| {
                if Digest::of(&wasm) != id.digest {
                    return Err(PrepareError::Failed("its bytes are not those of its digest".into()));
                }
                let inspected = inspect::inspect(&wasm, Some(&preparer.imports), preparer.memory_max_bytes)?;
                Ok((inspect::without_custom_sections(&wasm)?, inspected.weight))
            })
            .await?;
        let (mut lane, mut deadline) = (Lane::of(weight), self.compiler.deadline());
        let mut only_looked_small = false;
        let code = loop {
            let permit = self.compiler.permit(place.as_ref(), lane, deadline).await?;
            // Another tenant's flight may have landed while this one waited.
            if let Some(prepared) = self.cached(id) {
                return Ok(prepared);
            }
            // Its own others may have used up what it may. One that has begun goes on: begun again later, it would only
            // take as much once more.
            if !only_looked_small {
                self.is_allowed(asker)?;
            }
            let (lane_had, started) = (permit.lane(), Instant::now());
            let Compiled { code, cpu } =
                self.compiler.compile(permit, &self.engines.of(id.profile).engine, &wasm, deadline).await;
            ::metrics::histogram!(metrics::COMPILE_CPU_SECONDS).record(cpu.as_secs_f64());
            // That the host had too little is not the tenant's doing.
            if !matches!(code, Err(PrepareError::HostShort { .. })) {
                self.charge(asker, cpu);
            }
            match code {
                Err(PrepareError::Rejected(Rejection::CompileLimit { .. })) if lane_had == Lane::Small => {
                    (lane, only_looked_small) = (Lane::Large, true);
                    deadline = self.compiler.once_more(deadline);
                }
                code => {
                    let code = code.inspect_err(|error| self.remember_refusal(id, error))?;
                    ::metrics::histogram!(metrics::COMPILE_SECONDS).record(started.elapsed().as_secs_f64());
                    break code;
                }
            }
        };
        self.blocking(move |preparer| {
            let prepared = preparer
                .link(id, &code)
                .map_err(|error| PrepareError::Failed(format!("the compiled module cannot be loaded: {error:#}")))?;
            preparer.artefacts.write(id, &code);
            Ok(prepared)
        })
        .await
    }

    /// Has the tenant something left of its allowance? What is admitted is compiled in any case.
    fn is_allowed(&self, asker: &Asker) -> Result<(), Empty> {
        match asker {
            Asker::Tenant(tenant) => self.allowance.has_some(tenant, Instant::now()),
            Asker::Platform | Asker::Admitted(_) => Ok(()),
        }
    }

    fn charge(&self, asker: &Asker, cpu: Duration) {
        match asker {
            Asker::Tenant(tenant) | Asker::Admitted(tenant) => self.allowance.charge(tenant, cpu, Instant::now()),
            Asker::Platform => {}
        }
    }

    fn read_from_disk(&self, id: CodeId) -> Option<Prepared> {
        let code = self.artefacts.read(id)?;
        match self.link(id, &code) {
            Ok(prepared) => Some(prepared),
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "a compiled module on disk cannot be loaded; deleted");
                self.artefacts.forget(id);
                None
            }
        }
    }

    fn link(&self, id: CodeId, code: &Code) -> wasmtime::Result<Prepared> {
        let Linked { engine, linker } = self.engines.of(id.profile);
        let instance = linker.instantiate_pre(&code.load(engine)?)?;
        let prepared = Prepared(Arc::new(Ready { id, size_bytes: code.size_bytes(), instance }));
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(prepared.clone());
        Ok(prepared)
    }

    /// Hashing, reading and loading take milliseconds: not on a thread that serves.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, PrepareError> + Send + 'static,
    ) -> Result<T, PrepareError> {
        let preparer = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&preparer)).await;
        done.unwrap_or_else(|_| Err(PrepareError::Failed("the thread that prepares it was lost".into())))
    }
}

struct Landing {
    preparer: Arc<Preparer>,
    key: FlightKey,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.preparer.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

fn count(result: &'static str) {
    ::metrics::counter!(metrics::COMPILE_RESULTS_TOTAL, "result" => result).increment(1);
}
