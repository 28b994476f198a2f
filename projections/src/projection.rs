//! What a view is: a schema, a fold in memory, and a write of what the fold has gathered.
//!
//! ```text
//! load ─► ( fold commit … fold commit ─► flush in a transaction ─► committed )*
//!                                   └──► discard, when something went wrong
//! ```
//! Folding gathers changes of many commits and merges those of one row, so that a transaction writes each row once.

use rusqlite::{Connection, Transaction};
use wasmwiz_events::{
    commit::Recorded,
    envelope::{BadBody, Envelope},
    id::ExecutionId,
};

use crate::checkpoint::{Misplaced, StoreError};

/// One view of the log. Pure of clock, network and randomness: the same commits give the same rows, however they are cut
/// into batches.
pub(crate) trait Projection: Send + 'static {
    /// The view's name: the first part of its file's name.
    const NAME: &'static str;
    /// Version of schema and fold together. A change of either is a new version, which is built beside the old one.
    const VERSION: u32;
    /// The statements that create its tables.
    const SCHEMA: &'static str;

    /// Does it say which keys there are? Then the keys of streams that are set aside are remembered too.
    const KNOWS_KEYS: bool = false;

    /// Reads what it keeps in memory from the rows. Called once, before the first fold.
    fn load(&mut self, _rows: &Connection) -> Result<(), Fault> {
        Ok(())
    }

    /// Gathers the changes of one commit. After an error the gathered batch is discarded.
    fn fold(&mut self, recorded: &Recorded, events: &[Envelope]) -> Result<(), Fault>;

    /// Writes what was gathered. The runner writes the checkpoint in the same transaction.
    fn flush(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault>;

    /// The transaction of the last flush is committed: show it to readers and begin the next batch.
    fn committed(&mut self);

    /// Forgets what was gathered since the last commit.
    fn discard(&mut self);
}

/// Why a view cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the commit's events cannot be read")]
    Body(#[from] BadBody),
    #[error("the commit holds other events than its header announces")]
    Mismatch,
    #[error("execution {0} ended, but is not open")]
    NotOpen(ExecutionId),
    #[error("{0} changed, but does not exist")]
    Absent(String),
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    #[error("the checkpoint cannot be moved")]
    Checkpoint(#[source] StoreError),
    #[error("a row cannot be encoded")]
    Encode(#[from] serde_json::Error),
    #[error("the view's file failed")]
    Sqlite(#[from] rusqlite::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => Self::Sqlite(error),
            foreign @ StoreError::Foreign(_) => Self::Checkpoint(foreign),
        }
    }
}

impl Fault {
    /// Is it what the log says, and not what the file does?
    pub(crate) const fn is_of_content(&self) -> bool {
        !matches!(self, Self::Sqlite(_) | Self::Checkpoint(_))
    }

    /// Is it what one stream of the log says? Then it concerns nobody else.
    pub(crate) const fn is_of_stream(&self) -> bool {
        self.is_of_content() && !matches!(self, Self::Misplaced(_))
    }

    /// Will the same batch perhaps be taken later, because something outside was in the way: another process that holds the
    /// file, a full disk, no memory?
    pub(crate) fn is_passing(&self) -> bool {
        use rusqlite::ErrorCode::{
            DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OperationInterrupted, OutOfMemory,
        };
        // Not an I/O error: after a failed sync nobody knows what the file holds.
        let Self::Sqlite(error) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(
                DatabaseBusy
                    | DatabaseLocked
                    | DiskFull
                    | FileLockingProtocolFailed
                    | OperationInterrupted
                    | OutOfMemory
            )
        )
    }

    /// Is the file itself damaged? Then it must be thrown away at the next start.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Sqlite(error) if is_damage(error))
    }

    /// The fault and its causes, in one line.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
