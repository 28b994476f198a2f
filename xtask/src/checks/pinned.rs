//! The workflows and the Dockerfile use the hashes of the lock.

use std::path::Path;

use super::Outcome;
use crate::pins;

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    pins::found(&pins::findings(tree)?)?;
    Ok(Outcome::Passed)
}
