//! How far the stream has acknowledged the log, kept in a small file that is replaced as a whole.
//!
//! It is written after the acknowledgement and never before it. A file that is old, missing or unreadable repeats events,
//! which subscribers take for what they are; nothing is lost.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{ledger::ChainHash, revision::Position};

/// How far apart marks may lie: this part of what came after them. Few reach back over the whole stream, and to go
/// back to one repeats little more than was lost.
const APART: u64 = 4;

/// Everything up to `position` lies at or before `sequence` in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    sequence: u64,
    position: Position,
}

/// Up to where a stream has the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The stream's name. Another one begins at the start of the log.
    stream: String,
    /// When that stream was made, as it says itself: one that was made again has nothing.
    #[serde(default)]
    created: Option<String>,
    /// Everything up to here is acknowledged.
    position: Position,
    /// The hash of the commit there: another log does not have it.
    #[serde(default)]
    commit: Option<String>,
    /// Where to continue if the stream turns out to have lost its end.
    #[serde(default)]
    marks: Vec<Mark>,
}

impl Checkpoint {
    /// At the start of the log.
    pub(crate) fn at_start(stream: &str) -> Self {
        Self { stream: stream.to_owned(), created: None, position: Position::START, commit: None, marks: Vec::new() }
    }

    pub(crate) const fn position(&self) -> Position {
        self.position
    }

    /// The hash of the commit at the position, if it is known.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The stream has everything up to this commit, at or before `sequence`.
    pub(crate) fn advance(&mut self, position: Position, commit: ChainHash, sequence: u64) {
        let sequence = self.marks.last().map_or(sequence, |last| last.sequence.max(sequence));
        (self.position, self.commit) = (position, Some(commit.to_string()));
        self.marks.push(Mark { sequence, position });
        self.marks = thinned(&self.marks);
    }

    /// Goes back to what the stream still has. Where it stood, if it had to.
    ///
    /// A server that crashed before it had synced, or was restored from a copy, lacks the end of what it acknowledged.
    pub(crate) fn go_back_to(&mut self, created: String, last_sequence: u64) -> Option<Position> {
        let before = self.position;
        if self.created.as_ref().is_some_and(|known| *known != created) {
            self.marks.clear();
            (self.position, self.commit) = (Position::START, None);
        } else if self.marks.last().is_some_and(|last| last.sequence > last_sequence) {
            self.marks.retain(|mark| mark.sequence <= last_sequence);
            self.position = self.marks.last().map_or(Position::START, |mark| mark.position);
            self.commit = None;
        }
        self.created = Some(created);
        (self.position < before).then_some(before)
    }
}

/// Without those whose neighbours lie close enough together for their age.
fn thinned(marks: &[Mark]) -> Vec<Mark> {
    let newest = marks.last().map_or(0, |mark| mark.sequence);
    let mut kept = Vec::<Mark>::with_capacity(marks.len());
    let next = marks.iter().skip(1).map(Some).chain([None]);
    for (mark, next) in marks.iter().zip(next) {
        let before = kept.last().map_or(0, |mark| mark.sequence);
        let is_needed = next.is_none_or(|next| next.sequence - before > (newest - mark.sequence) / APART);
        if is_needed {
            kept.push(*mark);
        }
    }
    kept
}

impl Checkpoint {
    /// Where `stream` continues, by these bytes. From the start of the log, if they say nothing of it.
    pub(crate) fn read(bytes: &[u8], stream: &str) -> Self {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(found) if found.stream == stream => return found,
            Ok(other) => {
                tracing::warn!(
                    was = other.stream,
                    stream,
                    "the feed has another stream: it begins at the start of the log"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "the feed's checkpoint cannot be read: it begins at the start of the log");
            }
        }
        Self::at_start(stream)
    }
}

/// The file of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointFile {
    path: Arc<Path>,
    /// Held while it is written: a write that nobody waits for any more goes on, and must not meet the next one.
    writing: Arc<Mutex<()>>,
}

impl CheckpointFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: path.into(), writing: Arc::default() }
    }

    /// Where `stream` continues.
    pub(crate) fn load(&self, stream: &str) -> io::Result<Checkpoint> {
        match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::at_start(stream)),
            read => Ok(Checkpoint::read(&read?, stream)),
        }
    }

    /// Replaces the file; durable when this returns.
    pub(crate) fn store(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.path.with_extension("new");
        let mut writer = File::create(&new)?;
        writer.write_all(&serde_json::to_vec(checkpoint)?)?;
        writer.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: &str = "2026-11-26T07:00:00Z";

    fn at(positions: impl IntoIterator<Item = u64>) -> Checkpoint {
        let mut checkpoint = Checkpoint::at_start("A");
        assert_eq!(checkpoint.go_back_to(MADE.to_owned(), 0), None);
        for position in positions {
            // Three messages a commit.
            checkpoint.advance(Position::new(position), ChainHash::from_bytes([7; 32]), 3 * position);
        }
        checkpoint
    }

    #[test]
    fn a_checkpoint_is_found_again_by_its_stream_and_anything_else_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(folder.path().join("feed.json"));
        assert_eq!(file.load("A").unwrap(), Checkpoint::at_start("A"));
        let seven = at([7]);
        file.store(&seven).unwrap();
        assert_eq!(file.load("A").unwrap(), seven);
        assert_eq!(seven.commit(), Some("07".repeat(32).as_str()));
        assert_eq!(file.load("B").unwrap(), Checkpoint::at_start("B"));
        fs::write(&*file.path, b"{").unwrap();
        assert_eq!(file.load("A").unwrap(), Checkpoint::at_start("A"));
    }

    #[test]
    fn a_stream_that_has_everything_or_more_moves_nothing() {
        let mut checkpoint = at([1, 2]);
        assert_eq!(checkpoint.go_back_to(MADE.to_owned(), 6), None);
        assert_eq!(checkpoint.go_back_to(MADE.to_owned(), 900), None);
        assert_eq!((checkpoint.position(), checkpoint.commit().is_some()), (Position::new(2), true));
    }

    #[test]
    fn a_stream_that_lost_its_end_gets_it_again_and_one_that_was_made_again_gets_everything() {
        let mut checkpoint = at([10, 20, 30]);
        assert_eq!(checkpoint.go_back_to(MADE.to_owned(), 65), Some(Position::new(30)));
        assert_eq!((checkpoint.position(), checkpoint.commit()), (Position::new(20), None));
        assert_eq!(checkpoint.go_back_to(MADE.to_owned(), 2), Some(Position::new(20)));
        assert_eq!(checkpoint.position(), Position::START);

        let mut checkpoint = at([10]);
        assert_eq!(checkpoint.go_back_to("later".to_owned(), 900), Some(Position::new(10)));
        assert_eq!(checkpoint.position(), Position::START);
    }

    #[test]
    fn marks_are_few_and_to_go_back_repeats_little_more_than_was_lost() {
        let checkpoint = at(1..=10_000);
        assert!(checkpoint.marks.len() <= 64, "{} marks", checkpoint.marks.len());
        for lost in [1, 10, 100, 1_000, 9_000] {
            let mut short = checkpoint.clone();
            short.go_back_to(MADE.to_owned(), 3 * (10_000 - lost));
            let repeated = 10_000 - short.position().get();
            assert!((lost..=lost * 3 / 2 + 1).contains(&repeated), "{lost} lost, {repeated} repeated");
        }
    }
}
