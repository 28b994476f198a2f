//! An entity that has not read what the log has: how it finds that out when it writes nothing itself.

use std::sync::Arc;

use ractor::ActorRef;
use wasmwiz_events::revision::Revision;

use super::{Entity, Message, Phase, State};
use crate::{
    handle::{Answer, Pending},
    tenant::Refusal,
};

impl Entity {
    /// Looks how far the stream has come, beside everything else. A commit that an owner of before had on its way may be stored
    /// after this entity has read the stream; otherwise it would find that out with its own next commit, and a quiet tenant has none.
    pub(super) fn look_for_more(&self, myself: &ActorRef<Message>) {
        let (log, id, myself) = (Arc::clone(&self.world.log), self.id.clone(), myself.clone());
        tokio::spawn(async move {
            // Whoever reports does so again.
            if let Ok(head) = log.head(&id).await {
                let _ = myself.send_message(Message::Seen(head.revision));
            }
        });
    }

    /// Stops if the stream has gone on without this entity: the next one reads all of it.
    pub(super) fn seen(&self, end: Revision, state: &mut State) {
        // With something in flight the log says so itself.
        if matches!(&state.phase, Phase::Idle(folded) if folded.head.revision < end) {
            self.stop(state, "behind", &Answer::Moved);
        }
    }
}

/// Does somebody report of what is not there? Then it may be in the log all the same.
pub(super) fn finds_nothing(pending: &Pending, given: &Answer) -> bool {
    let nothing = match given {
        Answer::Refused(refusal) => *refusal == Refusal::ExecutionNotOpen,
        Answer::Decided(decided) => decided.events.is_empty(),
        Answer::Moved | Answer::NotHere | Answer::Unavailable(_) => false,
    };
    nothing && pending.reply.is_some() && pending.ask.command.is_report()
}
