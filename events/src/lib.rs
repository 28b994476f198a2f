//! What WasmWiz may remember, and where.
//!
//! A tenant is one **stream** of events; the **log** holds the streams of all tenants in one order. The unit of append
//! is a [`commit::Commit`]: 1..N events of one tenant, decided together and durable together, hash-chained to the commit
//! before it. Everything else in the platform (entities, views, the feed) is derived from the log and can be rebuilt.
//!
//! Reading order: ids and small values, the events themselves, how they are written down, and the log.
//!
//! **Invariants**
//! - This crate depends on no other crate of the workspace.
//! - A stored byte never changes; an event is never deleted. Shapes evolve by [`upcast`].
//! - No event holds a secret or payload bytes: only digests and sizes.
//! - Files, sockets and clocks appear only below `log/`, `blobs/`, `nats/`, `feed/` and in [`time::SystemClock`].

pub mod digest;
pub mod id;
pub mod idempotency;
pub mod revision;
pub mod shard;
pub mod time;

pub mod execution;
pub mod key;
pub mod module;
pub mod reproducibility;
pub mod requests;
pub mod retention;
pub mod settings;
pub mod skip;
pub mod tenant;
pub mod transcript;
pub mod verification;

pub mod envelope;
pub mod event;
pub mod upcast;

pub mod commit;
pub mod ledger;
pub mod payload;

pub mod blobs;
pub mod log;

pub mod nats;

pub mod feed;

pub mod audit;
pub mod compat;
pub mod copy;
pub mod metrics;
