//! Lines on their way to standard error: whoever logs never waits for who reads.
//!
//! A pipe that nobody reads is full after 64 KiB, and a write to it waits for ever. So a thread of its own writes, out of a
//! queue that is bounded in lines and in bytes; what finds no room there is dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait: some seconds of a busy node's warnings.
const LINES_MAX: usize = 8_192;

/// What they may have together, in bytes.
const BYTES_MAX: usize = 4 << 20;

/// How often who wants all written looks whether there is room for its wish, in milliseconds.
const LOOK_EVERY_MS: u64 = 5;

/// Lines that were dropped, as nobody read standard error.
pub(super) const DROPPED_TOTAL: &str = "wasmwiz_log_lines_dropped_total";

/// Takes lines, and never waits.
#[derive(Debug, Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Entry>,
    bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// Everything before it has been written once this is answered.
    Mark(SyncSender<()>),
}

impl Lines {
    /// Begins to write them.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(LINES_MAX);
        let (bytes, dropped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let writer = Writer { entries, bytes: Arc::clone(&bytes), dropped: Arc::clone(&dropped), out };
        std::thread::Builder::new().name("log-lines".into()).spawn(move || writer.run())?;
        Ok(Self(Arc::new(Shared { queue, bytes, dropped })))
    }

    fn push(&self, line: &[u8]) {
        let Shared { queue, bytes, dropped } = &*self.0;
        let held = bytes.fetch_add(line.len(), Ordering::Relaxed);
        let fits = held.saturating_add(line.len()) <= BYTES_MAX;
        if !fits || queue.try_send(Entry::Line(line.into())).is_err() {
            bytes.fetch_sub(line.len(), Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
            metrics::counter!(DROPPED_TOTAL).increment(1);
        }
    }

    /// Waits until everything is written that was logged before, and no longer than this.
    pub(super) fn flush(&self, within: Duration) {
        let (written, done) = sync_channel(1);
        let mut mark = Entry::Mark(written);
        for looks in 0..=within.as_millis() / u128::from(LOOK_EVERY_MS) {
            match self.0.queue.try_send(mark) {
                Ok(()) => {
                    let waited =
                        Duration::from_millis(LOOK_EVERY_MS.saturating_mul(u64::try_from(looks).unwrap_or(u64::MAX)));
                    let _in_time = done.recv_timeout(within.saturating_sub(waited));
                    return;
                }
                Err(TrySendError::Full(same)) => mark = same,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(Duration::from_millis(LOOK_EVERY_MS));
        }
    }
}

/// Writes them, one after the other.
struct Writer<W> {
    entries: Receiver<Entry>,
    bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    out: W,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Ok(entry) = self.entries.recv() {
            match entry {
                Entry::Line(line) => {
                    if self.out.write_all(&line).is_err() {
                        // A disk that is full, or nobody who reads any more: it is told once it can be.
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                        metrics::counter!(DROPPED_TOTAL).increment(1);
                    }
                    self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Entry::Mark(written) => {
                    let _ = self.out.flush();
                    let _ = written.try_send(());
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let told = r#""level":"WARN","message":"log lines were dropped, as nobody read them""#;
                if writeln!(self.out, "{{{told},\"dropped\":{dropped}}}").is_err() {
                    self.dropped.fetch_add(dropped, Ordering::Relaxed);
                }
            }
        }
    }
}

/// One line: the subscriber writes it in one piece.
#[derive(Debug)]
pub(super) struct Line<'a>(&'a Lines);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// What was written, by whoever holds the lock while nobody else does: holding it is not reading.
    #[derive(Debug, Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_and_all_of_them_before_a_flush_returns() {
        let pipe = Pipe::default();
        let lines = Lines::to(pipe.clone()).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            lines.make_writer().write_all(line.as_bytes()).unwrap();
        }
        lines.flush(LONG);
        assert_eq!(*pipe.0.lock().unwrap(), b"one\ntwo\nthree\n");
    }

    #[test]
    fn while_nobody_reads_nobody_waits_the_memory_is_bounded_and_what_was_dropped_is_told() {
        let pipe = Pipe::default();
        let lines = Lines::to(pipe.clone()).unwrap();
        let unread = pipe.0.lock().unwrap();
        let line = vec![b'x'; 1_024];
        for _ in 0..20_000 {
            lines.push(&line);
        }
        assert!(lines.0.bytes.load(Ordering::Relaxed) <= BYTES_MAX);
        let short = vec![b'x'; 1];
        for _ in 0..20_000 {
            lines.push(&short);
        }
        // Nor does who wants all written wait for ever.
        lines.flush(Duration::from_millis(20));
        drop(unread);
        lines.flush(LONG);
        lines.push(b"last");
        lines.flush(LONG);
        let written = String::from_utf8(pipe.0.lock().unwrap().clone()).unwrap();
        assert!(written.len() <= BYTES_MAX + 4_096, "{}", written.len());
        assert!(written.contains("were dropped") && written.ends_with("last"), "{}", &written[written.len() - 200..]);
    }
}
