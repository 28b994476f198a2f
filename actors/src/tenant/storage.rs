//! What a tenant stores, and how much that may be: the bytes of its modules, and of the inputs and outputs of its executions.
//!
//! ```text
//! stored + what open executions may still write + what is asked for ≤ storage_bytes of the tier
//! ```
//! So an end is never refused: the room for it was taken when its execution was accepted. Artefacts are made again from modules, and
//! are not counted. Whatever is counted stays so until it is released (`retention`).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Finished},
    module::Published,
    retention::{Class, Released},
    revision::Revision,
    settings::Clock,
    time::Timestamp,
    transcript,
};

use super::{
    Refusal,
    retention::{self, Days, Reached, Sum},
};
use crate::limits::{Retention, TierLimits};

/// The modules that came along with executions of which a tenant remembers that it stores them: those that were new last. One that comes
/// again after that is counted again.
const UPLOADS_REMEMBERED: usize = 256;

/// What is counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Storage {
    bytes: u64,
    /// What has come along with executions and is counted, what was new last behind.
    uploads: VecDeque<Upload>,
    /// Where the stream is.
    at: Reached,
    /// How old what is counted is.
    inputs: Days,
    outputs: Days,
    transcripts: Days,
    /// Of modules that are live no more, and of those that came along and are not remembered any more.
    modules: Days,
}

/// A module that came along.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Upload {
    digest: Digest,
    bytes: u64,
    /// Where it did last.
    last: Reached,
}

impl Storage {
    /// Is there room for so many bytes more, beside `reserved_bytes` for what is open?
    pub(super) fn check(&self, needed_bytes: u64, reserved_bytes: u64, limits: &TierLimits) -> Result<(), Refusal> {
        let Some(limit_bytes) = limits.storage() else { return Ok(()) };
        let unused_bytes = limit_bytes.saturating_sub(self.bytes);
        let left_bytes = unused_bytes.saturating_sub(reserved_bytes);
        // Who stores more than the tier allows, by a change of it, may still do what stores nothing.
        if needed_bytes == 0 || needed_bytes <= left_bytes {
            return Ok(());
        }
        // What open executions do not write comes back.
        if needed_bytes <= unused_bytes {
            return Err(Refusal::StorageKeptFree { limit_bytes, left_bytes, needed_bytes });
        }
        Err(Refusal::StorageQuotaExceeded { limit_bytes, left_bytes, needed_bytes })
    }

    /// What is counted.
    #[cfg(test)]
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Has this module come along with an execution before, as far as that is remembered?
    pub(super) fn has_upload(&self, digest: &Digest) -> bool {
        self.uploads.iter().any(|upload| upload.digest == *digest)
    }

    /// The stream has come to this revision, at this time.
    pub(super) fn reach(&mut self, revision: Revision, time: Timestamp) {
        self.at.reach(revision, time);
    }

    /// Where that is.
    pub(super) const fn revision(&self) -> Revision {
        self.at.revision
    }

    /// What is kept no longer. Something open needs what is named from `open` on.
    pub(super) fn release(&self, retention: &Retention, now: Timestamp, open: Option<Revision>) -> Vec<Event> {
        let due = |class| {
            let days = retention.of(class)?;
            let (through, sum) = match class {
                Class::Inputs => self.inputs.due(days, now, open),
                Class::Outputs => self.outputs.due(days, now, open),
                Class::Transcripts => self.transcripts.due(days, now, open),
                Class::Modules => self.modules_due(days, now, open),
            }?;
            Some(retention::event(class, through, sum))
        };
        Class::ALL.into_iter().filter_map(due).collect()
    }

    /// Both kinds of modules: what came along, too, is ordered by where it did last, in the same stream.
    fn modules_due(&self, days: u32, now: Timestamp, open: Option<Revision>) -> Option<(Revision, Sum)> {
        let due = self.uploads.iter().filter(|upload| upload.last.is_due(days, now, open));
        due.fold(self.modules.due(days, now, open), |all, upload| {
            let (through, mut sum) = all.unwrap_or_default();
            sum.add(Sum { payloads: 1, bytes: upload.bytes });
            Some((through.max(upload.last.revision), sum))
        })
    }

    /// Gives back what is counted no longer.
    pub(super) fn released(&mut self, released: &Released) {
        let Released { class, through_revision: through, payloads: _, bytes } = *released;
        self.bytes = self.bytes.saturating_sub(bytes);
        match class {
            Class::Inputs => self.inputs.released(through),
            Class::Outputs => self.outputs.released(through),
            Class::Transcripts => self.transcripts.released(through),
            Class::Modules => {
                self.modules.released(through);
                self.uploads.retain(|upload| upload.last.revision > through);
            }
        }
    }

