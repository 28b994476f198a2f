//! The HTTP edge of WasmWiz.

pub mod auth;
pub mod metrics;
pub mod problem;
pub mod server;
