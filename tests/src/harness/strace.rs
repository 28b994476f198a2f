//! A node under `strace`: its system calls are written down, or held up.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Launch;

impl Launch {
    /// Under `strace`, which writes these system calls of all its threads to a file, with the paths of descriptors. The node
    /// stays this process's own child, so that signals reach it.
    #[must_use]
    pub fn traced(self, calls: &str, to: &Path) -> Self {
        let options = ["-D", "-f", "-y", "-s", "64", "-e", &format!("trace={calls}"), "-o"].map(OsString::from);
        self.under_strace(options.into_iter().chain([to.into()]))
    }

    /// On a slow disk: `strace` holds up every sync for so long. Other system calls are not stopped.
    #[must_use]
    pub fn with_slow_syncs(self, by: Duration) -> Self {
        self.with_syncs(&format!("delay_enter={}", by.as_micros()), Path::new("/dev/null"))
    }

    /// On a disk that stands still: `strace` holds up this sync of each thread for so long, and writes every sync to a file, with the
    /// path of what is synced; those that were held up are marked `(DELAYED)` once they have ended.
    #[must_use]
    pub fn with_a_stalled_sync(self, at: u64, by: Duration, to: &Path) -> Self {
        self.with_syncs(&format!("delay_enter={}:when={at}", by.as_micros()), to)
    }

    /// Killed by `strace` as it removes this file. Nothing else is traced. Not every architecture has `unlink`.
    #[must_use]
    pub fn killed_at_removal(self, of: &Path) -> Self {
        let [trace, inject] = ["trace=?unlink,unlinkat", "inject=?unlink,unlinkat:signal=KILL"];
        let options = ["-D", "-f", "-e", trace, "-e", inject, "-o", "/dev/null", "-P"].map(OsString::from);
        self.under_strace(options.into_iter().chain([of.into()]))
    }

    fn with_syncs(self, held_up: &str, to: &Path) -> Self {
        const SYNCS: &str = "fsync,fdatasync,msync,sync_file_range";
        let (trace, inject) = (format!("trace={SYNCS}"), format!("inject={SYNCS}:{held_up}"));
        let options = ["-D", "-f", "-y", "--seccomp-bpf", "-e", &trace, "-e", &inject, "-o"].map(OsString::from);
        self.under_strace(options.into_iter().chain([to.into()]))
    }

    fn under_strace(mut self, options: impl Iterator<Item = OsString>) -> Self {
        let program = std::mem::replace(&mut self.program, PathBuf::from("strace"));
        let own = std::mem::take(&mut self.arguments);
        self.arguments.extend(options);
        self.arguments.push(program.into());
        self.arguments.extend(own);
        self
    }
}
