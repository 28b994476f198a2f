//! What is in the volumes of a pod, as a kubelet puts it there.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, bail};

use crate::process::{command, read, run};

/// Lays files out as a kubelet does: each is a link into a folder that is exchanged as a whole.
pub(super) fn lay_out(folder: &Path, files: &[(String, Vec<u8>)], mode: u32) -> anyhow::Result<()> {
    let inner = folder.join("..1");
    let lay = || {
        fs::create_dir_all(&inner)?;
        symlink("..1", folder.join("..data"))?;
        for (name, bytes) in files {
            let file = inner.join(name);
            fs::write(&file, bytes)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
            symlink(Path::new("..data").join(name), folder.join(name))?;
        }
        // Below a folder that is its owner's alone.
        [folder, &inner].iter().try_for_each(|folder| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
    };
    lay().with_context(|| format!("cannot lay files out in {}", folder.display()))
}

/// The same for what a pod keeps: an empty folder that its group may write to.
pub(super) fn lay_out_empty(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o2775)))
        .with_context(|| format!("cannot make {}", folder.display()))
}

/// What the folder of a volume is called where it is laid out, and in the container that fills it.
pub(super) const FILLED: &str = "filled";

/// Fills a volume of the engine with the folder [`FILLED`] of a folder, as root's and the group's. It is packed with its own mode,
/// which the root of the volume takes.
pub(super) fn fill(volume: &str, folder: &Path, group: u64, image: &str) -> anyhow::Result<()> {
    let mut create = command("docker");
    let container =
        read(create.args(["create", "--network", "none", "--volume", &format!("{volume}:/{FILLED}"), image]))?;
    let mut pack = command("tar");
    pack.args(["--create", "--numeric-owner", "--owner=0", &format!("--group={group}"), "--directory"]).arg(folder);
    let mut packing = pack.arg(FILLED).stdout(Stdio::piped()).spawn().context("cannot start tar")?;
    let mut copy = command("docker");
    copy.args(["cp", "-", &format!("{container}:/")]);
    if let Some(packed) = packing.stdout.take() {
        copy.stdin(packed);
    }
    let copied = run(&mut copy);
    let packed = packing.wait().context("tar did not end");
    read(command("docker").args(["rm", "--volumes", &container]))?;
    copied?;
    if packed?.success() { Ok(()) } else { bail!("tar failed, and the volume {volume} is not filled") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_links_into_a_folder_that_is_exchanged_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        lay_out(folder.path(), &[("a".to_owned(), b"1".to_vec())], 0o440).unwrap();
        assert_eq!(fs::read_link(folder.path().join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"1");
    }
}
