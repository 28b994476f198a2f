//! The node: the composition root of WasmWiz and its command line.
//!
//! [`app`] is the one place that knows every concrete type: it opens the log, starts the executors, the region, the
//! views and the gateway in that order, and stops them in the other. It wires and decides nothing. [`config`] names
//! every setting with its unit. [`cli`] has one command a file.
//!
//! **Invariants**
//! - Nothing depends on this crate but the tests.
//! - A node that has lost its log stops; it never serves from memory alone.
//! - No secret is printed except a key's, once, when it is issued.

pub mod app;
pub mod bootstrap;
mod certificates;
pub mod cli;
pub mod cluster;
pub mod config;
mod descriptors;
pub mod disk;
pub mod folder;
mod here;
pub mod image;
pub mod ready;
pub mod retention;
pub mod shutdown;
pub mod store;
mod sweep;
pub mod telemetry;
pub mod token_keys;
