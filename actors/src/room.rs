//! How much room there is on the node's disk, as far as it decides what the node takes in.
//!
//! Somebody who watches the disk says it; whoever would begin something that writes much asks, or waits.

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

/// The room on a node's disk. Clones share it; without anybody who watches, there is plenty.
#[derive(Debug, Clone, Default)]
pub struct Room(Arc<watch::Sender<Level>>);

impl Room {
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
    async fn whoever_waits_for_room_goes_on_when_there_is_plenty_again() {
        let room = Room::default();
        assert_eq!((room.level(), room.until_plenty().now_or_never()), (Level::Plenty, Some(())));

        assert!(room.set(Level::Least) && room.set(Level::Low) && !room.set(Level::Low));
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.until_plenty().await }
        });
        assert_eq!(room.until_plenty().now_or_never(), None);

        room.set(Level::Plenty);
        waiting.await.unwrap();
    }
}
