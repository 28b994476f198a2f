//! What WasmWiz may be asked: five views, each the fold of the log up to its checkpoint.
//!
//! ```text
//!              ┌─► keys        who may come in, in memory for authentication
//!              ├─► modules     what can be run
//!  EventLog ───┼─► executions  what ran, one row each
//!              ├─► usage       what it cost, counters by hour
//!              └─► audit       where to find it in the log: an index, not a copy
//! ```
//! Every view has one thread, one SQLite file (`views/<name>.v<version>.db`) and one [`checkpoint::Checkpoint`], which
//! moves in the same transaction as the rows. A view is disposable: delete its file and it folds the log again.
//!
//! **Invariants**
//! - A view equals the fold of the log at its checkpoint, however often the process died on the way.
//! - Folding asks no clock, no network and no randomness; the same log gives the same rows, byte for byte.
//! - No event is skipped in silence. A commit that cannot be read or folded sets its stream aside ([`SetAside`]): the view
//!   tells nothing of that tenant until the stream is folded to its end, and goes on with all others. Where it cannot be told
//!   whose commit it is, the view stops and stays readable; the other views go on.
//! - A query names its tenant and never returns a row of another one.

mod checksum;
mod dictionary;
mod progress;
mod projection;
mod quarantine;
mod readers;
mod rebuild;
mod row;
mod runner;

pub mod checkpoint;
pub mod metrics;
pub mod page;

pub mod audit;
pub mod executions;
pub mod keys;
pub mod modules;
pub mod usage;

pub mod views;

pub use page::{Listed, Page};
pub use progress::{Behind, State, ViewStatus};
pub use quarantine::SetAside;
pub use readers::QueryError;
pub use views::{Config, OpenError, Views};

#[cfg(test)]
mod testing;
