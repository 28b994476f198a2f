//! How much room there is on the node's disk, and in its log, as far as it decides what the node takes in.
//!
//! Somebody who watches both says it. What would begin something that writes much asks, or waits.

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

/// What is known of each.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    disk: Level,
    log: Level,
}

impl Room {
    fn level(self) -> Level {
        self.disk.max(self.log)
    }
}

/// The free space of a node. Clones share it; without anybody who watches, there is plenty.
#[derive(Debug, Clone, Default)]
pub struct DiskSpace(Arc<watch::Sender<Room>>);

impl DiskSpace {
    /// How much there is now, where there is less: on the disk, or in the log.
    pub fn level(&self) -> Level {
        self.0.borrow().level()
    }

    /// How much there is on the disk.
    pub fn of_disk(&self) -> Level {
        self.0.borrow().disk
    }

    /// How much the bound of the log leaves, if it has one.
    pub fn of_log(&self) -> Level {
        self.0.borrow().log
    }

    /// Says how much there is on the disk, and tells whether that is something new.
    pub fn set(&self, level: Level) -> bool {
        self.0.send_if_modified(|room| std::mem::replace(&mut room.disk, level) != level)
    }

    /// Says how much there is in the log, and tells whether that is something new.
    pub fn set_of_log(&self, level: Level) -> bool {
        self.0.send_if_modified(|room| std::mem::replace(&mut room.log, level) != level)
    }

    /// Waits until there is plenty, for as long as that takes.
    pub async fn until_plenty(&self) {
        // Its sender is held by this very value, so that the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|room| room.level() == Level::Plenty).await;
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

    #[test]
    fn what_holds_is_the_lower_room_of_both() {
        let space = DiskSpace::default();
        assert!(space.set_of_log(Level::Low) && !space.set_of_log(Level::Low));
        assert_eq!((space.level(), space.of_disk(), space.of_log()), (Level::Low, Level::Plenty, Level::Low));
        space.set(Level::Least);
        assert_eq!((space.level(), space.of_disk(), space.of_log()), (Level::Least, Level::Least, Level::Low));
        space.set(Level::Plenty);
        assert_eq!((space.level(), space.until_plenty().now_or_never()), (Level::Low, None));
        assert!(space.set_of_log(Level::Plenty));
        assert_eq!((space.level(), space.until_plenty().now_or_never()), (Level::Plenty, Some(())));
    }
}
