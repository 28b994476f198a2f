//! Who decides, and who runs.
//!
//! Each tenant is an **aggregate**: state folded from its stream, a pure `decide` that holds every rule, and an `apply`
//! that holds none ([`tenant`]). An **entity** is a live aggregate: one ractor actor that decides commands in order,
//! appends what it decided as one commit, and answers when the log has it ([`entity`]). The **region** finds or wakes
//! the entity of a tenant behind a bounded handle ([`region`]), if this node owns it; the **bus** finds it wherever it is
//! ([`bus`]). **Executors** are actix actors that run guests in
//! wasmtime ([`executor`]). The **dispatch** takes one execution from admission to its recorded end ([`dispatch`]);
//! what nobody waits for has a place in the **queue** until its turn comes ([`queue`]). Any record can be run again and
//! compared ([`verify`]).
//!
//! **Invariants**
//! - `tenant` and `tenant/*` are pure: no clock, randomness, I/O or `async`.
//! - This crate knows nothing of HTTP, views or configuration files.
//! - No caller learns of a decision before its commit is durable.
//! - Every accepted execution gets exactly one terminal event.

pub mod aggregate;
pub mod limits;
pub mod tenant;

pub mod ids;
pub mod json;

mod ahead;
pub mod bus;
pub mod codec;
pub mod disk_space;
pub mod entity;
pub mod handle;
pub mod ownership;
pub mod queue;
pub mod region;
pub mod shares;
pub mod snapshots;
pub mod topology;

pub mod dispatch;
pub mod executor;
pub mod metrics;
pub mod trace;
pub mod verify;

#[cfg(test)]
mod month_tests;
