//! `cargo xtask k8s rehearse`: the whole way of a version, with containers in the place of pods.

mod callers;
mod story;

use std::path::PathBuf;

use super::trial::Stand;

/// Go the whole way with containers in the place of pods: staging, production, an update under load, a broken build, and back
///
/// Staging comes up with its two nodes and passes the smoke test. Production comes up with the previous version; callers begin
/// to send executions through its service and go on to the end. The nodes are replaced by the new version one after the other,
/// the highest first; then a build that does not start is tried, and taken back; then the previous version is asked whether it can
/// read the log, and the nodes go back to it. At the end every answer that callers got has to be in the log with that outcome, no
/// execution is lost, the history is verified, and at most one in a thousand requests may have failed. Each change leaves its record.
/// Wants what `cargo xtask k8s try` wants.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    images: Stand,
    /// What stands for our image in the version before; the new one again where none is given
    #[arg(long, value_name = "IMAGE")]
    previous: Option<String>,
    /// How many callers there are at a time
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    callers: usize,
    /// Where the records go
    #[arg(long, value_name = "FOLDER", default_value = "target/k8s/rehearsal")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    story::tell(arguments)
}
