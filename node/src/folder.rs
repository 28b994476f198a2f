//! The data folder: made for its owner alone, and durable before anything is kept in it.

use std::{
    fs::{DirBuilder, File, Metadata},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
    process::geteuid,
};

/// Makes `folder`, and those above it that are missing, readable by their owner only, and syncs the folder above each: else
/// a power cut could take the name away with all that was synced below it. One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return usable(folder);
    }
    if let Ok(there) = folder.symlink_metadata() {
        return Err(in_the_way(folder, &there));
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

/// May files be made in it?
fn usable(folder: &Path) -> io::Result<()> {
    access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        let problem = match error {
            Errno::ROFS => "it is on a file system that is mounted to be read only".to_owned(),
            Errno::ACCESS | Errno::PERM => {
                format!("user {} may not write to it; give it to that user", geteuid().as_raw())
            }
            other => return other.into(),
        };
        io::Error::new(io::Error::from(error).kind(), problem)
    })
}

/// What is said of something that has the name of a folder and is none.
fn in_the_way(folder: &Path, there: &Metadata) -> io::Error {
    let link = std::fs::read_link(folder).ok().filter(|_| there.is_symlink());
    let problem = match link {
        Some(to) => format!(
            "it is a symbolic link to {}, and no folder is there; make that folder (is a disk to be mounted?), or remove the link",
            to.display()
        ),
        None => "it is a file and no folder; move it away".to_owned(),
    };
    io::Error::new(io::ErrorKind::NotADirectory, problem)
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
        let error = make(&dir.path().join("file")).unwrap_err().to_string();
        assert!(error.starts_with("it is a file"), "{error}");
    }

    #[test]
    fn a_link_to_nowhere_is_named_with_what_it_should_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (link, nowhere) = (dir.path().join("data"), dir.path().join("disk"));
        std::os::unix::fs::symlink(&nowhere, &link).unwrap();
        for folder in [link.clone(), link.join("below")] {
            let error = make(&folder).unwrap_err().to_string();
            assert!(error.contains("a symbolic link to") && error.contains("/disk"), "{error}");
        }
        std::fs::create_dir(&nowhere).unwrap();
        make(&link.join("below")).unwrap();
    }

    #[test]
    fn a_folder_that_may_not_be_written_to_is_said_before_anything_is_opened_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
        // Whoever may do everything may do this.
        let error = make(dir.path()).err().map(|error| error.to_string());
        assert_eq!(error.is_none(), geteuid().is_root(), "{error:?}");
        assert!(error.is_none_or(|error| error.contains("may not write to it")));
    }
}
