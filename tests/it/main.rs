//! Scenarios across the crates, in one binary: a module a subject.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

mod tidy;

mod bad_input;
mod crash;
mod durable;
mod hostile;
mod lifecycle;
mod rebuild;
mod routes;
mod sweep;
mod tamper;
mod zig;
