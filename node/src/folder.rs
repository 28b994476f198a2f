//! The data folder: made for its owner alone, and durable before anything is kept in it.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

/// Makes `folder`, and those above it that are missing, readable by their owner only, and syncs the folder above each: else
/// a power cut could take the name away with all that was synced below it. One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make(above)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_folder_that_is_made_is_private_and_one_that_is_there_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        let data = dir.path().join("a/data");
        make(&data).unwrap();
        make(&data).unwrap();
        assert_eq!((mode(&data), mode(&dir.path().join("a")), mode(dir.path())), (0o700, 0o700, 0o750));
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(make(&dir.path().join("file")).is_err());
    }
}
