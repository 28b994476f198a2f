//! The compiler, in a child process with limits: a module may be made to cost it any amount of time and memory.
//!
//! The child is this program under another name (the node's hidden `__compile` command calls [`worker_main`]). It limits
//! itself before it reads the module, has an empty environment, and is killed when its time is up. Request, on standard
//! input: magic, CPU seconds, bytes of address space, bytes of data and niceness (little-endian `u64`), the build, then
//! the module. Answer: magic, the build and the artefact on standard output and exit code 0, or one of the codes below
//! and a line of JSON on standard error.
//!
//! A module that takes more CPU time or memory than it may is refused. One that was not compiled in time, or whose
//! child somebody else killed, is not: that is the host's doing. What a child took is told however it ended.
//!
//! Two lanes: what looks small has a permit of its own, so that a large module on the only other one keeps
//! nobody else's small ones waiting. One deadline holds for both.
//!
//! Parent and child tell each other their build, and neither works with another: what one engine compiles, another must not
//! run.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus, Stdio},
    sync::atomic::AtomicU32,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};
use wasmtime::Engine;
use wasmwiz_events::digest::Digest;

use super::{
    CompileConfig, PrepareError, Rejection, artefact::Code, bulk, engine, profile::Profile, rejection::CompileResource,
    slots::Waiting,
};
use crate::shares::Place;

/// What a request begins with.
const MAGIC: &[u8; 4] = b"WWC3";
/// What an answer begins with.
const ANSWER: &[u8; 4] = b"WWA2";
/// The largest module the child reads, in bytes; uploads are far smaller.
const MODULE_MAX_BYTES: u64 = 256 << 20;
/// The largest artefact the parent reads, in bytes.
const ARTEFACT_MAX_BYTES: u64 = 1 << 30;
/// The most the parent reads of the child's complaints, in bytes.
const COMPLAINT_MAX_BYTES: u64 = 16 << 10;
/// Open files of the child: the three streams and some room.
const FILES_MAX: u64 = 16;

/// The heaviest module that looks small: it is compiled in some hundred milliseconds.
const SMALL_WEIGHT: u64 = 512 << 10;
/// Compilations of small modules at the same time, beside the others.
const SMALL_PERMITS: usize = 1;
/// What a small module may take in data, in bytes: a node has it beside what it has for the others.
const SMALL_DATA_BYTES: u64 = 64 << 20;
/// How nice the child is to those who serve, and the one with a large module also to the one with a small. Not nicer:
/// beside guests that keep every core busy, it still has to be done within `wall_ms`.
const SMALL_NICE: u64 = 5;
const LARGE_NICE: u64 = 10;
/// Ticks of a second in what the kernel says of a process, on all architectures that wasmtime runs on (proc(5),
/// `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// The module cannot be compiled: its own fault.
const EXIT_REJECTED: u8 = 65;
/// There was not enough memory.
const EXIT_MEMORY: u8 = 66;
/// The child is another build than its parent.
const EXIT_OTHER_BUILD: u8 = 69;
/// Anything else.
const EXIT_FAILED: u8 = 70;

/// Signals that end the child, by their number on Linux.
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;

/// Why the child gave up, on its standard error.
#[derive(Debug, Serialize, Deserialize)]
struct Complaint {
    message: String,
}

/// Which build this is: its version, and what its engine makes of a module.
fn build(engine: &Engine) -> Digest {
    Digest::of(format!("wasmwiz {} {}", env!("CARGO_PKG_VERSION"), engine::fingerprint(engine)).as_bytes())
}

/// Which modules a permit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Those that look small. One that takes longer is ended and goes to the other lane.
    Small,
    /// All.
    Large,
}

impl Lane {
    /// Where a module of this [weight](super::Inspected::weight) begins.
    pub(crate) const fn of(weight: u64) -> Self {
        if weight <= SMALL_WEIGHT { Self::Small } else { Self::Large }
    }
}

/// The right to compile one module. Dropped, it is the next one's.
pub(crate) struct Permit<'a> {
    lane: Lane,
    _node: SemaphorePermit<'a>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Permit<'_> {
    pub(crate) const fn lane(&self) -> Lane {
        self.lane
    }
}

/// By when a module is to be compiled, in whichever lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// It has to have its turn and its permit.
    permit: Instant,
    /// Its child has to have answered.
    done: Instant,
}

/// What came of a compilation.
pub(crate) struct Compiled {
    pub(crate) code: Result<Code, PrepareError>,
    /// The CPU time that it took, whatever came of it.
    pub(crate) cpu: Duration,
}

