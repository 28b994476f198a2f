//! The program that runs, as a file that can be started again: also once another one is in its place on the disk, or none.
//!
//! A node starts itself as a child to compile modules. By its path it would start whatever an upgrade has put there, with
//! another engine than its own.

use std::{fs::File, os::fd::AsRawFd as _, path::PathBuf, sync::OnceLock};

use anyhow::Context as _;

/// Held open for as long as the process lives.
static IMAGE: OnceLock<File> = OnceLock::new();

/// A path under which this process, and no other, can start the program that it runs.
///
/// # Errors
/// When the system has no `/proc`, or no file can be opened.
pub fn path() -> anyhow::Result<PathBuf> {
    let image = match IMAGE.get() {
        Some(image) => image,
        None => {
            let opened = File::open("/proc/self/exe");
            let opened = opened
                .context("this program cannot open its own file, to compile modules in a child; is /proc there?")?;
            IMAGE.get_or_init(|| opened)
        }
    };
    // A child has the same descriptor until it is the program; then it is closed.
    Ok(PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, process::Command};

    use super::*;

    #[test]
    fn it_is_this_program_wherever_its_file_is() {
        let same = std::fs::metadata("/proc/self/exe").unwrap();
        let found = std::fs::metadata(path().unwrap()).unwrap();
        assert_eq!((found.dev(), found.ino()), (same.dev(), same.ino()));
        assert_eq!(path().unwrap(), path().unwrap());
        let listed = Command::new(path().unwrap()).args(["--list", "image"]).current_dir("/").output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("it_is_this_program_wherever_its_file_is"), "{listed}");
    }
}
