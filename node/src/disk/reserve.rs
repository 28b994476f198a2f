//! A file that takes up room, so that there is some to give up.

use std::{
    fs::File,
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{FallocateFlags, fallocate};

/// What a block is for `stat`, in bytes, whatever the file system's own are.
const STAT_BLOCK_BYTES: u64 = 512;

/// A file of so many bytes that are really taken.
pub(super) struct Reserve {
    file: PathBuf,
    bytes: u64,
    /// It was said that it cannot be held.
    is_told: AtomicBool,
}

impl Reserve {
    pub(super) const fn new(file: PathBuf, bytes: u64) -> Self {
        Self { file, bytes, is_told: AtomicBool::new(false) }
    }

    /// How much it is for.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of the disk it takes up now, at most what it is for.
    pub(super) fn held_bytes(&self) -> u64 {
        let taken = std::fs::metadata(&self.file).map_or(0, |file| file.blocks().saturating_mul(STAT_BLOCK_BYTES));
        taken.min(self.bytes)
    }

    /// Takes the room. Where that cannot be done, the node goes on without.
    pub(super) fn hold(&self) {
        if self.held_bytes() >= self.bytes {
            return;
        }
        if let Err(error) = self.take() {
            if !self.is_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, file = %self.file.display(), "no room can be held back here; the node goes on without");
            }
            // A part of it that looks like all of it would be worse than none.
            self.give_up();
        }
    }

    fn take(&self) -> io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&self.file)?;
        // The bytes are allotted and not written: it is done at once, and the file system may not lend them to others.
        fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn give_up(&self) {
        let given_up = match File::options().write(true).open(&self.file) {
            Ok(file) => file.set_len(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = given_up {
            tracing::warn!(%error, file = %self.file.display(), "the room that was held back cannot be given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_really_taken_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(folder.path().join("reserve"), 3 << 20);
        assert_eq!(reserve.held_bytes(), 0);
        reserve.give_up();

        reserve.hold();
        reserve.hold();
        assert_eq!(reserve.held_bytes(), 3 << 20);

        reserve.give_up();
        assert_eq!(reserve.held_bytes(), 0);
    }
}
