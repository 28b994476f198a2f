//! The folder of the keys that sign tokens.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use wasmwiz_gateway::auth::keyring::{self, Keyring};

use crate::{config::Config, folder};

/// Below the data folder, when no other is set.
const FOLDER: &str = "token-keys";

/// The key that is drawn at the first start.
const FIRST: &str = "001.pem";

/// The longest file of a key, in bytes. One of Ed25519 has 120.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// Reads the keys. Draws one if there is none and no folder is set: then this node alone has it.
///
/// # Errors
/// Which file is none, or why the folder cannot be read.
pub fn ring(config: &Config) -> anyhow::Result<Keyring> {
    let folder = folder_of(config);
    if config.auth.token_keys_dir.is_none() {
        folder::make(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let first = folder.join(FIRST);
        if pem_files(&folder)?.is_empty() {
            draw(&first)?;
        }
    }
    let mut pems = Vec::new();
    for file in pem_files(&folder)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        pems.push((name, read(&file)?));
    }
    let ring = Keyring::new(&pems, config.auth.token_signing_key.as_deref());
    ring.with_context(|| format!("the keys that sign tokens, in {}, cannot be used", folder.display()))
}

/// Where the keys are.
pub fn folder_of(config: &Config) -> PathBuf {
    config.auth.token_keys_dir.clone().unwrap_or_else(|| config.node.data_dir.join(FOLDER))
}

/// Draws a key into a new file that only its owner may read, and makes it durable. A file that is there is never replaced.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn draw(file: &Path) -> anyhow::Result<()> {
    let pem = keyring::draw()?;
    write(file, &pem).with_context(|| {
        format!("{} cannot be written; a key that is there is never replaced: name another file", file.display())
    })
}

/// Writes beside the file and then gives it its name: a half-written key would keep the node from starting for ever.
fn write(file: &Path, pem: &str) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // One that a process of the same number left half-written, as in a container.
    let _ = fs::remove_file(&beside);
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = new.write_all(pem.as_bytes()).and_then(|()| new.sync_all());
    // A link, unlike a renamed file, never takes the place of one that is there.
    let written = written.and_then(|()| fs::hard_link(&beside, file));
    fs::remove_file(&beside)?;
    written?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The files of keys, by name.
fn pem_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read; auth.token_keys_dir names it", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads the file of a key.
///
/// # Errors
/// When it cannot be read, or is too long to be one.
pub fn read(file: &Path) -> anyhow::Result<String> {
    let size_bytes = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    anyhow::ensure!(size_bytes <= FILE_BYTES_MAX, "{} is too long to be a key", file.display());
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(data: &Path) -> Config {
        let mut config = Config::default();
        config.node.data_dir = data.to_owned();
        config
    }

    #[test]
    fn a_first_key_is_drawn_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("data"));
        let (first, again) = (ring(&config).unwrap(), ring(&config).unwrap());
        assert_eq!(first.signer_kid(), again.signer_kid());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = folder_of(&config);
        assert_eq!((mode(&folder), mode(&folder.join(FIRST))), (0o700, 0o600));
    }

    #[test]
    fn a_file_of_a_key_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..200).map(|n| dir.path().join(format!("{n}.pem"))).collect();
        let watched = files.clone();
        // What a process that dies half-way leaves is what another sees half-way.
        let watching = std::thread::spawn(move || {
            let whole = |file: &PathBuf| loop {
                if let Ok(text) = fs::read_to_string(file) {
                    return text.ends_with("-----END PRIVATE KEY-----\n");
                }
            };
            watched.iter().filter(|file| !whole(file)).count()
        });
        files.iter().for_each(|file| draw(file).unwrap());
        assert_eq!(watching.join().unwrap(), 0, "files were seen before they were whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), files.len(), "something else is left");
    }

    #[test]
    fn the_last_file_signs_unless_another_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.auth.token_keys_dir = Some(dir.path().to_owned());
        let error = format!("{:#}", ring(&config).unwrap_err());
        assert!(error.contains("token keygen"), "{error}");
        draw(&dir.path().join("a.pem")).unwrap();
        let a = ring(&config).unwrap().signer_kid().to_owned();
        draw(&dir.path().join("b.pem")).unwrap();
        fs::write(dir.path().join("notes.txt"), "no key").unwrap();
        assert_ne!(ring(&config).unwrap().signer_kid(), a);
        config.auth.token_signing_key = Some("a.pem".into());
        assert_eq!(ring(&config).unwrap().signer_kid(), a);
        assert!(draw(&dir.path().join("a.pem")).is_err());
    }
}
