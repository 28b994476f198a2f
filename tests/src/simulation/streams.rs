//! The log as a server keeps it: one stream a shard, and publications that are conditional on its end.
//!
//! As on JetStream, who appends compares the epochs with the end that it has read, and the server compares the end.

use std::collections::BTreeMap;

use wasmwiz_events::{revision::Epoch, shard::Shard};
use wasmwiz_node::cluster::member::Life;

/// The end of a stream: the sequence and the epoch of its last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct End {
    pub(super) last: u64,
    pub(super) epoch: Epoch,
}

/// A commit that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    /// To which stream.
    pub(super) shard: Shard,
    /// After which sequence.
    pub(super) after: u64,
    /// In which epoch.
    pub(super) epoch: Epoch,
    /// By whom.
    pub(super) by: Life,
}

/// What is asked of the log.
pub(super) enum Ask {
    /// The end of a stream.
    End(Shard),
    /// To take a commit.
    Publish(Commit),
}

/// What the log says.
pub(super) enum Said {
    /// The end of a stream.
    End(End),
    /// It has taken the commit, which is the end now.
    Stored(End),
    /// The stream ends elsewhere.
    WrongEnd,
}

/// All streams.
pub(super) struct Streams {
    ends: BTreeMap<Shard, End>,
    compares: bool,
    refused: u64,
    stale: u64,
}

impl Streams {
    /// Empty ones. They compare ends, unless that is the fault.
    pub(super) const fn new(compares: bool) -> Self {
        Self { ends: BTreeMap::new(), compares, refused: 0, stale: 0 }
    }

    /// The end of a stream.
    pub(super) fn end(&self, shard: Shard) -> End {
        self.ends.get(&shard).copied().unwrap_or_default()
    }

    /// How many commits were refused, and how many of those were in an epoch that was over in their stream.
    pub(super) const fn refused(&self) -> (u64, u64) {
        (self.refused, self.stale)
    }

    /// Answers.
    pub(super) fn answer(&mut self, ask: &Ask) -> Said {
        match ask {
            Ask::End(shard) => Said::End(self.end(*shard)),
            Ask::Publish(commit) => {
                let end = self.end(commit.shard);
                if self.compares && end.last != commit.after {
                    self.refused += 1;
                    self.stale += u64::from(commit.epoch < end.epoch);
                    return Said::WrongEnd;
                }
                let end = End { last: end.last + 1, epoch: commit.epoch };
                self.ends.insert(commit.shard, end);
                Said::Stored(end)
            }
        }
    }
}