    /// No version of these modules is live any more.
    pub(super) fn unpublished(&mut self, sizes: Vec<u64>) {
        self.modules.add(self.at, sizes);
    }

    /// `is_stored`: a version with these bytes is live.
    pub(super) const fn published(&mut self, published: &Published, is_stored: bool) {
        if !is_stored {
            self.bytes = self.bytes.saturating_add(published.size_bytes);
        }
    }

    pub(super) fn accepted(&mut self, accepted: &Accepted) {
        self.bytes = self.bytes.saturating_add(accepted_bytes(accepted));
        self.inputs.add(self.at, [accepted.stdin.size_bytes]);
        let (digest, last) = (accepted.module.digest, self.at);
        if let Some(bytes) = accepted.uploaded_bytes {
            if self.uploads.len() >= UPLOADS_REMEMBERED
                && let Some(forgotten) = self.uploads.pop_front()
            {
                self.modules.add(self.at, [forgotten.bytes]);
            }
            self.uploads.push_back(Upload { digest, bytes, last });
        } else if accepted.module.name.is_none() && accepted.rerun_of.is_none() {
            let known = self.uploads.iter_mut().find(|upload| upload.digest == digest);
            known.into_iter().for_each(|upload| upload.last = last);
        }
    }

    pub(super) fn finished(&mut self, finished: &Finished) {
        self.bytes = self.bytes.saturating_add(finished.stored_bytes());
        self.outputs.add(self.at, [finished.stdout.size_bytes, finished.stderr.size_bytes]);
        self.transcripts.add(self.at, finished.transcript().map(|kept| kept.size_bytes));
    }
}

/// What an execution stores at most, from its acceptance to its end.
pub(super) fn at_most_bytes(accepted: &Accepted) -> u64 {
    accepted_bytes(accepted).saturating_add(outputs_max_bytes(accepted))
}

/// What an acceptance stores: the input, and a module that came along and is not stored yet.
fn accepted_bytes(accepted: &Accepted) -> u64 {
    accepted.stdin.size_bytes.saturating_add(accepted.uploaded_bytes.unwrap_or_default())
}

