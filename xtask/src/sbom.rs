//! `cargo xtask sbom`: what the node is made of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    process::{command, run as run_command},
    setup, workspace,
};

/// Write what the node is made of, as CycloneDX
///
/// Every crate that the program is linked with for this machine's target, its version, licence and hash, by cargo-cyclonedx.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// What cargo-cyclonedx calls the file, which it puts beside the manifest of every member.
const NAME: &str = "wasmwiz-sbom";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    write(&arguments.output)
}

/// Writes it there.
pub(crate) fn write(output: &Path) -> anyhow::Result<()> {
    setup::for_sbom()?;
    let mut bill = command("cargo");
    bill.args(["cyclonedx", "--manifest-path", "node/Cargo.toml", "--format", "json", "--spec-version", "1.5"]);
    // The program, without what only builds it.
    run_command(bill.args(["--no-build-deps", "--override-filename", NAME]))?;
    let made = |member: &str| workspace::root().join(member).join(NAME).with_extension("json");
    fs::copy(made("node"), output).with_context(|| format!("cannot write {}", output.display()))?;
    for file in workspace::members()?.iter().map(|member| made(member)).filter(|file| file.is_file()) {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    eprintln!("sbom: {} is written", output.display());
    Ok(())
}
