//! What looks at the files of the repository, without a network: one tool or rule a file.
//!
//! Each takes the folder that it looks at, so that a test can show it a fault in a folder of its own. What it lets pass on
//! purpose stands, with the reason, in its configuration below `xtask/checks`.

mod alerts;
mod compose;
mod dockerfile;
mod kubernetes;
mod links;
mod metrics;
mod pinned;
mod runbooks;
mod scripts;
mod secrets;
pub(crate) mod tools;
mod words;
mod workflows;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// How a check ended, when it found nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It looked, and nothing is wrong.
    Passed,
    /// It could not look, because of this.
    Skipped(&'static str),
}

/// A look at a folder. An error says what was found.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Does it.
    pub(crate) look: fn(&Path) -> anyhow::Result<Outcome>,
    /// What to do when it finds something.
    pub(crate) remedy: &'static str,
}

/// All of them; the quick ones first.
pub(crate) const ALL: [Check; 12] = [
    Check {
        name: "pins",
        look: pinned::check,
        remedy: "use the hashes of .github/pins.toml, or bring the lock up to date with `cargo xtask pins --resolve`",
    },
    Check {
        name: "metrics",
        look: metrics::check,
        remedy: "name a metric that a metrics.rs has, in docs/observability and in docs/runbooks",
    },
    Check { name: "links", look: links::check, remedy: "correct the link, or the heading that it names" },
    Check {
        name: "runbooks",
        look: runbooks::check,
        remedy: "give each alert its page in docs/runbooks, and each page its alert",
    },
    Check {
        name: "workflows",
        look: workflows::check,
        remedy: "narrow what the workflow lets others do, or except it in xtask/checks/zizmor.yml with the reason",
    },
    Check {
        name: "dockerfile",
        look: dockerfile::check,
        remedy: "mend the Dockerfile, or except the rule with its reason in xtask/checks/hadolint.yaml or checkov.yaml",
    },
    Check { name: "scripts", look: scripts::check, remedy: "mend the script as shellcheck's page of the code says" },
    Check {
        name: "words",
        look: words::check,
        remedy: "correct the word, or teach it to xtask/checks/typos.toml with the reason",
    },
    Check {
        name: "alerts",
        look: alerts::check,
        remedy: "mend the rule or its test below docs/observability; `promtool` explains itself",
    },
    Check {
        name: "compose",
        look: compose::check,
        remedy: "give the containers of examples/compose.yaml the settings of k8s/base, or except one in xtask/src/checks/compose.rs",
    },
    Check {
        name: "kubernetes",
        look: kubernetes::check,
        remedy: "render the manifests anew with `cargo xtask k8s render`, or mend what breaks the named rule",
    },
    Check {
        name: "secrets",
        look: secrets::check,
        remedy: "take the secret out and revoke it; if it is none, run `cargo xtask secrets` and commit the baseline",
    },
];

/// Takes what is in the tree now to be no secret.
pub(crate) fn accept_secrets(tree: &Path) -> anyhow::Result<()> {
    secrets::accept(tree)
}

/// Where the tools' configurations are.
fn configuration(name: &str) -> PathBuf {
    crate::workspace::root().join("xtask/checks").join(name)
}

/// Folders that hold nothing of the repository.
const FOREIGN: [&str; 4] = [".git", ".tools", ".wasmwiz", "target"];

/// Every file below the folder.
pub(crate) fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| format!("cannot read {}", entry.path().display()))?;
            if kind.is_file() {
                found.push(entry.path());
            } else if kind.is_dir() && !FOREIGN.iter().any(|name| entry.file_name() == *name) {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Every file below a folder of the tree whose name ends so. A folder that is not there has none.
fn files_in(tree: &Path, folder: &str, endings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let folder = tree.join(folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let is_meant = |path: &PathBuf| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending));
    Ok(files_below(&folder)?.into_iter().filter(is_meant).collect())
}

/// For tests: the texts of every file below the folder whose name ends so.
#[cfg(test)]
pub(crate) fn texts_below(folder: &Path, ending: &str) -> anyhow::Result<Vec<String>> {
    let files = files_in(folder, "", &[ending])?;
    files
        .iter()
        .map(|file| fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files.
    pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = tree.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        tree
    }

    #[test]
    fn every_check_has_a_name_of_its_own_and_a_remedy() {
        for (at, check) in ALL.iter().enumerate() {
            assert!(!check.remedy.is_empty(), "{} says nothing on failure", check.name);
            assert!(!ALL[..at].iter().any(|other| other.name == check.name), "{} is there twice", check.name);
        }
    }

    #[test]
    fn files_are_found_below_a_folder_and_build_products_are_none() {
        let tree = tree(&[("a/b.sh", ""), ("a/c.txt", ""), ("target/d.sh", "")]);
        assert_eq!(files_in(tree.path(), "", &[".sh"]).unwrap(), [tree.path().join("a/b.sh")]);
        assert!(files_in(tree.path(), "nowhere", &[".sh"]).unwrap().is_empty());
    }
}
