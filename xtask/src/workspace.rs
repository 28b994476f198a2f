//! Where things are in the workspace.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The folder of the root manifest.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The folder of the tools that only the tests and the checks need. Git ignores it; deleting it costs a new download.
pub(crate) fn tools() -> PathBuf {
    root().join(".tools")
}

/// The programs among the tools.
pub(crate) fn tool_bin() -> PathBuf {
    tools().join("bin")
}

/// Where the compiled C guests are. The test harness looks here, whatever `CARGO_TARGET_DIR` says.
pub(crate) fn guests() -> PathBuf {
    root().join("target").join("guests")
}

/// The folders of the crates, below the root.
pub(crate) fn members() -> anyhow::Result<Vec<String>> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    let manifest: toml::Table = manifest.parse().context("Cargo.toml is no TOML")?;
    let members = manifest.get("workspace").and_then(|workspace| workspace.get("members"));
    let members = members.and_then(toml::Value::as_array).context("Cargo.toml names no members")?;
    Ok(members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}
