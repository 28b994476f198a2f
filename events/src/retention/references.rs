//! Which of some blobs the log names: its commits are read from the first on, and what is not named at the end may be removed.
//!
//! ```text
//! a version that is live ─┐
//! an open execution ──────┼─► named
//! an event that is not released yet ─┘
//! ```
//! **Must never be true**: a blob that something names is among the unnamed. So nothing is unnamed where anything of the log is not
//! understood, or a commit is missing. And what names a digest anew is a new type of event, see [`payloads_of`].

use std::collections::{HashMap, HashSet};

use super::{Class, Through};
use crate::{
    commit::Recorded,
    digest::Digest,
    envelope::{BadBody, Envelope},
    event::Event,
    execution::Finished,
    id::{ExecutionId, ModuleName, TenantId},
    ledger::Head,
    revision::Revision,
};

/// What of the log names some blobs. Its size follows from how many blobs are asked about, from the tenants, and from what is open.
#[derive(Debug, Default)]
pub struct References {
    asked: HashSet<Digest>,
    streams: HashMap<TenantId, Stream>,
    is_understood: bool,
}

/// What one stream says.
#[derive(Debug, Default)]
struct Stream {
    /// Where the last commit has ended; `None` before the first.
    head: Option<Head>,
    through: Through,
    /// The last event that names a blob, by class.
    last: HashMap<(Digest, Class), Revision>,
    live: HashMap<(ModuleName, u32), Digest>,
    open: HashMap<ExecutionId, [Digest; 2]>,
}

impl References {
    /// Nothing is read yet.
    pub fn of(asked: impl IntoIterator<Item = Digest>) -> Self {
        Self { asked: asked.into_iter().collect(), streams: HashMap::new(), is_understood: true }
    }

    /// Takes note of a commit. All of the log are to be given, in its order.
    ///
    /// # Errors
    /// [`BadBody`]: nobody knows what it names.
    pub fn fold(&mut self, recorded: &Recorded) -> Result<(), BadBody> {
        let events = recorded.commit.events().inspect_err(|_| self.is_understood = false)?;
        let stream = self.streams.entry(recorded.commit.tenant().clone()).or_default();
        // What is missing between two commits may name any of them.
        self.is_understood &= stream.goes_on(recorded);
        for envelope in events.iter() {
            self.is_understood &= !matches!(envelope.event, Event::Unknown(_));
            stream.note(envelope, &self.asked);
        }
        Ok(())
    }

    /// The blobs that nothing names. None where the log has an event that is not known here, or a commit that cannot be read or is
    /// missing: it may name any of them.
    pub fn unnamed(&self) -> Vec<Digest> {
        if !self.is_understood {
            return Vec::new();
        }
        let named: HashSet<Digest> = self.streams.values().flat_map(Stream::named).collect();
        self.asked.difference(&named).copied().collect()
    }

    /// Has the log ever named one of them, released by now or not? Where it has named none, it may be the log of others.
    pub fn has_named_any(&self) -> bool {
        self.streams.values().any(|stream| !stream.last.is_empty() || !stream.live.is_empty())
    }

    /// Has everything that was read been understood?
    pub const fn is_understood(&self) -> bool {
        self.is_understood
    }

    /// The tenants of which something is released, and up to where.
    pub fn released(&self) -> impl Iterator<Item = (&TenantId, Through)> {
        let released = |(_, stream): &(&TenantId, &Stream)| stream.through.last().is_some();
        self.streams.iter().filter(released).map(|(tenant, stream)| (tenant, stream.through))
    }
}

impl Stream {
    /// Takes note of where a commit ends, and says whether it begins where the one before it has ended.
    fn goes_on(&mut self, recorded: &Recorded) -> bool {
        let (commit, header) = (&recorded.commit, recorded.commit.header());
        let before = self.head.replace(commit.head()).unwrap_or_else(|| Head::genesis(commit.tenant()));
        header.first_revision == before.revision.next() && header.prev_hash == before.hash
    }

