//! What a request writes, and whether the node's disk and its log have room for it.

use wasmwiz_actors::disk_space::Level;

use crate::problem::{Kind, Problem};

/// When to try again, in milliseconds: somebody has to make room first.
const RETRY_MS: u64 = 30_000;

/// What a request writes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Nothing.
    Nothing,
    /// What ends something or gives room back, and what operators need while a disk is full: an event, always taken.
    Ends,
    /// An event.
    Event,
    /// A module, or the input and the outputs of a guest.
    Bytes,
}

impl Writes {
    /// May there be too little room for it?
    pub(crate) const fn wants_room(self) -> bool {
        matches!(self, Self::Event | Self::Bytes)
    }

    /// Refuses what there is no room for.
    pub(crate) fn require(self, space: Level) -> Result<(), Problem> {
        let detail = match (self, space) {
            (Self::Bytes, Level::Low | Level::Least) => {
                "The storage of this node is nearly full: it takes no modules and begins no executions until there is more \
                 room. What is there can be read. Try again after the pause, or at another node."
            }
            (Self::Event, Level::Least) => {
                "The storage of this node is full but for what ends something: it takes no changes but those that end, \
                 revoke, suspend or delete. What is there can be read. Try again after the pause, or at another node."
            }
            _ => return Ok(()),
        };
        Err(storage_full(detail))
    }
}

/// What is said when the room has become low since the request was looked at.
pub(crate) fn out_of_space() -> Problem {
    storage_full(
        "The storage of this node is nearly full. Nothing was done. Try again after the pause, or at another node.",
    )
}

fn storage_full(detail: &'static str) -> Problem {
    Problem::new(Kind::NodeStorageFull, detail).retry_after_ms(RETRY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_refused_first_then_events_and_ends_never() {
        let refused = |writes: Writes| {
            [Level::Plenty, Level::Low, Level::Least]
                .map(|room| writes.require(room).err().map(|problem| problem.kind()))
        };
        let full = Some(Kind::NodeStorageFull);
        assert_eq!(refused(Writes::Bytes), [None, full, full]);
        assert_eq!(refused(Writes::Event), [None, None, full]);
        assert_eq!((refused(Writes::Ends), refused(Writes::Nothing)), ([None; 3], [None; 3]));
        assert!(Writes::Bytes.wants_room() && Writes::Event.wants_room());
        assert!(!Writes::Ends.wants_room() && !Writes::Nothing.wants_room());
    }
}
