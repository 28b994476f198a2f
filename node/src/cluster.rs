//! Membership and placement: which nodes there are, and which of them owns which shard.
//!
//! ```text
//! member      what a node says of itself, renewed before its lease ends        bucket WASMWIZ_MEMBERS
//! placement   the table of owners, and the pure `plan` from one to the next     bucket WASMWIZ_CLUSTER
//! planner     who plans, and what a plan may rest on
//! lease       until when a node may decide without having heard from anybody
//! roster      who is heard, and who has been silent for a whole lease
//! belief      what this node takes to be so: table, lease and what is taken up
//! buckets     the two buckets, changed by compare-and-set only
//! agreement   the table in its bucket: read, founded, changed
//! session     what a member does while it is connected
//! membership  the member: starts, recovers, leaves; answers from memory
//! transport   commands from node to node
//! seat        all of that, for a node that is a member
//! status      what a member knows, for people
//! ```
//!
//! A placement only says who should try (see `wasmwiz_actors::ownership`). What must never be true all the same: that two
//! nodes believe that they own a shard in one epoch. `docs/adr/035-leases-table-and-fence.md` has the times that this
//! rests on.

mod agreement;
pub mod belief;
pub mod buckets;
pub mod clock;
pub mod config;
pub mod keeper;
pub mod lease;
pub mod member;
pub mod membership;
pub mod placement;
pub mod planner;
pub mod roster;
pub mod seat;
mod session;
pub mod shards;
mod status;
pub mod transport;
