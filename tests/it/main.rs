//! Scenarios across the crates, in one binary: a module a subject.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

mod tidy;

mod access;
mod bad_input;
mod cli;
mod clients;
mod clocks;
mod cluster;
mod contract;
mod crash;
mod dashboard;
mod durable;
mod feed;
mod fleet;
mod full_disk;
mod full_log;
mod guides;
mod hardening;
mod hostile;
mod idempotency;
mod jetstream;
mod lifecycle;
mod neighbours;
mod operators;
mod quarantine;
mod rebuild;
mod replaced;
mod reproduce;
mod rerun;
mod retention;
mod routes;
mod settings;
mod shares;
mod simulation;
mod stalled;
mod stopping;
mod storage;
mod sweep;
mod tamper;
mod traces;
mod upgrade;
mod versions;
mod zig;