/// Compiles, a bounded number at a time.
pub(crate) struct Compiler {
    config: CompileConfig,
    permits: Semaphore,
    small: Semaphore,
    waiting: AtomicU32,
}

impl Compiler {
    pub(crate) fn new(config: CompileConfig) -> Self {
        let (permits, small) = (Semaphore::new(config.permits.max(1)), Semaphore::new(SMALL_PERMITS));
        Self { config, permits, small, waiting: AtomicU32::new(0) }
    }

    /// For a module that is to be compiled from now on.
    pub(crate) fn deadline(&self) -> Deadline {
        let permit = Instant::now() + Duration::from_millis(self.config.wait_ms);
        Deadline { permit, done: permit + Duration::from_millis(self.config.wall_ms) }
    }

    /// For one that only looked small: the end is the same, and what it does not need before that it may wait for its
    /// permit.
    pub(crate) fn once_more(&self, deadline: Deadline) -> Deadline {
        let latest = deadline.done.checked_sub(Duration::from_secs(self.config.cpu_s));
        Deadline { permit: latest.map_or(deadline.permit, |latest| latest.max(deadline.permit)), ..deadline }
    }

    /// The right to compile one module: the tenant's turn first, then the node's. A tenant has few turns, so the node's
    /// line, first come, first served, is one of tenants.
    pub(crate) async fn permit(
        &self,
        place: Option<&Place>,
        lane: Lane,
        deadline: Deadline,
    ) -> Result<Permit<'_>, PrepareError> {
        let until = deadline.permit;
        let turn = match place {
            Some(place) => {
                let turn = tokio::time::timeout_at(until, place.turn()).await;
                Some(turn.map_err(|_| PrepareError::OverShare { limit: place.limit() })?)
            }
            None => None,
        };
        let waiting_max = u32::try_from(self.config.waiting_max).unwrap_or(u32::MAX);
        let _in_line = Waiting::enter(&self.waiting, waiting_max).ok_or(PrepareError::Busy)?;
        let node = tokio::time::timeout_at(until, self.node_permit(lane)).await;
        let (lane, node) = node.map_err(|_| PrepareError::Busy)?.ok_or(PrepareError::Busy)?;
        Ok(Permit { lane, _node: node, _turn: turn.flatten() })
    }

    /// One of the node's permits, and which lane it is of.
    async fn node_permit(&self, lane: Lane) -> Option<(Lane, SemaphorePermit<'_>)> {
        let any = async { Some((Lane::Large, self.permits.acquire().await.ok()?)) };
        match lane {
            Lane::Large => any.await,
            Lane::Small => tokio::select! {
                biased;
                small = self.small.acquire() => Some((Lane::Small, small.ok()?)),
                any = any => any,
            },
        }
    }

    /// Compiles a module that has passed inspection.
    pub(crate) async fn compile(
        &self,
        permit: Permit<'_>,
        engine: &Engine,
        wasm: &[u8],
        deadline: Deadline,
    ) -> Compiled {
        let begun = Instant::now();
        let mut cpu = None;
        let until = deadline.done.min(begun + Duration::from_millis(self.config.wall_ms));
        let code = match self.config.worker.as_deref() {
            Some(worker) => self.in_child(worker, engine, wasm, permit.lane, until, &mut cpu).await,
            None => in_process(engine.clone(), wasm.to_vec()).await,
        };
        // A kernel that does not say is one of tests: it took no more than that, for it has one thread.
        Compiled { code: code.map(Code::compiled), cpu: cpu.unwrap_or_else(|| begun.elapsed()) }
    }

    async fn in_child(
        &self,
        worker: &[OsString],
        engine: &Engine,
        wasm: &[u8],
        lane: Lane,
        until: Instant,
        cpu: &mut Option<Duration>,
    ) -> Result<Vec<u8>, PrepareError> {
        let [program, arguments @ ..] = worker else {
            return Err(PrepareError::Failed("no program is set that compiles".into()));
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/").kill_on_drop(true);
        // The program's allocator would reserve a gibibyte of address space when it starts, and then the limit is met before
        // anything is compiled: the stack cannot grow, and the child dies of SIGSEGV.
        command.env("MIMALLOC_ARENA_RESERVE", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            tracing::error!(%error, "the compile worker cannot be started");
            PrepareError::Failed("the compile worker cannot be started".into())
        })?;
        let build = build(engine);
        let mut header = Vec::from(MAGIC);
        for limit in self.limits(lane) {
            header.extend_from_slice(&limit.to_le_bytes());
        }
        header.extend_from_slice(build.as_bytes());
        let answer = tokio::time::timeout_at(until, converse(&mut child, &header, wasm)).await;
        // It is there until it is waited for, whether it runs or has ended.
        *cpu = child.id().and_then(cpu_of);
        // Out of time: the child is dropped, and killed with that. A module that takes too long meets its limit of CPU
        // time before that.
        let late = |_| PrepareError::HostShort { which: CompileResource::Wall };
        let answer = answer.map_err(late)?;
        let broken =
            |error: io::Error| PrepareError::Failed(format!("the compile worker did not answer: {}", error.kind()));
        let (mut answer, complaint) = answer.map_err(broken)?;
        // One that has closed its streams may go on all the same.
        let status = tokio::time::timeout_at(until, child.wait()).await.map_err(late)?.map_err(broken)?;
        if !status.success() {
            return Err(verdict(status, &complaint));
        }
        let preface = [ANSWER.as_slice(), build.as_bytes()].concat();
        if !answer.starts_with(&preface) {
            return Err(other_build("it does not answer as this build does"));
        }
        answer.drain(..preface.len());
        Ok(answer)
    }

    /// What a request says of its limits.
    fn limits(&self, lane: Lane) -> [u64; 4] {
        let CompileConfig { cpu_s, small_cpu_s, memory_bytes, .. } = self.config;
        match lane {
            Lane::Small => [small_cpu_s.min(cpu_s), memory_bytes, SMALL_DATA_BYTES.min(memory_bytes), SMALL_NICE],
            Lane::Large => [cpu_s, memory_bytes, memory_bytes, LARGE_NICE],
        }
    }
}

