//! Modules ready to run, in memory: the ones used last, bounded in number and in bytes.

use super::{CodeId, Prepared};
use lru::LruCache;

pub(crate) struct Cache {
    modules: LruCache<CodeId, Prepared>,
    modules_max: usize,
    bytes: u64,
    bytes_max: u64,
}

impl Cache {
    pub(crate) fn new(modules_max: usize, bytes_max: u64) -> Self {
        Self { modules: LruCache::unbounded(), modules_max: modules_max.max(1), bytes: 0, bytes_max }
    }

    pub(crate) fn get(&mut self, id: CodeId) -> Option<Prepared> {
        self.modules.get(&id).cloned()
    }

    /// The new one stays even when it alone is over the bounds: it is about to run.
    pub(crate) fn put(&mut self, prepared: Prepared) {
        self.bytes += prepared.size_bytes();
        if let Some(old) = self.modules.put(prepared.id(), prepared) {
            self.bytes -= old.size_bytes();
        }
        while self.modules.len() > 1 && (self.modules.len() > self.modules_max || self.bytes > self.bytes_max) {
            if let Some((_, old)) = self.modules.pop_lru() {
                self.bytes -= old.size_bytes();
            }
        }
    }
}
