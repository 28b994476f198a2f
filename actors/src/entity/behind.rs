//! An entity that has not read what the log has: how it finds that out when it writes nothing itself.
//!
//! A commit that an owner of before had under way may be stored after this entity has read the stream, until this entity has
//! written: the log compares epochs with the end of the stream, and nothing else marks that there is another owner (ADR 068).
//! With its next commit the entity would learn of it; what it answers without one would be from before.

use std::sync::Arc;

use ractor::ActorRef;
use wasmwiz_events::{ledger::Head, revision::Epoch};

use super::{Entity, Message, Phase, State, rehydrate};
use crate::{
    handle::{Answer, Pending},
    metrics,
    tenant::Refusal,
};

impl Entity {
    /// Looks how far the stream has come, beside everything else.
    pub(super) fn look_for_more(&self, myself: &ActorRef<Message>) {
        let (log, id, myself) = (Arc::clone(&self.world.log), self.id.clone(), myself.clone());
        tokio::spawn(async move {
            // Whoever waits for what is missing reports again, or the next look finds it.
            if let Ok(head) = log.head(&id).await {
                let _ = myself.send_message(Message::Seen(head));
            }
        });
    }

    /// Looks now and then, until it has written. The first epoch of a log has no owner before it.
    pub(super) fn look_until_written(&self, myself: &ActorRef<Message>, state: &State) {
        if self.epoch > Epoch::FIRST && !state.has_written && state.is_idle() {
            self.look_for_more(myself);
        }
    }

    /// Reads on if the stream has gone on without this entity: nothing is decided, nor answered, on what it was before.
    pub(super) fn seen(&self, end: Head, myself: &ActorRef<Message>, state: &mut State) {
        // With something in flight the log says so itself.
        if matches!(&state.phase, Phase::Idle(folded) if folded.head.revision < end.revision) {
            tracing::info!(tenant.id = %self.id, revision = %end.revision, epoch = %end.epoch, "the stream has gone on; it is read again");
            if end.epoch < self.epoch {
                ::metrics::counter!(metrics::OVERTAKEN_TOTAL).increment(1);
            }
            state.phase = Phase::Rehydrating;
            rehydrate::begin(self.id.clone(), Arc::clone(&self.world), myself.clone());
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
