//! Which blobs were put or used lately: the commit that names one may still be under way.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::digest::Digest;

/// For how long a blob stays at least once it was put or used. Longer than any request takes from its bytes to its commit.
pub(super) const STAYS_FOR: Duration = Duration::from_secs(3_600);

/// What was put or used within one or two times that, by this process, by a clock that does not step. A process that has ended has nothing
/// under way.
#[derive(Debug)]
pub(super) struct Recent {
    since: Instant,
    now: HashSet<Digest>,
    before: HashSet<Digest>,
}

impl Recent {
    #[expect(clippy::disallowed_methods, reason = "how long ago a blob was put is measured here, and nowhere recorded")]
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), now: HashSet::new(), before: HashSet::new() }
    }

    /// It is being put, or used.
    pub(super) fn note(&mut self, digest: Digest) {
        self.turn();
        self.now.insert(digest);
    }

    /// Was it put or used lately?
    pub(super) fn has(&mut self, digest: &Digest) -> bool {
        self.turn();
        self.now.contains(digest) || self.before.contains(digest)
    }

    #[expect(clippy::disallowed_methods, reason = "how long ago a blob was put is measured here, and nowhere recorded")]
    fn turn(&mut self) {
        self.turn_at(Instant::now());
    }

    fn turn_at(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.since);
        if since < STAYS_FOR {
            return;
        }
        self.before = std::mem::take(&mut self.now);
        // Nothing was put for as long again.
        if since >= STAYS_FOR * 2 {
            self.before.clear();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_recent_for_its_time_at_least_and_for_twice_at_most() {
        let (mut recent, digest) = (Recent::new(), Digest::of(b"wasm"));
        let begun = recent.since;
        recent.now.insert(digest);
        recent.turn_at(begun + STAYS_FOR);
        assert!(!recent.now.contains(&digest) && recent.before.contains(&digest));
        recent.turn_at(begun + STAYS_FOR * 2);
        assert!(!recent.before.contains(&digest));
        recent.now.insert(digest);
        recent.turn_at(begun + STAYS_FOR * 4);
        assert!(recent.now.is_empty() && recent.before.is_empty());
    }
}
