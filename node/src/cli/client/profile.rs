//! The profiles: nodes and keys, in one file that its owner alone may read.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, ensure};
use serde::{Deserialize, Serialize};

/// The largest file that is read, in bytes: thousands of profiles.
const MAX_BYTES: u64 = 1 << 20;

/// A node, and a key for it.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// Where the node is.
    pub(super) url: String,
    /// The whole key.
    pub(super) api_key: String,
}

impl fmt::Debug for Profile {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Profile {
    /// Is it for the node at `url`?
    pub(super) fn is_for(&self, url: &str) -> bool {
        self.url.trim_end_matches('/') == url.trim_end_matches('/')
    }
}

/// What the file holds.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profiles {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// `wasmwiz/profiles.toml` in the folder of configurations, `$XDG_CONFIG_HOME` or `~/.config`.
pub(super) fn default_file() -> Option<PathBuf> {
    let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = configured.or_else(|| Some(std::env::home_dir()?.join(".config")))?;
    Some(folder.join("wasmwiz/profiles.toml"))
}

impl Profiles {
    /// Reads the file; no file is no profiles. One that others may read is refused: it holds keys.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let opened = match fs::File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("{shown} cannot be read")),
        };
        let (about, me) = (opened.metadata()?, rustix::process::geteuid().as_raw());
        let mode = about.mode() & 0o777;
        ensure!(
            mode & 0o077 == 0,
            "{shown} holds keys, and others may read it (mode {mode:o}); run `chmod 600 {shown}`"
        );
        ensure!(is_own(about.uid(), me), foreign(file));
        let mut text = String::new();
        opened.take(MAX_BYTES).read_to_string(&mut text).with_context(|| format!("{shown} cannot be read"))?;
        // The error itself would quote the line that is wrong, and that may hold a key.
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line =
                error.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.split('\n').count());
            anyhow!("{shown} is no file of profiles: line {line} cannot be read; correct it, or delete the file")
        })
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// Puts one in, in place of one of the same name.
    pub(super) fn put(&mut self, name: &str, profile: Profile) {
        self.profiles.insert(name.to_owned(), profile);
    }

    /// Writes the file, whole or not at all, for its owner alone.
    pub(super) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = toml::to_string_pretty(self)?;
        let write = || -> std::io::Result<()> {
            if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut new = file.as_os_str().to_owned();
            new.push(format!(".{}.new", std::process::id()));
            let new = PathBuf::from(new);
            let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            let written = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
            let written = written.and_then(|()| fs::rename(&new, file));
            if written.is_err() {
                let _ = fs::remove_file(&new);
            }
            written
        };
        write().with_context(|| format!("{} cannot be written", file.display()))
    }
}

/// Is a file of `owner` one's own? Whoever it belongs to could have put an address of theirs into it, and may read what is
/// written to it.
const fn is_own(owner: u32, me: u32) -> bool {
    owner == me
}

fn foreign(file: &Path) -> String {
    format!(
        "{} belongs to another user, who could read the keys; name a file of your own with --profiles",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn profile() -> Profile {
        Profile { url: "http://127.0.0.1:8080".to_owned(), api_key: "ww_a_secret".to_owned() }
    }

    #[test]
    fn a_profile_survives_its_file_which_its_owner_alone_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/profiles.toml");
        let mut profiles = Profiles::read(&file).unwrap();
        profiles.put("staging", profile());
        profiles.write(&file).unwrap();
        profiles.put("default", Profile { url: "https://x".to_owned(), ..profile() });
        profiles.write(&file).unwrap();
        let read = Profiles::read(&file).unwrap();
        assert_eq!((read.get("staging"), read.get("nothing")), (Some(&profile()), None));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_and_no_key_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profiles.toml");
        Profiles::default().write(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Profiles::read(&file).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        assert!(!format!("{:?}", profile()).contains("secret"));
        assert!(profile().is_for("http://127.0.0.1:8080/") && !profile().is_for("http://127.0.0.1:80"));
    }

    #[test]
    fn a_file_of_somebody_else_is_not_ones_own_whoever_asks() {
        assert!(is_own(1_000, 1_000) && is_own(0, 0));
        assert!(!is_own(1_001, 1_000) && !is_own(1_000, 0) && !is_own(0, 1_000));
        assert!(foreign(Path::new("p.toml")).contains("--profiles"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_line_and_without_the_key_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profiles.toml");
        for line in
            ["api_key = \"ww_a_secret", "api_key = ww_a_secret", "ww_a_secret = 1", "api_key = [\"ww_a_secret\"]"]
        {
            Profiles::default().write(&file).unwrap();
            fs::write(&file, format!("[profiles.default]\nurl = \"http://x\"\n{line}\n")).unwrap();
            let error = format!("{:#}", Profiles::read(&file).unwrap_err());
            assert!(error.contains("is no file of profiles: line ") && !error.contains("secret"), "{line}: {error}");
        }
    }
}
