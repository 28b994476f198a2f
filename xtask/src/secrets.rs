//! `cargo xtask secrets`: the baseline of what looks like a secret and is none.

use crate::{checks, workspace};

/// Write xtask/checks/secrets.json anew: take what is in the tree now to be no secret
///
/// Read the diff before you commit it: each entry is a file, and the hash of something in it that looks like a secret. What
/// is one must be revoked first.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    checks::tools::install()?;
    checks::accept_secrets(workspace::root())?;
    eprintln!("secrets: xtask/checks/secrets.json is written; read the diff before you commit it");
    Ok(())
}
