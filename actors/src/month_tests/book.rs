//! What a tenant stores, counted by its events alone and payload by payload: slower than its entity does it, and in another way.

use std::collections::{BTreeMap, VecDeque};

use wasmwiz_events::{
    event::Event,
    execution::Accepted,
    id::ExecutionId,
    retention::{Class, Released},
    revision::Revision,
    settings::Clock,
    transcript,
};

/// A payload: where it was named, and how many bytes it has.
type Named = (Revision, u64);

#[derive(Debug, Default)]
pub(super) struct Book {
    at: Revision,
    stored_bytes: u64,
    inputs: VecDeque<Named>,
    outputs: VecDeque<Named>,
    transcripts: VecDeque<Named>,
    /// Of all modules that are not released, live or not. Each has bytes of its own here.
    modules_bytes: u64,
    /// What the ends of open executions may still write, and all of it together.
    open: BTreeMap<ExecutionId, u64>,
    kept_free_bytes: u64,
}

impl Book {
    pub(super) const fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// What is neither stored nor kept free.
    pub(super) const fn left_bytes(&self, limit_bytes: u64) -> u64 {
        limit_bytes.saturating_sub(self.stored_bytes).saturating_sub(self.kept_free_bytes)
    }

    /// What is stored and what may still be by what is open.
    pub(super) const fn taken_bytes(&self) -> u64 {
        self.stored_bytes + self.kept_free_bytes
    }

    /// The next event of the stream.
    pub(super) fn note(&mut self, event: &Event) {
        self.at = self.at.next();
        match event {
            Event::ModulePublished(published) => self.module(published.size_bytes),
            Event::ExecutionAccepted(accepted) => {
                self.module(accepted.uploaded_bytes.unwrap_or_default());
                self.payload(Class::Inputs, accepted.stdin.size_bytes);
                let most_bytes = outputs_max_bytes(accepted);
                self.kept_free_bytes += most_bytes;
                assert_eq!(self.open.insert(accepted.execution_id, most_bytes), None, "it was accepted before");
            }
            Event::ExecutionFinished(finished) => {
                let most_bytes = self.open.remove(&finished.execution_id).expect("it was not open");
                self.kept_free_bytes -= most_bytes;
                let before = self.stored_bytes;
                self.payload(Class::Outputs, finished.stdout.size_bytes);
                self.payload(Class::Outputs, finished.stderr.size_bytes);
                self.payload(Class::Transcripts, finished.transcript().map_or(0, |kept| kept.size_bytes));
                assert!(self.stored_bytes - before <= most_bytes, "an end had no room");
            }
            Event::PayloadsReleased(released) => self.released(released),
            Event::TenantRegistered(_) | Event::KeyIssued(_) | Event::ModuleDeleted(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    const fn module(&mut self, bytes: u64) {
        self.modules_bytes += bytes;
        self.stored_bytes += bytes;
    }

    fn payload(&mut self, class: Class, bytes: u64) {
        if bytes > 0 {
            self.stored_bytes += bytes;
            let at = self.at;
            self.of(class).push_back((at, bytes));
        }
    }

    fn of(&mut self, class: Class) -> &mut VecDeque<Named> {
        match class {
            Class::Inputs => &mut self.inputs,
            Class::Outputs => &mut self.outputs,
            Class::Transcripts => &mut self.transcripts,
            Class::Modules => unreachable!("modules are counted together"),
        }
    }

    /// What is released is what was named up to there, no more and no less. Of modules, which are live for a while, it is no more
    /// than there was.
    fn released(&mut self, released: &Released) {
        let Released { class, through_revision: through, payloads, bytes } = *released;
        assert!(through < self.at && payloads > 0 && bytes > 0, "{released:?}");
        self.stored_bytes -= bytes;
        if class == Class::Modules {
            self.modules_bytes =
                self.modules_bytes.checked_sub(bytes).expect("more modules are released than there were");
            return;
        }
        let mut gone = (0, 0);
        let named = self.of(class);
        while let Some((revision, bytes)) = named.front().copied()
            && revision <= through
        {
            named.pop_front();
            gone = (gone.0 + 1, gone.1 + bytes);
        }
        assert_eq!((payloads, bytes), gone, "{released:?}");
    }
}

/// All that a guest may write, and all that is kept of what it reads from the host's clocks.
fn outputs_max_bytes(accepted: &Accepted) -> u64 {
    let limits = &accepted.limits;
    let transcript_bytes = match accepted.clock {
        Clock::Virtual => 0,
        Clock::Host => transcript::max_bytes(limits.stdout_bytes),
    };
    limits.stdout_bytes + limits.stderr_bytes + transcript_bytes
}
