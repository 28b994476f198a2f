//! An admission that is decided and not durable yet: what runs it is told ahead of the log.
//!
//! ```text
//! entity decides ──► guest begins ─────► its end is reported ─┐
//!        └─────────► commit with the admission ─► ack ────────┴─► commit with the end ─► ack ─► the caller is answered
//! ```
//! The sync of the admission and the guest's run overlap. Nobody outside the process can tell: a guest reaches nothing
//! but its memory and its output, and of its output nobody hears before the end is durable, which it only is on top of
//! the admission. Should the admission not be stored, the run is dropped, as if the process had died before it.

use tokio::sync::oneshot;
use wasmwiz_events::{event::Event, execution::Accepted, revision::Revision, time::Timestamp};

/// An admission as it was decided.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) accepted: Box<Accepted>,
    pub(crate) at: Timestamp,
    /// The stream's revision before the commit that admits it: its end comes after it.
    pub(crate) after: Revision,
}

/// Where an entity tells of an admission, once.
pub(crate) type Ahead = oneshot::Sender<Early>;

/// Tells of the admission among `events`, if there is one.
pub(crate) fn tell(ahead: Ahead, events: &[Event], at: Timestamp, after: Revision) {
    if let Some(Event::ExecutionAccepted(accepted)) = events.first() {
        // Whoever listened may have gone; then its answer goes nowhere, too.
        let _ = ahead.send(Early { accepted: accepted.clone(), at, after });
    }
}
