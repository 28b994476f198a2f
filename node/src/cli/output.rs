//! What commands print, and nothing else prints.

use std::io::Write as _;

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

/// Prints an error with its causes to standard error.
pub(super) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr().lock(), "wasmwiz: {error:#}");
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
