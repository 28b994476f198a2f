//! How far a view has folded the log.
//!
//! A checkpoint moves only by a [`Delta`] that begins exactly where the checkpoint stands: a gap would lose events and an
//! overlap would count them twice. It is written in the transaction that writes the rows.

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};
use wasmwiz_events::{commit::Recorded, ledger::ChainHash, revision::Position, time::Timestamp};

use crate::row;

pub(crate) const SCHEMA: &str = "
CREATE TABLE checkpoint (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema_digest BLOB NOT NULL,
    position INTEGER NOT NULL,
    commits INTEGER NOT NULL,
    last_hash BLOB NOT NULL,
    last_at INTEGER NOT NULL,
    digest BLOB NOT NULL
);";

/// Stands for the hash of a commit that cannot be read.
const UNREAD: ChainHash = ChainHash::from_bytes([0; 32]);

/// How far a view has folded the log, and which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Position of the last commit folded.
    pub position: Position,
    /// How many commits were folded since the beginning.
    pub commits: u64,
    /// Hash of the last commit folded: tells whether the log is still the one that was folded. Zeros when the commit cannot be read.
    pub last_hash: ChainHash,
    /// When the last commit folded was recorded.
    pub last_at: Timestamp,
    /// SHA-256 over the digest before it, the position and the hash of each commit: equal for equal histories.
    pub digest: [u8; 32],
}

/// The range of a delta does not begin where the checkpoint stands, or is not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Commits between the checkpoint and the delta would be lost.
    #[error("commits between {checkpoint} and {from} would be lost")]
    Gap {
        /// Where the checkpoint stands.
        checkpoint: Position,
        /// Where the delta begins.
        from: Position,
    },
    /// Commits would be folded twice.
    #[error("commits after {from} would be folded twice, the view is at {checkpoint}")]
    Overlap {
        /// Where the checkpoint stands.
        checkpoint: Position,
        /// Where the delta begins.
        from: Position,
    },
}

/// The commits in `(from, to]`, about to be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    from: Position,
    end: Checkpoint,
}

impl Delta {
    /// The empty delta that begins at `checkpoint`.
    pub const fn beginning_at(checkpoint: &Checkpoint) -> Self {
        Self { from: checkpoint.position, end: *checkpoint }
    }

    /// Adds the next commit.
    ///
    /// # Errors
    /// [`Misplaced::Overlap`] when it is not after the delta's end.
    pub fn extend(&mut self, recorded: &Recorded) -> Result<(), Misplaced> {
        if recorded.position <= self.end.position {
            return Err(Misplaced::Overlap { checkpoint: self.end.position, from: recorded.position });
        }
        let mut hasher = Sha256::new();
        hasher.update(self.end.digest);
        hasher.update(recorded.position.get().to_be_bytes());
        hasher.update(recorded.commit.hash().as_bytes());
        self.end = Checkpoint {
            position: recorded.position,
            commits: self.end.commits.saturating_add(1),
            last_hash: recorded.commit.hash(),
            last_at: recorded.commit.header().recorded_at,
            digest: hasher.finalize().into(),
        };
        Ok(())
    }

    /// Adds the next place, whose commit cannot be read.
    ///
    /// # Errors
    /// [`Misplaced::Overlap`] when it is not after the delta's end.
    pub fn pass_over(&mut self, position: Position) -> Result<(), Misplaced> {
        if position <= self.end.position {
            return Err(Misplaced::Overlap { checkpoint: self.end.position, from: position });
        }
        let mut hasher = Sha256::new();
        hasher.update(self.end.digest);
        hasher.update(position.get().to_be_bytes());
        hasher.update(UNREAD.as_bytes());
        let (commits, digest) = (self.end.commits.saturating_add(1), hasher.finalize().into());
        self.end = Checkpoint { position, commits, last_hash: UNREAD, digest, ..self.end };
        Ok(())
    }

    /// Position of its last commit.
    pub const fn to(&self) -> Position {
        self.end.position
    }
}

impl Checkpoint {
    /// Before the first commit.
    pub const START: Self = Self {
        position: Position::START,
        commits: 0,
        last_hash: ChainHash::from_bytes([0; 32]),
        last_at: Timestamp::from_unix_ms(0),
        digest: [0; 32],
    };