/// CPU time of all threads of a process that has not been waited for.
fn cpu_of(pid: u32) -> Option<Duration> {
    cpu_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from what the kernel says of it: the 14th and 15th field. The second is a name in parentheses, which may
/// have more of them in it.
fn cpu_in(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let ticks = next()?.saturating_add(next()?);
    Some(Duration::from_millis(ticks.saturating_mul(1_000 / TICKS_PER_SECOND)))
}

async fn in_process(engine: Engine, wasm: Vec<u8>) -> Result<Vec<u8>, PrepareError> {
    let compile = move || engine.precompile_module(&bulk::in_pieces(&wasm).map_err(wasmtime::Error::from)?);
    let compiled = tokio::task::spawn_blocking(compile).await;
    let compiled = compiled.map_err(|_| PrepareError::Failed("the compiler panicked".into()))?;
    compiled.map_err(|error| rejected(&format!("{error:#}")).into())
}

/// Asks the child, and gives its answer and what it complains of once both have ended. It has not been waited for.
async fn converse(child: &mut Child, header: &[u8], wasm: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let missing = || io::Error::other("a stream of the child is missing");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let ask = async move {
        // A child that died does not read; its status says why.
        let _ = stdin.write_all(header).await;
        let _ = stdin.write_all(wasm).await;
    };
    let answer = async move {
        let mut bytes = Vec::new();
        stdout.take(ARTEFACT_MAX_BYTES).read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let complain = async move {
        let mut bytes = Vec::new();
        stderr.take(COMPLAINT_MAX_BYTES).read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let ((), answer, complaint) = tokio::join!(ask, answer, complain);
    Ok((answer?, complaint?))
}

fn other_build(complaint: &str) -> PrepareError {
    tracing::error!(complaint, "the compile worker is another build than this node; start the node again");
    PrepareError::Failed("the compile worker is another build than this node".into())
}

/// What the end of an unsuccessful child means.
fn verdict(status: ExitStatus, complaint: &[u8]) -> PrepareError {
    let text = String::from_utf8_lossy(complaint);
    let out_of_memory = text.contains("memory allocation of");
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(EXIT_REJECTED) => {
            let complaint = serde_json::from_str::<Complaint>(text.lines().next().unwrap_or_default());
            rejected(complaint.as_ref().map_or("the compiler refused it", |complaint| &complaint.message)).into()
        }
        (Some(code), _) if code == i32::from(EXIT_MEMORY) => {
            Rejection::CompileLimit { which: CompileResource::Memory }.into()
        }
        (Some(code), _) if code == i32::from(EXIT_OTHER_BUILD) => other_build(&text),
        (_, Some(SIGXCPU)) => Rejection::CompileLimit { which: CompileResource::Cpu }.into(),
        // Rust aborts when an allocation fails.
        (_, Some(SIGABRT)) if out_of_memory => Rejection::CompileLimit { which: CompileResource::Memory }.into(),
        // The kernel kills when it runs out itself, whatever has taken the memory.
        (_, Some(SIGKILL)) => {
            tracing::warn!("somebody killed the compile worker; the kernel does where memory runs out");
            PrepareError::HostShort { which: CompileResource::Memory }
        }
        _ => {
            tracing::error!(%status, complaint = %text, "the compile worker failed");
            PrepareError::Failed("the compile worker failed".into())
        }
    }
}

fn rejected(message: &str) -> Rejection {
    Rejection::Invalid { message: message.chars().take(300).collect(), offset: 0 }
}

/// The child's side: one request from standard input, one answer. The program's hidden command calls this first thing, on
/// its main thread, before it starts any other.
pub fn worker_main() -> ExitCode {
    match request_from(&mut io::stdin().lock(), &mut io::stdout().lock(), limit_self) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            let complaint = serde_json::to_string(&Complaint { message }).unwrap_or_default();
            // Without a reader there is nobody to tell.
            let _ = writeln!(io::stderr(), "{complaint}");
            ExitCode::from(code)
        }
    }
}

