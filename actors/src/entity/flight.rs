//! Commits on their way to the log, the oldest first.
//!
//! While the log syncs one commit, the next is offered on top of it as soon as enough commands wait: the sync and the
//! deciding overlap. Each holds the hash of the one before, so the log stores the second only if it has stored the first.

use std::collections::VecDeque;

use tokio::sync::watch;
use wasmwiz_events::{
    id::CommitId,
    ledger::Head,
    log::{AppendError, Appended},
};

use super::append::Begun;
use crate::handle::{Answer, Pending};

/// The most commits of one entity that are under way. A third could only wait for the log's writer behind the second.
const COMMITS_MAX: usize = 2;

/// Commands that make a commit on top of another worth it. A commit costs the log a row, a hash and some pages however
/// little is in it; fewer commands than this wait for the acknowledgement and for company.
const COMMANDS_AHEAD: usize = 32;

/// One commit that was offered to the log.
pub(super) struct Offered {
    pub(super) commit_id: CommitId,
    /// The end of the stream once the commit is durable.
    pub(super) head: Head,
    /// What is answered then.
    pub(super) decided: Vec<(Pending, Answer)>,
    /// Where it is on its way.
    pub(super) begun: Begun,
    /// Until the log has said what became of it, in traces.
    pub(super) _span: tracing::Span,
}

/// What the log said of a commit.
pub(super) type Said = Result<Appended, AppendError>;

/// The commits under way.
#[derive(Default)]
pub(super) struct Flight {
    commits: VecDeque<(Offered, Option<Said>)>,
    /// No more commits: stop as soon as these are answered.
    pub(super) retiring: bool,
}

impl Flight {
    /// The end of the stream once all of them are durable; `None` when nothing is under way.
    pub(super) fn head(&self) -> Option<Head> {
        self.commits.back().map(|(offered, _)| offered.head)
    }

    /// Told when the youngest has been settled; `None` when nothing is under way.
    pub(super) fn last_settled(&self) -> Option<watch::Receiver<bool>> {
        self.commits.back().map(|(offered, _)| offered.begun.settled.clone())
    }

    /// Is nothing under way?
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// Is it time for another commit, when so many commands wait?
    pub(super) fn takes_another(&self, waiting: usize) -> bool {
        let on_their_way = self.commits.iter().all(|(offered, said)| offered.begun.taken_in && said.is_none());
        on_their_way && !self.retiring && self.commits.len() < COMMITS_MAX && waiting >= COMMANDS_AHEAD
    }

    /// Adds a commit on top.
    pub(super) fn push(&mut self, offered: Offered) {
        self.commits.push_back((offered, None));
    }

    /// Answers that rest on what is under way and add nothing to it: they are given with the newest commit. Gives them
    /// back when nothing is under way.
    pub(super) fn join(&mut self, mut decided: Vec<(Pending, Answer)>) -> Vec<(Pending, Answer)> {
        if let Some((newest, _)) = self.commits.back_mut() {
            newest.decided.append(&mut decided);
        }
        decided
    }

    /// Notes what the log said of a commit.
    pub(super) fn note(&mut self, commit_id: CommitId, result: Said) {
        if let Some((_, said)) = self.commits.iter_mut().find(|(offered, _)| offered.commit_id == commit_id) {
            *said = Some(result);
        }
    }

    /// The oldest commit, if the log has spoken of it. The reports of two commits may come in either order; they count in
    /// the order of the stream.
    pub(super) fn next_settled(&mut self) -> Option<(Offered, Said)> {
        self.commits.front()?.1.as_ref()?;
        let (offered, said) = self.commits.pop_front()?;
        Some((offered, said?))
    }

    /// Everybody who waits for a commit under way.
    pub(super) fn into_decided(self) -> impl Iterator<Item = Pending> {
        self.commits.into_iter().flat_map(|(offered, _)| offered.decided).map(|(pending, _)| pending)
    }
}
