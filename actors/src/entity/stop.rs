//! How an entity ends: with what it knows kept, and with an answer for whoever waits.

use super::{
    Answer, Entity, Phase, State,
    answers::{again, answer},
};
use crate::metrics;

impl Entity {
    /// A younger owner has written: this node's epoch is over for the whole shard, whatever it is told of the ownership.
    pub(super) fn stop_fenced(&self, state: &mut State) {
        self.world.shards.close(self.shard, self.epoch);
        self.stop(state, "fenced", &Answer::NotHere);
    }

    pub(super) fn retire(&self, state: &mut State) {
        if let Phase::Appending(_, flight) = &mut state.phase {
            flight.retiring = true;
        } else {
            self.leave(state, "retired");
        }
    }

    /// Stops with nothing in flight: the state is kept for the next one.
    pub(super) fn leave(&self, state: &mut State, reason: &'static str) {
        if let Phase::Idle(folded) = &mut state.phase {
            self.world.kept.at_rest(folded, self.world.clock.moment());
        }
        self.stop(state, reason, &Answer::Moved);
    }

    /// Answers what waits, and never decides again.
    pub(super) fn stop(&self, state: &mut State, reason: &'static str, given: &Answer) {
        tracing::debug!(tenant.id = %self.id, reason, "the entity stops");
        ::metrics::counter!(metrics::ENTITY_STOPS_TOTAL, "reason" => reason).increment(1);
        for pending in state.waiting.drain(..) {
            answer(pending, again(given));
        }
        state.phase = Phase::Retired;
    }
}
