//! What a guest has written to one of its outputs: the first bytes, up to its limit and to what the node has left.
//!
//! The bytes are counted in the node's memory budget from the moment there is room for them until the last holder of what
//! [`Sink::take`] gives has dropped it: also while a finished execution waits for its commit, and its answer for a reader.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::{
    Stream,
    budget::{Account, Full, Held},
};

/// The most a guest's stream takes in one write; the host copies that much.
const WRITE_MAX_BYTES: usize = 64 << 10;

/// The first room a sink makes, in bytes; then it doubles, up to its limit. Small, because most outputs are.
const FIRST_ROOM_BYTES: usize = 4 << 10;

/// One output of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Sink(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    bytes: Counted,
    limit_bytes: usize,
    truncated: bool,
    /// Why it keeps less than its limit, if it does for want of the node's memory.
    cut: Option<Full>,
}

/// Bytes, and the part of the budget that they are counted in.
#[derive(Debug)]
struct Counted {
    bytes: Vec<u8>,
    held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Counted {
    const fn nothing_of(account: Arc<Account>) -> Self {
        Self { bytes: Vec::new(), held: Held::nothing_of(account) }
    }

    /// How many bytes have room: what is counted, whatever the allocator gave.
    fn room(&self) -> usize {
        usize::try_from(self.held.bytes()).unwrap_or(usize::MAX)
    }

    /// Makes room for `needed` bytes, and for some more up to `limit`, if the budget has as much left.
    fn make_room(&mut self, needed: usize, limit: usize) -> Result<(), Full> {
        let room = self.room();
        if needed <= room {
            return Ok(());
        }
        let wanted = needed.max(room.saturating_mul(2)).max(FIRST_ROOM_BYTES).min(limit);
        self.held.grow((wanted - room) as u64)?;
        self.bytes.reserve_exact(wanted - self.bytes.len());
        Ok(())
    }
}

impl Sink {
    pub(crate) fn new(limit_bytes: u64, account: &Arc<Account>) -> Self {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        let bytes = Counted::nothing_of(Arc::clone(account));
        Self(Arc::new(Mutex::new(Kept { bytes, limit_bytes, truncated: false, cut: None })))
    }

    /// What was kept. The sink is empty afterwards.
    pub(crate) fn take(&self) -> Stream {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = Counted::nothing_of(kept.bytes.held.account());
        let counted = std::mem::replace(&mut kept.bytes, empty);
        let bytes = if counted.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(counted) };
        Stream { bytes, truncated: kept.truncated }
    }

    /// Why less was kept than its limit, if the node had no more memory for it.
    pub(crate) fn cut(&self) -> Option<Full> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cut
    }

    /// Did something not fit?
    pub(crate) fn is_truncated(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).truncated
    }

    /// Keeps what fits and forgets the rest: a guest that floods its output goes on, and costs no memory.
    pub(crate) fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { bytes: counted, limit_bytes, truncated, cut } = &mut *kept;
        let length = counted.bytes.len();
        let made = counted.make_room(length.saturating_add(bytes.len()).min(*limit_bytes), *limit_bytes);
        let room = counted.room().min(*limit_bytes).saturating_sub(length);
        let (head, tail) = bytes.split_at(room.min(bytes.len()));
        counted.bytes.extend_from_slice(head);
        if !tail.is_empty() {
            *truncated = true;
            *cut = cut.or(made.err());
            // What is kept has no holes: also when the node has more left later.
            *limit_bytes = counted.bytes.len();
        }
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
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.keep(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::budget::MemoryBudget;

    const KIB: usize = 1 << 10;

    #[test]
    fn a_sink_keeps_the_first_bytes_and_says_so() {
        let sink = Sink::new(4, &MemoryBudget::new(4).account(None));
        sink.keep(b"abc");
        sink.keep(b"");
        assert!(!sink.0.lock().unwrap().truncated);
        sink.keep(b"def");
        sink.keep(b"ghi");
        assert_eq!(sink.cut(), None);
        let kept = sink.take();
        assert_eq!((&kept.bytes[..], kept.truncated), (&b"abcd"[..], true));
    }

    #[test]
    fn what_a_sink_holds_is_counted_until_nobody_holds_it() {
        let budget = MemoryBudget::new(1 << 20);
        let sink = Sink::new(100 << 10, &budget.account(None));
        assert_eq!(budget.state().0, 0);
        sink.keep(b"a");
        assert_eq!(budget.state().0, 4 << 10);
        sink.keep(&[b'b'; 90 * KIB]);
        sink.keep(&[b'c'; 90 * KIB]);
        assert_eq!(budget.state().0, 100 << 10, "never more than its limit");
        let kept = sink.take().bytes;
        let copy = kept.clone();
        drop((kept, sink));
        assert_eq!(budget.state().0, 100 << 10);
        drop(copy);
        assert_eq!(budget.state().0, 0);
    }

    #[test]
    fn a_sink_that_the_node_has_no_memory_for_is_cut_off_for_good() {
        let budget = MemoryBudget::new(10 << 10);
        let other = Sink::new(1 << 20, &budget.account(None));
        other.keep(&[b'o'; 5 * KIB]);
        let sink = Sink::new(1 << 20, &budget.account(None));
        sink.keep(&[b'a'; 4 * KIB]);
        sink.keep(b"refused");
        drop(other);
        sink.keep(b"too late");
        assert_eq!(sink.cut(), Some(Full::Tenant), "the first reason stays");
        let kept = sink.take();
        assert_eq!((kept.bytes.len(), kept.truncated), (4 * KIB, true));
    }
}
