//! How much room there is on the node's disk, as far as it decides what the node takes in.
//!
//! Somebody who watches the disk says it. What would begin something that writes much asks, or waits.

use std::sync::Arc;

use tokio::sync::watch;

/// How much room there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Enough for everything.
    #[default]
    Plenty,
    /// Too little for modules and for executions that have not begun; enough for what is a line in the log.
    Low,
    /// Enough for the ends of what was accepted, and for what ends something.
    Least,
}

/// The free space of a node's disk. Clones share it; without anybody who watches, there is plenty.
#[derive(Debug, Clone, Default)]
pub struct DiskSpace(Arc<watch::Sender<Level>>);

impl DiskSpace {
    /// How much there is now.
    pub fn level(&self) -> Level {
        *self.0.borrow()
    }

    /// Says how much there is, and tells whether that is something new.
    pub fn set(&self, level: Level) -> bool {
        self.0.send_if_modified(|before| std::mem::replace(before, level) != level)
    }

    /// Waits until there is plenty, for as long as that takes.
    pub async fn until_plenty(&self) {
        // Its sender is held by this very value, so that the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|level| *level == Level::Plenty).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_waits_for_room_goes_on_when_there_is_plenty_again() {
        let space = DiskSpace::default();
        assert_eq!((space.level(), space.until_plenty().now_or_never()), (Level::Plenty, Some(())));

        assert!(space.set(Level::Least) && space.set(Level::Low) && !space.set(Level::Low));
        let waiting = tokio::spawn({
            let space = space.clone();
            async move { space.until_plenty().await }
        });
        assert_eq!(space.until_plenty().now_or_never(), None);

        space.set(Level::Plenty);
        waiting.await.unwrap();
    }
}