    /// The checkpoint after `delta`.
    ///
    /// # Errors
    /// [`Misplaced`] unless the delta begins exactly here.
    pub fn advanced_by(&self, delta: &Delta) -> Result<Self, Misplaced> {
        match delta.from.cmp(&self.position) {
            std::cmp::Ordering::Equal => Ok(delta.end),
            std::cmp::Ordering::Greater => Err(Misplaced::Gap { checkpoint: self.position, from: delta.from }),
            std::cmp::Ordering::Less => Err(Misplaced::Overlap { checkpoint: self.position, from: delta.from }),
        }
    }

    pub(crate) fn create(connection: &Connection, schema_digest: [u8; 32]) -> rusqlite::Result<()> {
        connection.execute_batch(SCHEMA)?;
        let start = Self::START;
        connection.execute(
            "INSERT INTO checkpoint VALUES (1, ?1, 0, 0, ?2, 0, ?3)",
            params![schema_digest, start.last_hash.as_bytes(), start.digest],
        )?;
        Ok(())
    }

    /// The stored checkpoint; `None` when there is none or it belongs to another schema.
    pub(crate) fn load(connection: &Connection, schema_digest: [u8; 32]) -> rusqlite::Result<Option<Self>> {
        connection
            .query_row(
                "SELECT position, commits, last_hash, last_at, digest FROM checkpoint WHERE schema_digest = ?1",
                [schema_digest],
                |found| {
                    Ok(Self {
                        position: Position::new(row::unsigned(found, 0)?),
                        commits: row::unsigned(found, 1)?,
                        last_hash: ChainHash::from_bytes(found.get(2)?),
                        last_at: row::time(found, 3)?,
                        digest: found.get(4)?,
                    })
                },
            )
            .optional()
    }

    /// Moves the stored checkpoint from where `before` says it is to here, in the transaction of `connection`.
    pub(crate) fn store(&self, connection: &Connection, before: &Self) -> Result<(), StoreError> {
        let moved = connection
            .prepare_cached(
                "UPDATE checkpoint SET position = ?1, commits = ?2, last_hash = ?3, last_at = ?4, digest = ?5
                 WHERE one = 1 AND position = ?6",
            )?
            .execute(params![
                row::signed(self.position.get()),
                row::signed(self.commits),
                self.last_hash.as_bytes(),
                self.last_at.unix_ms(),
                self.digest,
                row::signed(before.position.get()),
            ])?;
        // Nobody else may write this file: two folds of one view would count twice.
        if moved == 1 { Ok(()) } else { Err(StoreError::Foreign(before.position)) }
    }
}

/// The checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the stored checkpoint is no longer at {0}: somebody else writes this view")]
    Foreign(Position),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::History;

    #[test]
    fn a_checkpoint_moves_only_by_a_delta_that_begins_where_it_stands() {
        let commits = History::new(1).commits(3);
        let mut first = Delta::beginning_at(&Checkpoint::START);
        first.extend(&commits[0]).unwrap();
        let mut second = Delta::beginning_at(&Checkpoint::START.advanced_by(&first).unwrap());
        second.extend(&commits[1]).unwrap();

        let at_one = Checkpoint::START.advanced_by(&first).unwrap();
        assert_eq!(at_one.position, commits[0].position);
        assert!(matches!(at_one.advanced_by(&first), Err(Misplaced::Overlap { .. })));
        assert!(matches!(Checkpoint::START.advanced_by(&second), Err(Misplaced::Gap { .. })));
        assert!(matches!(second.extend(&commits[1]), Err(Misplaced::Overlap { .. })));
    }

    #[test]
    fn equal_histories_have_equal_digests_however_they_are_cut() {
        let commits = History::new(2).commits(4);
        let fold = |cuts: &[usize]| {
            let mut checkpoint = Checkpoint::START;
            let mut rest = commits.as_slice();
            for cut in cuts {
                let (batch, after) = rest.split_at(*cut);
                let mut delta = Delta::beginning_at(&checkpoint);
                batch.iter().for_each(|commit| delta.extend(commit).unwrap());
                checkpoint = checkpoint.advanced_by(&delta).unwrap();
                rest = after;
            }
            checkpoint
        };
        assert_eq!(fold(&[4]), fold(&[1, 2, 1]));
        assert_ne!(fold(&[4]), fold(&[3]));
    }
}
