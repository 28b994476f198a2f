//! The command line as a client of a node, and offline.

mod commands;
mod compat;
mod guide;
mod operator;
mod pages;
mod recompute;
mod terminal;

use anyhow::ensure;
use wasmwiz_tests::cli::Ended;

/// The command must end with this code; shows what it said when it does not. Gives its standard output.
fn ends(ended: Ended, code: i32) -> anyhow::Result<String> {
    ensure!(ended.code == Some(code), "expected exit code {code}: {ended:?}");
    Ok(ended.stdout)
}
