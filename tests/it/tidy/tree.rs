//! The files of the repository: what git knows, and what is new and not ignored.

#![expect(clippy::expect_used, clippy::panic, reason = "all of this is a test: what cannot be read fails it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Folders that hold no sources, where there is no git to say so.
const IGNORED_FOLDERS: [&str; 4] = [".git", ".tools", ".wasmwiz", "target"];

/// All files and, of those that are UTF-8, the texts. Paths are relative to the root, with `/`.
pub(super) struct Tree {
    files: Vec<(String, Option<String>)>,
}

impl Tree {
    /// The repository that this test is in.
    pub(super) fn here() -> &'static Self {
        static HERE: OnceLock<Tree> = OnceLock::new();
        HERE.get_or_init(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is below the root");
            let mut paths = known_to_git(root).unwrap_or_else(|| below(root));
            paths.sort();
            // A file that git still lists may be deleted already.
            let files = paths.into_iter().filter(|path| root.join(path).is_file());
            Tree { files: files.map(|path| (path.clone(), fs::read_to_string(root.join(path)).ok())).collect() }
        })
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(path, _)| path.as_str())
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// The manifests of the crates, without the root's.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| path.ends_with("/Cargo.toml"))
    }

    #[track_caller]
    pub(super) fn text(&self, path: &str) -> &str {
        let found = self.texts().find(|(found, _)| *found == path);
        found.map(|(_, text)| text).unwrap_or_else(|| panic!("{path} is missing"))
    }
}

fn known_to_git(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let listed = String::from_utf8(output.stdout).ok()?;
    Some(listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("a folder of the repository can be read") {
            let entry = entry.expect("an entry of a folder can be read");
            let path = folder.join(entry.file_name());
            match entry.file_type().expect("the type of a file is known") {
                kind if kind.is_file() => found.push(path.to_string_lossy().into_owned()),
                kind if kind.is_dir() && !IGNORED_FOLDERS.iter().any(|ignored| entry.file_name() == *ignored) => {
                    folders.push(path);
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_found_with_and_without_git() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for paths in [Tree::here().paths().map(str::to_owned).collect(), below(root)] {
            assert!(paths.contains(&"Cargo.toml".to_owned()) && paths.contains(&"tests/it/tidy.rs".to_owned()));
            assert!(!paths.iter().any(|path| path.starts_with("target/") || path.starts_with(".git/")));
        }
    }
}
