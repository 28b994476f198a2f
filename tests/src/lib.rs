//! The harness of the scenarios: the real binary as a process, clients for its edges, and guests to run.
//!
//! Everything here gives an error that says what to do or to look at, and no test needs to know a port or a path. A
//! scenario waits for a condition with a deadline, never for time to pass.

pub mod guests;
pub mod wait;

pub mod cli;
pub mod damage;
pub mod disk;
pub mod folder;
pub mod harness;
pub mod hosts;
pub mod python;
pub mod terminal;
pub mod wall_clock;

pub mod client;
pub mod cluster;
pub mod collector;
pub mod contract;
pub mod cpu;
pub mod fleet;
pub mod greed;
pub mod http2;
pub mod metrics;
pub mod nats;
pub mod prometheus;
pub mod raw;
pub mod sse;
pub mod subscriber;
pub mod tenants;
pub mod tls;
pub mod told;
pub mod wire;

pub mod chance;
pub mod echoes;
pub mod history;
pub mod load;
pub mod memory;
pub mod past;
pub mod promises;
pub mod simulation;
pub mod times;
pub mod turns;
pub mod upgrade;
