//! What callers are told, and when.

use std::sync::Arc;

use wasmwiz_events::{event::Event, ledger::Head, revision::Position};

use super::State;
use crate::{
    handle::{Answer, Decided, Pending},
    metrics,
    tenant::Command,
};

/// The same answer, now that it is known where the log has it.
pub(super) fn placed(given: Answer, head: &Head, position: Position) -> Answer {
    match given {
        Answer::Decided(decided) => Answer::Decided(Decided { revision: head.revision, position, ..decided }),
        Answer::Refused(_) | Answer::Moved | Answer::NotHere | Answer::Unavailable(_) => given,
    }
}

/// The same answer to one more, when nothing was decided.
pub(super) fn again(given: &Answer) -> Answer {
    match given {
        Answer::Unavailable(reason) => Answer::Unavailable(Arc::clone(reason)),
        Answer::NotHere => Answer::NotHere,
        Answer::Decided(_) | Answer::Refused(_) | Answer::Moved => Answer::Moved,
    }
}

/// Does a command that the entity gives itself wait already?
pub(super) fn waits(state: &State, command: &Command) -> bool {
    state.waiting.iter().any(|pending| pending.ask.command == *command)
}

pub(super) fn answer(pending: Pending, given: Answer) {
    if let Answer::Decided(decided) = &given {
        let lost = decided.events.iter().filter(|event| matches!(event, Event::ExecutionLost(_))).count();
        if lost > 0 {
            ::metrics::counter!(metrics::LOST_TOTAL).increment(lost as u64);
        }
    }
    if let Some(reply) = pending.reply {
        // Whoever asked may have gone; what was decided stands.
        let _ = reply.send(given);
    }
    drop(pending.permit);
}
