//! The live end of a log: the last durable commits in memory, so that those who follow it share one copy, decoded once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::ReadLimit;
use crate::{commit::Recorded, revision::Position};

/// The newest commits of a log whose positions have no gaps. Payloads are not kept.
#[derive(Debug)]
pub(crate) struct Recent {
    ring: Mutex<Ring>,
    max_commits: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Ring {
    commits: VecDeque<Arc<Recorded>>,
    bytes: usize,
}

impl Recent {
    /// Keeps at most `max_commits` commits and `max_bytes` bytes of bodies.
    pub(crate) fn new(max_commits: usize, max_bytes: usize) -> Self {
        Self { ring: Mutex::new(Ring::default()), max_commits, max_bytes }
    }

    /// Adds commits that have become durable. They continue the ring: one writer calls this, in order.
    pub(crate) fn push(&self, commits: Vec<Arc<Recorded>>) {
        let mut forgotten = Vec::new();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for recorded in commits {
            ring.bytes += recorded.commit.body().len();
            ring.commits.push_back(recorded);
            while ring.commits.len() > self.max_commits || ring.bytes > self.max_bytes {
                let Some(oldest) = ring.commits.pop_front() else { break };
                ring.bytes -= oldest.commit.body().len();
                forgotten.push(oldest);
            }
        }
        drop(ring);
        // What nobody else holds is freed here, outside the lock.
        drop(forgotten);
    }

    /// The commits after `after`, if all of them are in memory; `None` sends the reader to the disk.
    pub(crate) fn after(&self, after: Position, limit: ReadLimit) -> Option<Vec<Arc<Recorded>>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.commits.front()?.position;
        let skip = usize::try_from(after.next().get().checked_sub(first.get())?).ok()?;
        if skip >= ring.commits.len() {
            return None;
        }
        let mut bytes = 0_usize;
        let fits = |(taken, recorded): &(usize, &Arc<Recorded>)| {
            bytes = bytes.saturating_add(recorded.commit.body().len());
            *taken == 0 || (*taken < limit.commits && bytes <= limit.bytes)
        };
        Some(ring.commits.iter().skip(skip).enumerate().take_while(fits).map(|(_, found)| Arc::clone(found)).collect())
    }

    /// The commit at `position`, if it is in memory.
    pub(crate) fn at(&self, position: Position) -> Option<Arc<Recorded>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(position.get().checked_sub(ring.commits.front()?.position.get())?).ok()?;
        ring.commits.get(index).cloned()
    }
}
