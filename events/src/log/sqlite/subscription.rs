//! Following the log: from memory when the next commit is there, from the disk when it is older, and waiting otherwise.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Shared;
use crate::{
    commit::Recorded,
    log::{ReadError, ReadLimit, Subscription},
    revision::Position,
};

/// A place in the log that moves on.
#[derive(Debug)]
pub(super) struct Follower {
    shared: Arc<Shared>,
    tail: watch::Receiver<Position>,
    after: Position,
}

impl Follower {
    /// Begins behind `after`.
    pub(super) const fn new(shared: Arc<Shared>, tail: watch::Receiver<Position>, after: Position) -> Self {
        Self { shared, tail, after }
    }
}

#[async_trait]
impl Subscription for Follower {
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        loop {
            let tail = *self.tail.borrow_and_update();
            if self.after < tail {
                let mut found = self.shared.read_all(self.after, limit).await?;
                // Positions have no gaps: where there is one, a commit is missing.
                let mut expected = self.after;
                let follows = |recorded: &Arc<Recorded>| {
                    expected = expected.next();
                    recorded.position == expected
                };
                let whole = found.iter().map(follows).take_while(|follows| *follows).count();
                found.truncate(whole);
                let Some(last) = found.last() else {
                    let (position, what) = (self.after.next(), "a durable commit is missing".into());
                    return Err(ReadError::Damaged { position, what });
                };
                // The only step, with no await behind it: cancelled before, it is taken again.
                self.after = last.position;
                return Ok(found);
            }
            if self.tail.changed().await.is_err() {
                return Err(self.shared.ended());
            }
        }
    }
}
