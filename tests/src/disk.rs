//! A disk of a few mebibytes that can be filled, and emptied again.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use rustix::fs::statvfs;
use tempfile::TempDir;

/// What is written at a time while it is filled, in bytes.
const FILL_BYTES: usize = 64 << 10;

/// How a command is begun that only root may run: as it is, by root; or by those who are asked for no password.
const AS_ROOT: [&[&str]; 2] = [&[], &["sudo", "--non-interactive"]];

/// A file system in memory, at a folder of its own. Unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
    /// Of [`AS_ROOT`], the one that mounted it.
    as_root: &'static [&'static str],
}

impl SmallDisk {
    /// Mounts one; nothing where this process may not.
    ///
    /// # Errors
    /// When there is no folder for it.
    pub fn mounted(mebibytes: u32) -> anyhow::Result<Option<Self>> {
        let folder = tempfile::tempdir().context("no folder for a disk")?;
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        let options = format!("size={mebibytes}m,mode=0700,uid={},gid={}", user.as_raw(), group.as_raw());
        let mounted = AS_ROOT.into_iter().find(|as_root| {
            let arguments = ["mount", "-t", "tmpfs", "-o", &options, "wasmwiz-disk"];
            succeeds(as_root, &arguments, folder.path())
        });
        Ok(mounted.map(|as_root| Self { folder, as_root }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all its room but so many bytes.
    ///
    /// # Errors
    /// When it has less room than that.
    pub fn fill_but(&self, left_bytes: u64) -> anyhow::Result<()> {
        let mut filler = fs::File::create(self.filler())?;
        let zeros = vec![0; FILL_BYTES];
        loop {
            let free = self.free_bytes()?.saturating_sub(left_bytes);
            let next = usize::try_from(free).unwrap_or(FILL_BYTES).min(FILL_BYTES);
            match filler.write(zeros.get(..next).unwrap_or_default()) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
        ensure!(self.free_bytes()? <= left_bytes + FILL_BYTES as u64, "the disk is not full");
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn make_room(&self) -> anyhow::Result<()> {
        fs::remove_file(self.filler()).context("the disk cannot be emptied")
    }

    /// How much room there is, in bytes.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free_bytes(&self) -> anyhow::Result<u64> {
        let found = statvfs(self.path()).context("a disk does not say how full it is")?;
        Ok(found.f_bavail * found.f_frsize)
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that has just been killed may hold a file for a moment more.
        succeeds(self.as_root, &["umount", "--lazy"], self.path());
    }
}

fn succeeds(as_root: &[&str], arguments: &[&str], path: &Path) -> bool {
    let mut words = as_root.iter().chain(arguments);
    let Some(program) = words.next() else { return false };
    let ended = Command::new(program).args(words).arg(path).stdin(Stdio::null()).output();
    ended.is_ok_and(|ended| ended.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_was_filled_takes_no_more_until_there_is_room() {
        let Some(disk) = SmallDisk::mounted(1).unwrap() else {
            eprintln!("skipped: nothing may be mounted here");
            return;
        };
        disk.fill_but(0).unwrap();
        let refused = fs::write(disk.path().join("more"), [1; 8_192]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        disk.make_room().unwrap();
        fs::write(disk.path().join("more"), [1; 8_192]).unwrap();
    }
}
