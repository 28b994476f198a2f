//! When keys were last let in by this node.
//!
//! No event: a request that reads writes nothing, and a history of reads would drown the rest. It is kept in memory, to the minute, and in a
//! small file of the node beside its views, written at most once a minute. Losing it loses nothing that anybody relies on.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use lru::LruCache;
use wasmwiz_events::{id::KeyId, time::Timestamp};

/// How much later a key must be used to be noted again, in milliseconds.
const NOTED_EVERY_MS: u64 = 60_000;

/// Keys that are remembered; the one that was used longest ago is forgotten first.
const KEYS_MAX: NonZeroUsize = match NonZeroUsize::new(65_536) {
    Some(keys) => keys,
    None => NonZeroUsize::MIN,
};

/// The longest file that is read, in bytes: more than that many keys take.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// When keys were last let in. Clones share it.
#[derive(Debug, Clone)]
pub struct LastUsed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    at: Mutex<LruCache<KeyId, Timestamp>>,
    changed: AtomicBool,
    file: Option<PathBuf>,
}

impl Default for LastUsed {
    /// In memory alone.
    fn default() -> Self {
        Self::of(None)
    }
}

impl LastUsed {
    fn of(file: Option<PathBuf>) -> Self {
        let (at, changed) = (Mutex::new(LruCache::new(KEYS_MAX)), AtomicBool::new(false));
        Self(Arc::new(Shared { at, changed, file }))
    }

    /// As it was kept in `file`. One that is missing or damaged is as good as an empty one.
    pub fn open(file: PathBuf) -> Self {
        let known = match read(&file) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "when keys were last used is not known; it is noted anew");
                BTreeMap::new()
            }
        };
        let last_used = Self::of(Some(file));
        let mut by_time: Vec<_> = known.into_iter().collect();
        by_time.sort_unstable_by_key(|(_, at)| *at);
        for (key, at) in by_time {
            last_used.at().put(key, Timestamp::from_unix_ms(at));
        }
        last_used
    }

    fn at(&self) -> MutexGuard<'_, LruCache<KeyId, Timestamp>> {
        self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a key was let in, unless that was noted within the minute.
    pub(crate) fn note(&self, key: &KeyId, now: Timestamp) {
        let mut at = self.at();
        // A note of a clock that was ahead is replaced.
        if at.peek(key).is_some_and(|noted| *noted <= now && now.ms_since(*noted) < NOTED_EVERY_MS) {
            return;
        }
        at.put(key.clone(), now);
        self.0.changed.store(true, Ordering::Release);
    }

    /// When a key was last let in here, to the minute.
    pub(crate) fn of_key(&self, key: &KeyId) -> Option<Timestamp> {
        self.at().peek(key).copied()
    }

    /// Writes the file, if there is one and something has changed; a reader sees the old one or the new one. Blocks.
    ///
    /// # Errors
    /// What the system says. It is tried again the next time.
    pub fn save(&self) -> io::Result<()> {
        let Some(file) = &self.0.file else { return Ok(()) };
        if !self.0.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let known: BTreeMap<KeyId, i64> = self.at().iter().map(|(key, at)| (key.clone(), at.unix_ms())).collect();
        let partial = file.with_extension("partial");
        let written = fs::write(&partial, serde_json::to_vec(&known)?).and_then(|()| fs::rename(&partial, file));
        written.inspect_err(|_| self.0.changed.store(true, Ordering::Release))
    }
}

fn read(file: &PathBuf) -> io::Result<BTreeMap<KeyId, i64>> {
    if fs::metadata(file)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> KeyId {
        KeyId::new(id).unwrap()
    }

    const NOON: Timestamp = Timestamp::from_unix_ms(43_200_000);

    #[test]
    fn a_use_is_noted_once_a_minute() {
        let last_used = LastUsed::default();
        assert_eq!(last_used.of_key(&key("key1")), None);
        for (ms, noted_ms) in [(0, 0), (59_999, 0), (60_000, 60_000), (60_001, 60_000)] {
            last_used.note(&key("key1"), NOON.plus_ms(ms));
            assert_eq!(last_used.of_key(&key("key1")), Some(NOON.plus_ms(noted_ms)), "{ms}");
        }
        last_used.save().unwrap();
    }

    #[test]
    fn what_was_noted_is_there_after_a_restart_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("last-used.json");
        let last_used = LastUsed::open(file.clone());
        last_used.save().unwrap();
        assert!(!file.exists(), "nothing was noted, and something was written");
        last_used.note(&key("key1"), NOON);
        last_used.save().unwrap();
        assert_eq!(LastUsed::open(file.clone()).of_key(&key("key1")), Some(NOON));
        fs::write(&file, b"{\"key1\":").unwrap();
        assert_eq!(LastUsed::open(file).of_key(&key("key1")), None);
    }
}
