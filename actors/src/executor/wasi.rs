//! What a guest sees of the world: its arguments, its input, two bounded outputs, seeded randomness and the clocks. No
//! files, no environment, no network.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest as _, Sha256};
use wasmtime_wasi::{
    WasiCtxBuilder, WasiView,
    cli::{IsTerminal, StdoutStream},
    p1::WasiP1Ctx,
    p2::{OutputStream, Pollable, StreamResult, pipe::MemoryInputPipe},
};
use wasmwiz_events::execution::Seed;

use super::{Job, Stream};

/// The largest answer to one request for random bytes.
const RANDOM_MAX_BYTES: u64 = 64 << 10;
/// Host-side handles of one guest: the three standard streams and what one `poll_oneoff` waits for.
const HANDLES_MAX: usize = 1_024;
/// The most a guest's stream takes in one write; the host copies that much.
const WRITE_MAX_BYTES: usize = 64 << 10;
/// The largest buffers that a guest may offer to one host call. Waiting for as many clocks as fit costs the host less than
/// half of it, once for each thread.
const HOST_CALL_MAX_BYTES: u64 = 64 << 20;

/// What a guest has written to one of its outputs: the first bytes, up to its limit.
#[derive(Debug, Clone)]
pub(crate) struct Sink(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    limit_bytes: usize,
    truncated: bool,
}

impl Sink {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(Kept { bytes: Vec::new(), limit_bytes, truncated: false })))
    }

    /// What was kept. The sink is empty afterwards.
    pub(crate) fn take(&self) -> Stream {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Stream { bytes: std::mem::take(&mut kept.bytes).into(), truncated: kept.truncated }
    }

    /// Keeps what fits and forgets the rest: a guest that floods its output goes on, and costs no memory.
    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = kept.limit_bytes.saturating_sub(kept.bytes.len());
        let (head, tail) = bytes.split_at(room.min(bytes.len()));
        kept.bytes.extend_from_slice(head);
        kept.truncated |= !tail.is_empty();
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.keep(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX_BYTES)
    }
}

impl tokio::io::AsyncWrite for Sink {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.keep(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_keeps_the_first_bytes_and_says_so() {
        let sink = Sink::new(4);
        sink.keep(b"abc");
        sink.keep(b"");
        assert!(!sink.0.lock().unwrap().truncated);
        sink.keep(b"def");
        sink.keep(b"ghi");
        let kept = sink.take();
        assert_eq!((&kept.bytes[..], kept.truncated), (&b"abcd"[..], true));
    }
}
