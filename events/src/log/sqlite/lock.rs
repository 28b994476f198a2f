//! One process a log: a file that the system unlocks when the process dies, however it dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use super::OpenError;

/// Name of the lock file in the log's directory.
pub(super) const FILE_NAME: &str = "events.lock";

/// Tries to take the lock: whoever only asks whether it is held has it for a moment, see [`is_held`].
const TRIES: u32 = 4;

/// The pause between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(25);

/// Held while the log is open for writing.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Locks `dir`.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when somebody holds it, [`OpenError::Io`].
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let io = |source| OpenError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
        let mut tries = 1;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if tries < TRIES => std::thread::sleep(BETWEEN_TRIES),
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
            tries += 1;
        }
    }
}

/// Does somebody have the log in `dir` open for writing? Asking takes the lock for a moment when nobody holds it.
pub(super) fn is_held(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(FILE_NAME)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}
