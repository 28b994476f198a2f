//! A simulation of membership and placement: nodes that decide by the pure core of [`wasmwiz_node::cluster`], over simulated
//! servers, networks and clocks, while all of these go wrong as a seed has it.
//!
//! ```text
//! schedule   what the cluster of a seed is like, and what happens to it when
//! world      simulated time, what is under way in it, and chance
//! clocks     what the clocks of a node say
//! keys       the two buckets: compare-and-set, watches, records that become too old
//! streams    the log: publications that are conditional on the end of a stream
//! tasks      several futures side by side, polled in one order
//! node       one life of a node: what it knows, what it asks, what it waits for
//! session    being a member: claims a name, renews a lease, hears the others, leaves
//! work       what a member makes of the table, and who plans
//! serving    takes shards up, releases them, and appends to their streams
//! planted    faults in the shell, to see that they are found
//! witness    what must never be true, held against every step
//! run        one seed, from its beginning to its end
//! campaign   many seeds, on all processors
//! ```
//!
//! The core is the one that nodes run: placement, planner, lease, roster, belief, keeper. The shell here does what that of the
//! node does, in the same order, without its runtime: `session`, `work` and `serving` are read beside
//! `node/src/cluster/{session,agreement,membership}.rs`.
//!
//! What must never be true: that anything but the seed has a say. There is one thread a seed, one order of events, and no clock.

mod campaign;
mod clocks;
mod keys;
mod node;
mod planted;
mod run;
mod schedule;
mod serving;
mod session;
mod streams;
mod tasks;
mod witness;
mod work;
mod world;

use std::time::Duration;

pub use campaign::{Found, SEED, SEEDS, asked_for, campaign};
pub use planted::Planted;
pub use run::{simulate, told};
pub use witness::{Report, Violation};

/// How long a lease lasts, as with a node's own settings. Everything else is measured by it, so its length is of no weight.
const TTL: Duration = Duration::from_millis(TTL_MS);
const TTL_MS: u64 = 3_000;

/// How long before its end a node stops deciding.
const MARGIN: Duration = Duration::from_millis(500);

/// How often a lease is renewed.
const RENEW_EVERY: Duration = Duration::from_millis(TTL_MS / 3);

/// How long an answer of the servers may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(TTL_MS / 4);
