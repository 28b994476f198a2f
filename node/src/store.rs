//! The log and the blobs of a node, of the kind that its configuration names.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use wasmwiz_events::{
    blobs::{Blobs, fs::FsBlobs},
    log::{EventLog, jetstream::JetstreamLog, sqlite::SqliteLog},
};

use crate::{
    config::{Config, LogKind},
    disk::log::{BoundedLog, LogBound},
};

/// Below the data folder: locked while a node uses it, where the log itself is elsewhere.
const LOCK: &str = "node.lock";

/// What is remembered, and how it is closed.
pub struct Store {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Modules, and payloads that do not ride with their commit.
    pub blobs: Arc<dyn Blobs>,
    kind: Kind,
}

enum Kind {
    Sqlite {
        log: Arc<SqliteLog>,
        files: PathBuf,
        bound: Option<LogBound>,
    },
    Jetstream {
        log: JetstreamLog,
        /// Views and checkpoints below the data folder are one process's.
        _lock: File,
    },
}

/// The folder of a log on this machine, below the data folder.
pub const LOG: &str = "log";

/// Sets the gauge of what the files of a log take up.
pub fn observe(log: &Path) {
    if let Some(bytes) = held_bytes(log) {
        ::metrics::gauge!(wasmwiz_events::metrics::LOG_BYTES).set(bytes as f64);
    }
}

/// What the files of a log take up, if it is there: three of them, whose sizes the system has in memory.
fn held_bytes(log: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(log).ok()?;
    Some(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum())
}

impl Store {
    /// The folder of the log, if it is on this machine.
    pub fn files(&self) -> Option<PathBuf> {
        match &self.kind {
            Kind::Sqlite { files, .. } => Some(files.clone()),
            Kind::Jetstream { .. } => None,
        }
    }

    /// The log, if it is on this machine and has a bound.
    pub(crate) fn bounded_log(&self) -> Option<BoundedLog> {
        match &self.kind {
            Kind::Sqlite { log, bound, .. } => bound.map(|bound| BoundedLog::new(log, bound)),
            Kind::Jetstream { .. } => None,
        }
    }

    /// Opens both. The data folder is there.
    ///
    /// # Errors
    /// What cannot be opened, and what to do about it.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        Self::opened(config, false).await
    }

    /// The same, of a log that is there: none is made.
    ///
    /// # Errors
    /// As [`Self::open`], and when there is none.
    pub async fn open_existing(config: &Config) -> anyhow::Result<Self> {
        Self::opened(config, true).await
    }

    async fn opened(config: &Config, existing: bool) -> anyhow::Result<Self> {
        let data = &config.node.data_dir;
        match config.log.kind {
            LogKind::Sqlite => {
                let dir = data.join(LOG);
                if existing {
                    // Only to be told if there is none.
                    drop(SqliteLog::open_read_only(&dir)?);
                }
                let mut sqlite = config.log.sqlite.clone();
                let bound = sqlite.max_bytes.map(LogBound::new);
                sqlite.max_bytes = bound.map(|bound| bound.last_bytes(SqliteLog::file_bytes(&dir)));
                let log = Arc::new(SqliteLog::open(&dir, sqlite)?);
                let blobs = FsBlobs::open(&data.join("blobs"))?;
                let blobs = Arc::new(if config.policy().retention.is_on() { blobs.swept() } else { blobs });
                let kind = Kind::Sqlite { log: Arc::clone(&log), files: dir, bound };
                Ok(Self { log, blobs, kind })
            }
            LogKind::Jetstream => {
                let lock = lock(data)?;
                let log = config.log.jetstream.clone();
                let log = match existing {
                    true => JetstreamLog::open_existing(log).await?,
                    false => JetstreamLog::open(log).await?,
                };
                let (shared, blobs) = (Arc::new(log.clone()), Arc::new(log.blobs()));
                Ok(Self { log: shared, blobs, kind: Kind::Jetstream { log, _lock: lock } })
            }
        }
    }

    /// Closes the log, once everything that it took is durable.
    pub async fn close(self) {
        match self.kind {
            Kind::Sqlite { log, .. } => {
                if let Err(error) = tokio::task::spawn_blocking(move || log.close()).await {
                    tracing::error!(%error, "the log could not be closed");
                }
            }
            Kind::Jetstream { log, .. } => log.close(),
        }
    }
}

/// The system unlocks it when the process dies, however it dies.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be opened; set node.data_dir", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another node holds {}: stop it, or give this one another node.data_dir", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{} cannot be locked", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_at_a_time_has_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains("node.lock") && error.contains("node.data_dir"), "{error}");
        drop(held);
        lock(folder.path()).unwrap();
    }
}
