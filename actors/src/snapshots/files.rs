//! States of tenants as files: `<folder>/<tenant>/<revision>.snap`.
//!
//! They are written beside their place and renamed into it, and not synced: after a crash one may be torn or gone, which its
//! checksum shows, and then the one before it or the log is read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use wasmwiz_events::{id::TenantId, revision::Revision};

use super::Snapshots;
use crate::codec::snapshot::SNAPSHOT_MAX_BYTES;

const ENDING: &str = ".snap";

/// How a file ends that is being written.
const UNFINISHED: &str = ".unfinished";

/// Snapshots in a folder of this machine.
#[derive(Debug, Clone)]
pub struct FileSnapshots {
    folder: PathBuf,
}

impl FileSnapshots {
    /// Those in `folder`, which is made, for its owner alone, when the first is written.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn of(&self, tenant: &TenantId) -> PathBuf {
        self.folder.join(tenant.as_str())
    }
}

fn file_name(revision: Revision) -> String {
    // As many digits as the largest has, so that a listing is in order.
    format!("{:020}{ENDING}", revision.get())
}

fn revision(name: &std::ffi::OsStr) -> Option<Revision> {
    name.to_str()?.strip_suffix(ENDING)?.parse().ok().map(Revision::new)
}

impl Snapshots for FileSnapshots {
    fn revisions(&self, tenant: &TenantId) -> io::Result<Vec<Revision>> {
        let entries = match fs::read_dir(self.of(tenant)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries?,
        };
        let mut found = vec![];
        for entry in entries {
            found.extend(revision(&entry?.file_name()));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    fn read(&self, tenant: &TenantId, revision: Revision) -> io::Result<Vec<u8>> {
        let file = self.of(tenant).join(file_name(revision));
        let bytes = fs::metadata(&file)?.len();
        if usize::try_from(bytes).map_or(true, |bytes| bytes > SNAPSHOT_MAX_BYTES) {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{bytes} bytes are no snapshot")));
        }
        fs::read(file)
    }

    fn write(&self, tenant: &TenantId, revision: Revision, bytes: &[u8], keep: usize) -> io::Result<()> {
        let folder = self.of(tenant);
        make_private(&folder)?;
        // What a crash has left does not add up.
        for left in fs::read_dir(&folder)? {
            let left = left?;
            if left.file_name().to_string_lossy().ends_with(UNFINISHED) {
                fs::remove_file(left.path())?;
            }
        }
        let unfinished = folder.join(format!("{:020}{UNFINISHED}", revision.get()));
        let written =
            fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, folder.join(file_name(revision))));
        if written.is_err() {
            // On a full disk half of it would stay; gone already is as good.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        // What is ahead of the newest is of a history that is no more.
        let (ahead, others): (Vec<_>, Vec<_>) =
            self.revisions(tenant)?.into_iter().partition(|other| *other > revision);
        for old in ahead.into_iter().chain(others.into_iter().skip(keep.max(1))) {
            fs::remove_file(folder.join(file_name(old)))?;
        }
        Ok(())
    }

    fn remove(&self, tenant: &TenantId, revision: Revision) -> io::Result<()> {
        fs::remove_file(self.of(tenant).join(file_name(revision)))
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_listed_first() {
        let folder = tempfile::tempdir().unwrap();
        let kept = FileSnapshots::new(&folder.path().join("snapshots"));
        let acme = TenantId::new("acme").unwrap();
        assert_eq!(kept.revisions(&acme).unwrap(), []);
        for at in [5, 90, 1_000] {
            kept.write(&acme, Revision::new(at), &at.to_be_bytes(), 2).unwrap();
        }
        fs::write(folder.path().join("snapshots/acme/what.txt"), "nothing of ours").unwrap();
        assert_eq!(kept.revisions(&acme).unwrap(), [Revision::new(1_000), Revision::new(90)]);
        assert_eq!(kept.read(&acme, Revision::new(90)).unwrap(), 90_u64.to_be_bytes());
        assert!(kept.read(&acme, Revision::new(5)).is_err());
        // A history that was brought back from a backup goes on before what was kept of the other one.
        kept.write(&acme, Revision::new(60), b"again", 2).unwrap();
        assert_eq!(kept.revisions(&acme).unwrap(), [Revision::new(60)]);
        // What could not be finished, as the process died or the disk was full, is gone with the next one.
        let left = folder.path().join("snapshots/acme/00000000000000000061.unfinished");
        fs::write(&left, "half").unwrap();
        kept.write(&acme, Revision::new(62), b"whole", 1).unwrap();
        assert!(!left.exists());
        kept.write(&acme, Revision::new(60), b"again", 1).unwrap();
        kept.remove(&acme, Revision::new(60)).unwrap();
        assert_eq!(kept.revisions(&acme).unwrap(), []);
        assert_eq!(kept.revisions(&TenantId::new("other").unwrap()).unwrap(), []);
    }
}
