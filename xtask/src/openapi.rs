//! `cargo xtask openapi`: the copy of the OpenAPI document that the tree has.

use std::fs;

use anyhow::Context;

use crate::{
    process::{command, read, run as run_command},
    workspace,
};

/// Write docs/openapi.json anew, after a change of the API
///
/// Builds the node and keeps what `wasmwiz openapi` prints. A test holds that the copy is the document that is served, so
/// that every change of the API is seen in its diff.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Where the copy is, below the workspace's root.
const COPY: &str = "docs/openapi.json";

pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    // As the tests build it, so that nothing is built twice; it is put beside this program.
    run_command(command("cargo").args(["build", "--workspace", "--all-features", "--bins"]))?;
    let here = std::env::current_exe().context("cannot find this program's own file")?;
    let node = here.with_file_name("wasmwiz");
    let node = node.to_str().context("the workspace's path is not UTF-8")?;
    let document = read(command(node).arg("openapi"))?;
    let copy = workspace::root().join(COPY);
    fs::write(&copy, document + "\n").with_context(|| format!("cannot write {}", copy.display()))?;
    eprintln!("openapi: {COPY} is written; read the diff before you commit it");
    Ok(())
}