    fn note(&mut self, envelope: &Envelope, asked: &HashSet<Digest>) {
        let (revision, event) = (envelope.revision, &envelope.event);
        for (class, digest) in payloads_of(event) {
            self.name(class, digest, revision, asked);
        }
        match event {
            Event::ModulePublished(published) => {
                let place = (published.name.clone(), published.version);
                let before = match asked.contains(&published.digest) {
                    true => self.live.insert(place, published.digest),
                    false => self.live.remove(&place),
                };
                // A number is given again only where a commit of the history was skipped.
                before.into_iter().for_each(|digest| self.name(Class::Modules, digest, revision, asked));
            }
            Event::ModuleDeleted(deleted) => {
                let gone: Vec<_> = self.live.extract_if(|(name, _), _| *name == deleted.name).collect();
                gone.into_iter().for_each(|(_, digest)| self.name(Class::Modules, digest, revision, asked));
            }
            Event::ExecutionAccepted(accepted) => {
                let module = &accepted.module;
                if module.name.is_none() && accepted.rerun_of.is_none() {
                    self.name(Class::Modules, module.digest, revision, asked);
                }
                let both = [module.digest, accepted.stdin.digest];
                if both.iter().any(|digest| asked.contains(digest)) {
                    self.open.insert(accepted.execution_id, both);
                }
            }
            Event::ExecutionFinished(finished) => {
                self.open.remove(&finished.execution_id);
            }
            Event::ExecutionLost(lost) => {
                self.open.remove(&lost.execution_id);
            }
            Event::PayloadsReleased(released) => self.through.note(released),
            Event::TenantRegistered(_)
            | Event::TenantRenamed(_)
            | Event::TenantTierChanged(_)
            | Event::TenantSuspended(_)
            | Event::TenantResumed(_)
            | Event::KeyIssued(_)
            | Event::KeyRotated(_)
            | Event::KeyRevoked(_)
            | Event::ModuleRejected(_)
            | Event::ExecutionStarted(_)
            | Event::ExecutionVerified(_)
            | Event::RequestsDenied(_)
            | Event::CommitSkipped(_)
            | Event::Unknown(_) => {}
        }
    }

    fn name(&mut self, class: Class, digest: Digest, revision: Revision, asked: &HashSet<Digest>) {
        if asked.contains(&digest) {
            let last = self.last.entry((digest, class)).or_default();
            *last = revision.max(*last);
        }
    }

    fn named(&self) -> impl Iterator<Item = Digest> {
        let kept = self.last.iter().filter(|((_, class), last)| !self.through.has_released(*class, **last));
        let kept = kept.map(|((digest, _), _)| *digest);
        kept.chain(self.live.values().copied()).chain(self.open.values().flatten().copied())
    }
}

/// The payloads that an event of an execution names itself, modules left out.
///
/// Which events name digests is listed here and in `Stream::note`, for good: **what names a digest anew is a new type of event, never a
/// new field of a type that is known.** A sweep of an earlier version removes nothing where it meets a type that it does not know; a field
/// it would overlook, and remove what that names.
pub fn payloads_of(event: &Event) -> Vec<(Class, Digest)> {
    match event {
        Event::ExecutionAccepted(accepted) => vec![(Class::Inputs, accepted.stdin.digest)],
        Event::ExecutionFinished(finished) => {
            let Finished { stdout, stderr, .. } = &**finished;
            let transcript = finished.transcript().map(|kept| (Class::Transcripts, kept.digest));
            [(Class::Outputs, stdout.digest), (Class::Outputs, stderr.digest)].into_iter().chain(transcript).collect()
        }
        Event::TenantRegistered(_)
        | Event::TenantRenamed(_)
        | Event::TenantTierChanged(_)
        | Event::TenantSuspended(_)
        | Event::TenantResumed(_)
        | Event::KeyIssued(_)
        | Event::KeyRotated(_)
        | Event::KeyRevoked(_)
        | Event::ModulePublished(_)
        | Event::ModuleRejected(_)
        | Event::ModuleDeleted(_)
        | Event::ExecutionStarted(_)
        | Event::ExecutionLost(_)
        | Event::ExecutionVerified(_)
        | Event::RequestsDenied(_)
        | Event::CommitSkipped(_)
        | Event::PayloadsReleased(_)
        | Event::Unknown(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
