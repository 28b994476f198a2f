//! What commands print, and nothing else prints.

use std::{io::Write as _, sync::mpsc::sync_channel, time::Duration};

use clap::ValueEnum;

/// How a command prints its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Prints one line of result to standard output. A reader that has gone (`| head`) is no failure.
pub(super) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints how far a long command is, to standard error: the result stays for programs.
pub(super) fn progress(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error with its causes, each once: some errors tell their cause themselves, for those who see nothing but them.
fn whole(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        before if before.contains(&cause) => told,
        before => format!("{before}: {cause}"),
    })
}

/// How long the end of a process waits for who reads its last words.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Prints an error with its causes to standard error. A pipe that is full does not keep the process from its end.
pub(super) fn error(error: &anyhow::Error) {
    let (text, (said, done)) = (format!("wasmwiz: {}\n", whole(error)), sync_channel(1));
    std::thread::spawn(move || {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        let _ = said.send(());
    });
    let _ = done.recv_timeout(LAST_WORDS_WITHIN);
}

/// Asks something on standard error, and stays on the line.
pub(super) fn prompt(question: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{question}: ").and_then(|()| stderr.flush());
}

/// Draws a line of standard error again, in place; `last` goes on to the next line.
pub(super) fn redraw(line: &str, last: bool) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "\r{line}{}", if last { "\n" } else { "" }).and_then(|()| stderr.flush());
}

/// Writes bytes to standard output as they are. A reader that has gone is no failure.
pub(super) fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Writes bytes to standard error as they are.
pub(super) fn raw_error(bytes: &[u8]) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the disk is full: {0}")]
    struct Telling(#[from] std::io::Error);

    #[test]
    fn a_cause_is_told_once_also_when_the_error_tells_it_too() {
        let error = anyhow::Error::from(Telling(std::io::Error::other("no space"))).context("the log cannot be opened");
        assert_eq!(whole(&error), "the log cannot be opened: the disk is full: no space");
        let silent = anyhow::anyhow!("no space").context("the disk is full");
        assert_eq!(whole(&silent), "the disk is full: no space");
    }
}
