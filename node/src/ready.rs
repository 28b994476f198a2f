//! The ready file: what a script needs to know of a node that serves.

use std::{io::Write as _, path::Path};

use serde::{Deserialize, Serialize};

/// Written as JSON, in one piece, once the node serves. Its file is readable by its owner only: it holds keys.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Base of the API, for instance `http://127.0.0.1:8080`.
    pub url: String,
    /// Base of metrics and probes.
    pub admin_url: String,
    /// The tenant that the key belongs to.
    pub tenant: Option<String>,
    /// An API key of that tenant.
    pub api_key: Option<String>,
    /// An operator's API key.
    pub operator_token: Option<String>,
    /// Process id of the node.
    pub pid: u32,
}

impl Ready {
    /// Writes the file: a reader sees all of it or none.
    ///
    /// # Errors
    /// When the file cannot be written beside its final name and renamed.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        write(self, path)
    }
}

/// Writes what a script needs to know, readable by its owner only: a reader sees all of it or none.
///
/// # Errors
/// When the file cannot be written beside its final name and renamed.
pub fn write(ready: &impl Serialize, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let partial = path.with_extension("partial");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(ready)?)?;
    file.write_all(b"\n")?;
    drop(file);
    std::fs::rename(partial, path)
}
