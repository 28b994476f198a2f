//! A bar that shows how far an upload is, on terminals only.

use std::io::IsTerminal as _;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::Body;

use crate::cli::output;

/// How much of a file is sent at a time: small enough for a bar that moves.
const CHUNK_BYTES: usize = 64 << 10;

/// Letters of the bar.
const WIDTH: usize = 30;

/// A body of these bytes. On a terminal, standard error shows how much of it was taken.
pub(super) fn body(name: &str, bytes: Bytes) -> Body {
    let total = bytes.len();
    if !std::io::stderr().is_terminal() || total <= CHUNK_BYTES {
        return Body::from(bytes);
    }
    let name = name.to_owned();
    let mut taken = 0;
    let chunks = stream::iter((0..total).step_by(CHUNK_BYTES)).map(move |at| {
        let chunk = bytes.slice(at..total.min(at + CHUNK_BYTES));
        taken += chunk.len();
        output::redraw(&bar(&name, taken, total), taken == total);
        Ok::<_, std::io::Error>(chunk)
    });
    Body::wrap_stream(chunks)
}

fn bar(name: &str, done: usize, total: usize) -> String {
    let full = done * WIDTH / total.max(1);
    let percent = done * 100 / total.max(1);
    let (full, empty) = ("█".repeat(full), "░".repeat(WIDTH - full.min(WIDTH)));
    format!("{name} {full}{empty} {percent:>3} % of {} KiB", total.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_all_is_done() {
        assert_eq!(bar("m", 0, 2_048), format!("m {}   0 % of 2 KiB", "░".repeat(30)));
        assert_eq!(bar("m", 1_024, 2_048), format!("m {}{}  50 % of 2 KiB", "█".repeat(15), "░".repeat(15)));
        assert_eq!(bar("m", 2_048, 2_048), format!("m {} 100 % of 2 KiB", "█".repeat(30)));
    }
}
