//! The commands that ask a node over HTTP: a client of the API like any other.
//!
//! ```text
//! command ─► Connect (profile, flags, environment) ─► Api (bounds, deadlines) ─► node
//!    └─► render: a table for people, JSON or YAML for programs
//! ```
//! Nothing here reads a data folder, and nothing prints a key but when it is issued. `doctor` asks the servers of NATS, too, when it is
//! given a node's configuration.

mod asking;
pub mod audit;
mod back_test;
mod checks;
pub mod cluster;
mod connect;
mod deployment;
pub mod doctor;
pub mod exec;
pub(super) mod failure;
mod file;
mod finding;
mod http;
pub mod key;
pub mod login;
pub mod module;
mod outputs;
mod patient;
mod profile;
mod progress;
mod prompt;
mod render;
mod rerun;
pub mod run;
mod servers;
pub mod status;
mod table;
pub mod tenant;
mod topology;
pub mod usage;
mod verify;
pub mod views;
mod yaml;

pub use connect::Connect;
pub use failure::{Failure, exit_code};
pub use render::Format;

/// Runs a command's requests to their end.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}