fn request_from(
    stdin: &mut impl Read,
    stdout: &mut impl Write,
    limit: impl FnOnce([u64; 4]) -> io::Result<()>,
) -> Result<(), (u8, String)> {
    let failed = |what: &'static str| move |error: io::Error| (EXIT_FAILED, format!("{what}: {error}"));
    let mut magic = [0; 4];
    stdin.read_exact(&mut magic).map_err(failed("reading the request"))?;
    if magic != *MAGIC {
        return Err((EXIT_FAILED, "this is no request to compile".into()));
    }
    let mut limits = [0; 4];
    for number in &mut limits {
        let mut bytes = [0; 8];
        stdin.read_exact(&mut bytes).map_err(failed("reading the request"))?;
        *number = u64::from_le_bytes(bytes);
    }
    limit(limits).map_err(failed("setting limits"))?;
    let mut asks = [0; 32];
    stdin.read_exact(&mut asks).map_err(failed("reading the request"))?;
    let Some((engine, build)) = engine_of(&asks)? else {
        let message = format!("this is WasmWiz {}, and who asks is another build", env!("CARGO_PKG_VERSION"));
        return Err((EXIT_OTHER_BUILD, message));
    };
    let mut wasm = Vec::new();
    stdin.take(MODULE_MAX_BYTES).read_to_end(&mut wasm).map_err(failed("reading the module"))?;
    let pieces = bulk::in_pieces(&wasm).map_err(|error| (EXIT_REJECTED, error.to_string()))?;
    let artefact = engine.precompile_module(&pieces).map_err(|error| {
        let code = if is_out_of_memory(&error) { EXIT_MEMORY } else { EXIT_REJECTED };
        (code, format!("{error:#}"))
    })?;
    let mut write = || {
        stdout.write_all(ANSWER)?;
        stdout.write_all(build.as_bytes())?;
        stdout.write_all(&artefact)?;
        stdout.flush()
    };
    write().map_err(failed("writing the artefact"))
}

/// The engine of this build that is asked for: each profile has a build of its own.
fn engine_of(asks: &[u8; 32]) -> Result<Option<(Engine, Digest)>, (u8, String)> {
    for profile in Profile::ALL {
        let engine = Engine::new(&engine::settings(profile)).map_err(|error| {
            let code = if is_out_of_memory(&error) { EXIT_MEMORY } else { EXIT_FAILED };
            (code, format!("{error:#}"))
        })?;
        let build = build(&engine);
        if asks == build.as_bytes() {
            return Ok(Some((engine, build)));
        }
    }
    Ok(None)
}

fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::OutOfMemory)
            || cause.to_string().contains("annot allocate memory")
    })
}

fn limit_self([cpu_s, memory_bytes, data_bytes, niceness]: [u64; 4]) -> io::Result<()> {
    let exactly = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, exactly(0))?;
    setrlimit(Resource::Nofile, exactly(FILES_MAX))?;
    setrlimit(Resource::As, exactly(memory_bytes))?;
    setrlimit(Resource::Data, exactly(data_bytes))?;
    // The signal that says why comes at the soft limit, the one that cannot be caught a second later.
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_s), maximum: Some(cpu_s.saturating_add(1)) })?;
    // Those who serve go first. Not being allowed to be nicer is no reason not to compile.
    let _ = rustix::process::nice(i32::try_from(niceness).unwrap_or(i32::MAX));
    Ok(())
}

#[cfg(test)]
mod tests;
