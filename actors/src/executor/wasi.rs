//! What a guest sees of the world: its arguments, its input, two bounded outputs, seeded randomness and virtual time, or the host's where
//! its version asks for that ([`clocks`](super::clocks)). No files, no environment, no network.

use wasmtime::{Caller, Linker};
use wasmtime_wasi::{WasiCtxBuilder, WasiView, p1::WasiP1Ctx, p2::pipe::MemoryInputPipe};

use super::{
    Job,
    engine::IMPORT_MODULE,
    poll, random,
    run::Guest,
    sink::Sink,
    time::{self, NoClock},
    vectored,
};

/// Host-side handles of one guest: the three standard streams, and what a call holds for as long as it lasts.
const HANDLES_MAX: usize = 16;
/// What a guest may offer to one host call beside its memory, in bytes: an array that describes buffers is charged too.
const HOST_CALL_EXTRA_BYTES: u64 = 64 << 10;

/// The context of one guest.
pub(crate) fn context(job: &Job, stdout: Sink, stderr: Sink) -> WasiP1Ctx {
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdin(MemoryInputPipe::new(job.stdin.clone()))
        .stdout(stdout)
        .stderr(stderr)
        .arg(&job.program)
        .args(&job.args)
        .wall_clock(NoClock)
        .monotonic_clock(NoClock)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }))
        .secure_random(random::generator(job.seed, b"unused"))
        .insecure_random(random::generator(job.seed, b"insecure"))
        .insecure_random_seed(u128::from_le_bytes(random::insecure_seed(job.seed)));
    let mut context = builder.build_p1();
    context.ctx().table.set_max_capacity(HANDLES_MAX);
    context
}

/// How large the buffers of one host call may be, in bytes: as large as the guest's memory, for it may pass any part of that.
///
/// The library charges what a guest offers, not what is copied: a program that reads a short input into one large buffer
/// must be able to. What the host itself holds for a call is far less: writes are copied in pieces, reads give what there
/// is, and `path_open`, which would copy a name before it looks at the folder, is replaced.
pub(crate) fn host_call_bytes(job: &Job) -> usize {
    usize::try_from(job.limits.memory_bytes.saturating_add(HOST_CALL_EXTRA_BYTES)).unwrap_or(usize::MAX)
}

/// Our own versions of the few functions whose originals do something that we do not want.
pub(crate) fn replace_functions(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    const EBADF: i32 = 8;
    const ENOTDIR: i32 = 54;
    const ENOTSOCK: i32 = 57;
    /// Descriptors 0 to 2 are something else than is asked for, and there are no others.
    const fn none_of(descriptor: i32, is_no_such: i32) -> i32 {
        if matches!(descriptor, 0..=2) { is_no_such } else { EBADF }
    }
    linker.allow_shadowing(true);
    // The original turns an exit code of 126 and more into an error; programs do use 255.
    linker.func_wrap(IMPORT_MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(wasmtime_wasi::I32Exit(code).into())
    })?;
    // The originals write a warning to the node's log for each call.
    linker.func_wrap(IMPORT_MODULE, "sock_accept", |fd: i32, _: i32, _: i32| none_of(fd, ENOTSOCK))?;
    linker.func_wrap(IMPORT_MODULE, "sock_shutdown", |fd: i32, _: i32| none_of(fd, ENOTSOCK))?;
    linker.func_wrap(IMPORT_MODULE, "sock_send", |fd: i32, _: i32, _: i32, _: i32, _: i32| none_of(fd, ENOTSOCK))?;
    linker.func_wrap(IMPORT_MODULE, "sock_recv", |fd: i32, _: i32, _: i32, _: i32, _: i32, _: i32| {
        none_of(fd, ENOTSOCK)
    })?;
    // There are no folders. The original copies the name into the host's memory before it finds out.
    linker.func_wrap(
        IMPORT_MODULE,
        "path_open",
        |_: Caller<'_, Guest>, fd: i32, _: i32, _: i32, _: i32, _: i32, _: i64, _: i64, _: i32, _: i32| {
            none_of(fd, ENOTDIR)
        },
    )?;
    random::add_to_linker(linker)?;
    time::add_to_linker(linker)?;
    poll::add_to_linker(linker)?;
    vectored::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}
