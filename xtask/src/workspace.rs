//! Where things are in the workspace.

use std::path::{Path, PathBuf};

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
