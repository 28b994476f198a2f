//! Where ids and seeds come from: the one place of this crate that draws random numbers.

use rand::Rng as _;
use uuid::Uuid;
use wasmwiz_events::{
    execution::Seed,
    id::{BootId, CommandId, CommitId, EventId, ExecutionId},
};

/// Draws ids. UUIDv7 from the process-wide monotonic context: ids drawn later are larger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ids;

impl Ids {
    /// An id for a command.
    pub fn command(self) -> CommandId {
        CommandId::new(self.draw())
    }

    /// An id for a commit.
    pub fn commit(self) -> CommitId {
        CommitId::new(self.draw())
    }

    /// An id for an event.
    pub fn event(self) -> EventId {
        EventId::new(self.draw())
    }

    /// An id for an execution.
    pub fn execution(self) -> ExecutionId {
        ExecutionId::new(self.draw())
    }

    /// An id for one life of a node.
    pub fn boot(self) -> BootId {
        BootId::new(self.draw())
    }

    /// A seed for a guest's random numbers.
    #[expect(clippy::disallowed_methods, reason = "this type is where randomness enters")]
    pub fn seed(self) -> Seed {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        Seed::new(bytes)
    }

    #[expect(clippy::disallowed_methods, reason = "this type is where ids enter")]
    fn draw(self) -> Uuid {
        Uuid::now_v7()
    }
}
