//! The compiler, in a child process with limits: a module may be made to cost it any amount of time and memory.
//!
//! The child is this program under another name (the node's hidden `__compile` command calls [`worker_main`]). It limits
//! itself before it reads the module, has an empty environment, and is killed when its time is up. Request, on standard
//! input: magic, CPU seconds and bytes of address space (little-endian `u64`), the build, then the module. Answer: magic, the
//! build and the artefact on standard output and exit code 0, or one of the codes below and a line of JSON on standard error.
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
const MAGIC: &[u8; 4] = b"WWC2";
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

/// The right to compile one module. Dropped, it is the next one's.
pub(crate) struct Permit<'a> {
    _node: SemaphorePermit<'a>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Compiles, a bounded number at a time.
pub(crate) struct Compiler {
    config: CompileConfig,
    permits: Semaphore,
    waiting: AtomicU32,
}

impl Compiler {
    pub(crate) fn new(config: CompileConfig) -> Self {
        let permits = Semaphore::new(config.permits.max(1));
        Self { config, permits, waiting: AtomicU32::new(0) }
    }

    /// The right to compile one module: the tenant's turn first, then the node's.
    pub(crate) async fn permit(&self, place: Option<&Place>) -> Result<Permit<'_>, PrepareError> {
        let until = Instant::now() + Duration::from_millis(self.config.wall_ms);
        let turn = match place {
            Some(place) => {
                let turn = tokio::time::timeout_at(until, place.turn()).await;
                Some(turn.map_err(|_| PrepareError::OverShare { limit: place.limit() })?)
            }
            None => None,
        };
        let waiting_max = u32::try_from(self.config.waiting_max).unwrap_or(u32::MAX);
        let _in_line = Waiting::enter(&self.waiting, waiting_max).ok_or(PrepareError::Busy)?;
        let node = tokio::time::timeout_at(until, self.permits.acquire()).await;
        let node = node.map_err(|_| PrepareError::Busy)?.map_err(|_| PrepareError::Busy)?;
        Ok(Permit { _node: node, _turn: turn.flatten() })
    }

    /// Compiles a module that has passed inspection.
    pub(crate) async fn compile(
        &self,
        _permit: Permit<'_>,
        engine: &Engine,
        wasm: Vec<u8>,
    ) -> Result<Code, PrepareError> {
        let wall = Duration::from_millis(self.config.wall_ms);
        let code = match self.config.worker.as_deref() {
            Some([program, arguments @ ..]) => self.in_child(program, arguments, engine, wasm, wall).await?,
            Some([]) => return Err(PrepareError::Failed("no program is set that compiles".into())),
            None => in_process(engine.clone(), wasm).await?,
        };
        Ok(Code::compiled(code))
    }

    async fn in_child(
        &self,
        program: &OsString,
        arguments: &[OsString],
        engine: &Engine,
        wasm: Vec<u8>,
        wall: Duration,
    ) -> Result<Vec<u8>, PrepareError> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/").kill_on_drop(true);
        // The program's allocator would reserve a gibibyte of address space when it starts, and then the limit is met before
        // anything is compiled: the stack cannot grow, and the child dies of SIGSEGV.
        command.env("MIMALLOC_ARENA_RESERVE", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            tracing::error!(%error, "the compile worker cannot be started");
            PrepareError::Failed("the compile worker cannot be started".into())
        })?;
        let mut header = Vec::from(MAGIC);
        header.extend_from_slice(&self.config.cpu_s.to_le_bytes());
        header.extend_from_slice(&self.config.memory_bytes.to_le_bytes());
        let build = build(engine);
        header.extend_from_slice(build.as_bytes());
        let answer = tokio::time::timeout(wall, converse(child, &header, &wasm)).await;
        // Out of time: the future is dropped, and the child is killed with it.
        let answer = answer.map_err(|_| Rejection::CompileLimit { which: CompileResource::Wall })?;
        let (status, mut answer, complaint) = answer
            .map_err(|error| PrepareError::Failed(format!("the compile worker did not answer: {}", error.kind())))?;
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
}

async fn in_process(engine: Engine, wasm: Vec<u8>) -> Result<Vec<u8>, PrepareError> {
    let compile = move || engine.precompile_module(&bulk::in_pieces(&wasm).map_err(wasmtime::Error::from)?);
    let compiled = tokio::task::spawn_blocking(compile).await;
    let compiled = compiled.map_err(|_| PrepareError::Failed("the compiler panicked".into()))?;
    compiled.map_err(|error| rejected(&format!("{error:#}")).into())
}

async fn converse(mut child: Child, header: &[u8], wasm: &[u8]) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
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
    Ok((child.wait().await?, answer?, complaint?))
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
        // Rust aborts when an allocation fails; the kernel kills when it runs out itself.
        (_, Some(SIGABRT)) if out_of_memory => Rejection::CompileLimit { which: CompileResource::Memory }.into(),
        (_, Some(SIGKILL)) => Rejection::CompileLimit { which: CompileResource::Memory }.into(),
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
    limit: impl FnOnce(u64, u64) -> io::Result<()>,
) -> Result<(), (u8, String)> {
    let failed = |what: &'static str| move |error: io::Error| (EXIT_FAILED, format!("{what}: {error}"));
    let mut header = [0; 20];
    stdin.read_exact(&mut header).map_err(failed("reading the request"))?;
    let (magic, limits) = header.split_at(MAGIC.len());
    let (cpu_s, memory_bytes) = limits.split_at(8);
    if magic != MAGIC {
        return Err((EXIT_FAILED, "this is no request to compile".into()));
    }
    limit(number(cpu_s), number(memory_bytes)).map_err(failed("setting limits"))?;
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

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::OutOfMemory)
            || cause.to_string().contains("annot allocate memory")
    })
}

fn limit_self(cpu_s: u64, memory_bytes: u64) -> io::Result<()> {
    let exactly = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, exactly(0))?;
    setrlimit(Resource::Nofile, exactly(FILES_MAX))?;
    setrlimit(Resource::As, exactly(memory_bytes))?;
    // The signal that says why comes at the soft limit, the one that cannot be caught a second later.
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_s), maximum: Some(cpu_s.saturating_add(1)) })?;
    // Those who serve go first. Not being allowed to be nicer is no reason not to compile.
    let _ = rustix::process::nice(10);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the child's side makes of a request of this build. Its limits are those of this process already.
    fn asked(build: &[u8; 32]) -> Result<Vec<u8>, (u8, String)> {
        let mut request = MAGIC.to_vec();
        request.extend_from_slice(&[0; 16]);
        request.extend_from_slice(build);
        request.extend_from_slice(b"\0asm\x01\0\0\0");
        let mut answer = Vec::new();
        request_from(&mut request.as_slice(), &mut answer, |_, _| Ok(())).map(|()| answer)
    }

    #[test]
    fn a_child_compiles_for_its_own_build_alone_and_says_which_that_is() {
        for profile in Profile::ALL {
            let own = build(&Engine::new(&engine::settings(profile)).unwrap());
            let answer = asked(own.as_bytes()).unwrap();
            assert!(answer.starts_with(&[ANSWER.as_slice(), own.as_bytes()].concat()) && answer.len() > 100);
        }
        let (code, message) = asked(&[7; 32]).unwrap_err();
        assert_eq!(code, EXIT_OTHER_BUILD);
        assert!(message.contains("another build"), "{message}");
    }
}
