//! Asking the one at the terminal, without showing what is secret.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use anyhow::{Context as _, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output;

/// The longest line that is read, in bytes: a key has some 60, an address fewer than a page.
const MAX_LINE: u64 = 4_096;

/// Asks for a line on the terminal; elsewhere, reads one from standard input without asking.
pub(super) fn line(question: &str) -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        output::prompt(question);
    }
    given(question, &read().context("standard input cannot be read")?)
}

/// Asks for a secret: what is typed is not shown.
pub(super) fn secret(question: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return line(question);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let typed = runtime.block_on(typed_unseen(question));
    // After an interruption somebody still reads the terminal, for as long as the process lives.
    runtime.shutdown_background();
    given(question, &typed?)
}

async fn typed_unseen(question: &str) -> anyhow::Result<String> {
    // Before the terminal is silent: an interruption that ended the process would leave it so.
    let mut interruption = signal(SignalKind::interrupt())?;
    let silence = Silence::begin()?;
    output::prompt(question);
    let typed = tokio::select! {
        typed = tokio::task::spawn_blocking(read) => Some(typed?),
        _ = interruption.recv() => None,
    };
    output::progress("");
    drop(silence);
    typed.context("interrupted")?.context("standard input cannot be read")
}

fn read() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().take(MAX_LINE).read_line(&mut line).map(|_| line)
}

fn given(question: &str, line: &str) -> anyhow::Result<String> {
    let line = line.trim().to_owned();
    ensure!(!line.is_empty(), "nothing was given for \"{question}\"; type it, or write it to standard input");
    Ok(line)
}

/// A terminal that does not show what is typed. It shows it again when this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("the terminal does not say how it is set")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // What was typed ahead of the question would have been shown already.
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent).context("the terminal cannot hide the key")?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