/// What the end of an execution stores at most: all that its guest may write, and all that is kept of what it reads from the host's clocks.
pub(super) fn outputs_max_bytes(accepted: &Accepted) -> u64 {
    let (stdout_bytes, stderr_bytes) = (accepted.limits.stdout_bytes, accepted.limits.stderr_bytes);
    let transcript_bytes = match accepted.clock {
        Clock::Virtual => 0,
        Clock::Host => transcript::max_bytes(stdout_bytes),
    };
    stdout_bytes.saturating_add(stderr_bytes).saturating_add(transcript_bytes)
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{event::Event, execution::Content, settings::Settings, tenant::Tier};

    use super::*;
    use crate::{
        limits::Policy,
        tenant::{Again, Command, Configured, Execute, Rerun, scenario::*},
    };

    const MIB: u64 = 1 << 20;

    /// What an execution of a pro tenant may write, in these tests.
    const OUTPUTS: u64 = 2 * MIB;

    /// A tier that may store so much, and whose guests may write a MiB to each output.
    fn policy(storage_bytes: u64) -> Policy {
        let mut policy = Policy::default();
        (policy.pro.storage_bytes, policy.pro.stdout_bytes, policy.pro.stderr_bytes) = (storage_bytes, MIB, MIB);
        policy
    }

    fn full(limit_bytes: u64, left_bytes: u64, needed_bytes: u64) -> Refusal {
        Refusal::StorageQuotaExceeded { limit_bytes, left_bytes, needed_bytes }
    }

    fn kept_free(limit_bytes: u64, left_bytes: u64, needed_bytes: u64) -> Refusal {
        Refusal::StorageKeptFree { limit_bytes, left_bytes, needed_bytes }
    }

    /// The same request with an input of so many bytes.
    fn with_input(command: Command, size_bytes: u64) -> Command {
        let Command::Execute(execute) = command else { unreachable!() };
        let stdin = Content { size_bytes, ..execute.stdin };
        Command::Execute(Box::new(Execute { stdin, ..*execute }))
    }

    #[test]
    fn an_execution_is_accepted_if_its_input_and_all_that_it_may_write_have_room() {
        // The module is of three bytes.
        let run =
            |storage_bytes| given(ready()).by(K1).under(policy(storage_bytes)).when(with_input(execute(HELLO), 10));
        run(3 + 10 + OUTPUTS).then_accepted();
        run(3 + 10 + OUTPUTS - 1).then_refused(full(3 + 10 + OUTPUTS - 1, 10 + OUTPUTS - 1, 10 + OUTPUTS));
        // A tier without a limit has none.
        run(0).then_accepted();
        let preview = Command::Preview(Box::new(execute(HELLO)));
        given(ready()).by(K1).under(policy(4)).when(preview).then_refused(full(4, 1, 2 + OUTPUTS));
    }

    #[test]
    fn what_open_executions_may_write_is_kept_free_until_they_end_and_an_end_always_has_its_room() {
        // Two are open, with an input of two bytes each.
        let history = || running().into_iter().chain([accepted(2)]);
        let stored = 3 + 2 + 2;
        let limit = stored + 3 * OUTPUTS;
        given(history()).by(K1).under(policy(limit + 2)).when(execute(HELLO)).then_accepted();
        let refused = kept_free(limit + 1, OUTPUTS + 1, OUTPUTS + 2);
        given(history()).by(K1).under(policy(limit + 1)).when(execute(HELLO)).then_refused(refused);
        // One that has ended keeps what it wrote, three bytes, and nothing else.
        let ended = || history().chain([finished(1)]);
        given(ended()).by(K1).under(policy(stored + 3 + 2 * OUTPUTS + 2)).when(execute(HELLO)).then_accepted();
        let refused = kept_free(stored + 3 + 2 * OUTPUTS + 1, OUTPUTS + 1, OUTPUTS + 2);
        given(ended()).by(K1).under(policy(stored + 3 + 2 * OUTPUTS + 1)).when(execute(HELLO)).then_refused(refused);
        // One that was lost wrote nothing.
        let gone = history().chain([lost(1)]);
        given(gone).by(K1).under(policy(stored + 2 * OUTPUTS + 2)).when(execute(HELLO)).then_accepted();
        // However little a tier allows by then, what was accepted ends.
        given(history()).under(policy(1)).when(finish(1)).then([finished(1)]);
        given(history()).under(policy(1)).in_life(2).when(Command::Reap).then([lost(1), lost(2)]);
    }

    #[test]
    fn what_waits_for_its_turn_has_its_room_too() {
        let history = ready().into_iter().chain([queued(1), queued(2)]);
        let limit = 3 + 2 + 2 + 2 * OUTPUTS + 1;
        given(history).by(K1).under(policy(limit)).when(execute(HELLO)).then_refused(kept_free(limit, 1, OUTPUTS + 2));
    }

    #[test]
    fn what_would_have_room_if_nothing_were_open_is_refused_for_a_while_and_what_would_have_none_is_for_good() {
        // Given one that is open, and room for it and little more beside the module and its input.
        let module = |size_bytes: u64| {
            let Command::PublishModule { name, digest, kind, imports, exports, .. } = publish(HELLO, b"two") else {
                unreachable!()
            };
            Command::PublishModule { name, digest, size_bytes, kind, imports, exports }
        };
        let (stored, limit) = (3 + 2, 3 + 2 + OUTPUTS + 7);
        let ask = |size_bytes| given(running()).by(K1).under(policy(limit)).when(module(size_bytes));
        // When a module is published that has room beside it, then it is.
        ask(7).then_published(HELLO, 2);
        // When it has room without it, or not even then, it is told so.
        ask(8).then_refused(kept_free(limit, 7, 8));
        ask(limit - stored).then_refused(kept_free(limit, 7, OUTPUTS + 7));
        ask(limit - stored + 1).then_refused(full(limit, 7, OUTPUTS + 8));
        // Where as much is kept free as there is, or more, nothing is left.
        let crowded = given(running()).by(K1).under(policy(stored + 9)).when(module(9));
        crowded.then_refused(kept_free(stored + 9, 0, 9));
    }

    #[test]
    fn room_for_a_transcript_is_kept_where_the_guest_reads_the_hosts_clocks() {
        let host = Settings { clock: Clock::Host, ..Settings::default() };
        let history = || ready().into_iter().chain([published_with(HELLO, 2, host)]);
        let run = |storage_bytes| {
            let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
            let configured = Configured { settings: host, ..Execute::clone(&execute).into() };
            given(history()).by(K1).under(policy(storage_bytes)).when(Command::Configured(configured))
        };
        // Both versions have the same bytes.
        let needed = 2 + OUTPUTS + MIB;
        run(3 + needed).then_accepted();
        run(3 + needed - 1).then_refused(full(3 + needed - 1, needed - 1, needed));
    }

    #[test]
    fn bytes_that_a_live_version_has_are_stored_once_and_those_of_a_deleted_one_stay_counted() {
        let ask = |history: Vec<Event>, limit, name, bytes: &[u8]| {
            given(history).by(K1).under(policy(limit)).when(publish(name, bytes))
        };
        ask(ready(), 8, HELLO, b"three").then_published(HELLO, 2);
        ask(ready(), 7, HELLO, b"three").then_refused(full(7, 4, 5));
        // The same bytes under another name, or again after others, take no more; also of who is over the limit.
        ask(ready(), 1, "other", b"one").then_published("other", 1);
        let again = || -> Vec<Event> { ready().into_iter().chain([published_as(HELLO, 2, b"three")]).collect() };
        ask(again(), 8, HELLO, b"one").then_published(HELLO, 3);
        ask(again(), 8, HELLO, b"four").then_refused(full(8, 0, 4));
        // What is deleted is not gone.
        let emptied = || -> Vec<Event> { again().into_iter().chain([deleted(HELLO)]).collect() };
        ask(emptied(), 8, "other", b"one").then_refused(full(8, 0, 3));
        ask(emptied(), 11, "other", b"one").then_published("other", 1);
        // Of two names with the same bytes one is deleted.
        let one_of_two = ready().into_iter().chain([published_as("other", 1, b"one"), deleted("other")]).collect();
        ask(one_of_two, 3, "third", b"one").then_published("third", 1);
    }

    #[test]
    fn a_module_that_comes_along_is_stored_once_and_noted_where_it_is_new() {
        let run =
            |history: Vec<Event>, limit, wasm: &[u8]| given(history).by(K1).under(policy(limit)).when(upload(9, wasm));
        let needed = 2 + OUTPUTS;
        assert_eq!(run(ready(), 3 + 6 + needed, b"upload").accepted().uploaded_bytes, Some(6));
        run(ready(), 3 + 5 + needed, b"upload").then_refused(full(3 + 5 + needed, 5 + needed, 6 + needed));
        // The bytes of a live version, and those that came along before.
        assert_eq!(run(ready(), 3 + needed, b"one").accepted().uploaded_bytes, None);
        let before = || -> Vec<Event> { ready().into_iter().chain([uploaded(1, b"upload", 6), finished(1)]).collect() };
        assert_eq!(run(before(), 3 + 6 + 2 + 3 + needed, b"upload").accepted().uploaded_bytes, None);
        assert_eq!(run(before(), 0, b"another").accepted().uploaded_bytes, Some(7));
        // Those that were new last are remembered.
        let many = |n: u32| -> Vec<Event> {
            let more = (0..n).flat_map(|n| [uploaded(n.into(), &n.to_be_bytes(), 4), finished(n.into())]);
            before().into_iter().chain(more).collect()
        };
        let remembered = u32::try_from(UPLOADS_REMEMBERED).unwrap();
        assert_eq!(run(many(remembered - 1), 0, b"upload").accepted().uploaded_bytes, None);
        assert_eq!(run(many(remembered), 0, b"upload").accepted().uploaded_bytes, Some(6));
    }

    #[test]
    fn a_rerun_of_a_module_that_came_along_stores_no_module() {
        let Command::Execute(execute) = upload(9, b"upload") else { unreachable!() };
        let rerun = Command::Rerun(Rerun { of: execution_id(1), start_time: None, execute: execute.clone() });
        assert_eq!(given(ready()).by(K1).when(rerun).accepted().uploaded_bytes, None);
        let of = Some(Again { id: execution_id(1), start_time: None });
        let configured = Command::Configured(Configured { of, ..(*execute).into() });
        assert_eq!(given(ready()).by(K1).when(configured).accepted().uploaded_bytes, None);
    }

    #[test]
    fn a_tenant_that_is_over_the_limit_of_its_tier_keeps_what_it_has_and_adds_nothing() {
        let smaller = Event::TenantTierChanged(wasmwiz_events::tenant::TierChanged { tier: Tier::Free });
        let history = || running().into_iter().chain([smaller.clone()]);
        let mut policy = policy(0);
        policy.free.storage_bytes = 1;
        let story = || given(history()).by(K1).under(policy);
        let needed = 2 + 2 * MIB;
        story().when(execute(HELLO)).then_refused(full(1, 0, needed));
        story().when(publish(HELLO, b"two")).then_refused(full(1, 0, 3));
        story().when(Command::DeleteModule { name: module_name(HELLO) }).events();
        story().when(Command::IssueKey(new_key(K2))).events();
    }
}
