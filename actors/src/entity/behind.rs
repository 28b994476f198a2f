//! An entity that has not read what the log has: how it finds that out when it writes nothing itself.
//!
//! A commit that an owner of before had under way may be stored after this entity has read the stream, until this entity has
//! written: the log compares epochs with the end of the stream, and nothing else marks that there is another owner (ADR 068).
//! With its next commit the entity would learn of it; what it answers without one would be from before.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use ractor::ActorRef;
use wasmwiz_events::{ledger::Head, revision::Epoch};

use super::{Entity, Message, Phase, State, answers::answer, rehydrate};
use crate::{
    handle::{Answer, Pending},
    metrics,
    tenant::Refusal,
};

impl Entity {
    /// Looks how far the stream has come, beside everything else; once at a time.
    pub(super) fn look_for_more(&self, myself: &ActorRef<Message>, state: &mut State) {
        if std::mem::replace(&mut state.is_looking, true) {
            return;
        }
        let (world, id, myself) = (Arc::clone(&self.world), self.id.clone(), myself.clone());
        tokio::spawn(async move {
            // With many in memory, few ask the log at the same time.
            let end = match world.looks.acquire().await {
                Ok(_turn) => world.log.head(&id).await.ok(),
                Err(_) => None,
            };
            // Whoever waits for what is missing reports again, or the next look finds it.
            let _ = myself.send_message(Message::Seen(end));
        });
    }

    /// Looks now and then, until its epoch has a commit in the stream. The first epoch of a log has no owner before it.
    pub(super) fn look_until_written(&self, myself: &ActorRef<Message>, state: &mut State) {
        let Phase::Idle(folded) = &state.phase else { return };
        if self.epoch == Epoch::FIRST || state.has_written {
            return;
        }
        // Once this epoch has written, no other one comes behind it. What an entity before this one had under way in the same epoch
        // still may, for as long as such a thing is offered.
        let awake_ms = self.world.clock.steady().ms_since(state.woken);
        if folded.head.epoch < self.epoch || awake_ms < self.world.offer_within_ms {
            self.look_for_more(myself, state);
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
            // As if it were asked: what it has open needs somebody who looks at its deadlines.
            state.last_asked = self.world.clock.steady();
            self.read_again(myself, state);
        }
    }

    /// Reads the stream anew, in place.
    pub(super) fn read_again(&self, myself: &ActorRef<Message>, state: &mut State) {
        state.phase = Phase::Rehydrating;
        rehydrate::begin(self.id.clone(), Arc::clone(&self.world), myself.clone());
    }

    /// It was awake, and the stream cannot be read at the moment. It stays, as nobody else looks at what it has open: it reads
    /// again when it wakes the next time, or is asked.
    pub(super) fn not_read_again(&self, reason: &Arc<str>, state: &mut State) {
        tracing::warn!(tenant.id = %self.id, %reason, "the stream that has gone on cannot be read; it is tried again");
        for pending in state.waiting.drain(..) {
            answer(pending, Answer::Unavailable(Arc::clone(reason)));
        }
        state.phase = Phase::Unread;
    }

    /// How long until it wakes the first time: those that were woken at once do not look at once.
    pub(super) fn first_wake(&self) -> Duration {
        let mut hasher = DefaultHasher::new();
        self.id.as_str().hash(&mut hasher);
        first_wake(self.world.wake_every_ms, hasher.finish())
    }
}

/// Between the half and the whole of the usual time.
const fn first_wake(every_ms: u64, hash: u64) -> Duration {
    let half = every_ms / 2;
    Duration::from_millis(every_ms - half + hash % (half + 1))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wake_comes_at_other_times_and_never_later_than_the_usual_one() {
        let at = |hash| first_wake(10_000, hash).as_millis();
        assert_eq!(
            [at(0), at(1), at(5_000), at(5_001), at(u64::MAX)],
            [5_000, 5_001, 10_000, 5_000, 5_000 + u128::from(u64::MAX % 5_001)]
        );
        assert_eq!([first_wake(0, 7), first_wake(1, 7)].map(|wake| wake.as_millis()), [0, 1]);
    }
}
