//! What a guest sees of the world: its arguments, its input, two bounded outputs, seeded randomness and the clocks. No
//! files, no environment, no network.

use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest as _, Sha256};
use wasmtime_wasi::{WasiCtxBuilder, WasiView, p1::WasiP1Ctx, p2::pipe::MemoryInputPipe};
use wasmwiz_events::execution::Seed;

use super::{Job, sink::Sink};

/// The largest answer to one request for random bytes.
const RANDOM_MAX_BYTES: u64 = 64 << 10;
/// Host-side handles of one guest: the three standard streams and what one `poll_oneoff` waits for.
const HANDLES_MAX: usize = 1_024;
/// The largest buffers that a guest may offer to one host call. Waiting for as many clocks as fit costs the host less than
/// half of it, once for each thread.
const HOST_CALL_MAX_BYTES: u64 = 64 << 20;

/// The context of one guest.
pub(crate) fn context(job: &Job, stdout: Sink, stderr: Sink) -> WasiP1Ctx {
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdin(MemoryInputPipe::new(job.stdin.clone()))
        .stdout(stdout)
        .stderr(stderr)
        .arg(&job.program)
        .args(&job.args)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }))
        .max_random_size(RANDOM_MAX_BYTES)
        .secure_random(random(job.seed, b"secure"))
        .insecure_random(random(job.seed, b"insecure"))
        .insecure_random_seed(u128::from_le_bytes(insecure_seed(job.seed)));
    let mut context = builder.build_p1();
    context.ctx().table.set_max_capacity(HANDLES_MAX);
    context
}

/// How large the buffers of one host call may be, in bytes.
///
/// The library charges what a guest offers, not what is copied: a program that reads a short input into one large buffer
/// must be able to. What the host itself holds for a call is far less: writes are copied in pieces, reads give what there is.
pub(crate) fn host_call_bytes(job: &Job) -> usize {
    usize::try_from(job.limits.memory_bytes.min(HOST_CALL_MAX_BYTES)).unwrap_or(usize::MAX)
}

fn domain(seed: Seed, purpose: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(b"wasmwiz guest random 1 ")
        .chain_update(purpose)
        .chain_update(seed.as_bytes())
        .finalize()
        .into()
}

fn random(seed: Seed, purpose: &[u8]) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(domain(seed, purpose))
}

fn insecure_seed(seed: Seed) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(domain(seed, b"insecure seed")).for_each(|(to, from)| *to = from);
    bytes
}
