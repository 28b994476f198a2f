//! `cargo xtask pins`: what the workflows, the image and the manifests take from outside, each by a hash of one lock, `.github/pins.toml`.

mod lock;
mod resolve;
mod used;

use std::{fs, path::Path};

use anyhow::{Context, bail};

use self::lock::Lock;
use crate::workspace;

/// Check that the workflows, the Dockerfile and the manifests use the hashes of .github/pins.toml
///
/// A hash that nobody could find stands there as `unresolved`; that is no fault until something is released.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Refuse what is unresolved, as a release does
    #[arg(long)]
    release: bool,
    /// Ask the tags' own repositories and the registries for what is unresolved, and write it down. Needs a network, git
    /// and docker's buildx
    #[arg(long, conflicts_with = "release")]
    resolve: bool,
}

/// The lock, below the root.
const LOCK: &str = ".github/pins.toml";

/// Where the manifests have their images from.
const MANIFESTS: &str = "k8s/components/images/kustomization.yaml";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let tree = workspace::root();
    if arguments.resolve {
        return resolve::run(tree);
    }
    found(&findings(tree)?)?;
    let unresolved = read(tree)?.unresolved();
    if !unresolved.is_empty() {
        let said = unresolved.join(", ");
        if arguments.release {
            bail!(
                "a release takes nothing without its hash: {said}; run `cargo xtask pins --resolve` where there is a network"
            );
        }
        eprintln!("pins: unresolved, which a release refuses: {said}");
    }
    Ok(())
}

/// An error that names all of them, if there are any.
pub(crate) fn found(findings: &[String]) -> anyhow::Result<()> {
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

/// Where the tree and its lock disagree, and what the lock itself lacks.
pub(crate) fn findings(tree: &Path) -> anyhow::Result<Vec<String>> {
    let lock = read(tree)?;
    let mut used = used::Used::default();
    for file in used::workflows(tree)? {
        used.read_workflow(&name(tree, &file), &text(&file)?);
    }
    let dockerfile = tree.join("Dockerfile");
    if dockerfile.is_file() {
        used.read_dockerfile(&text(&dockerfile)?);
    }
    let manifests = tree.join(MANIFESTS);
    if manifests.is_file() {
        used.read_kustomization(&text(&manifests)?);
    }
    Ok(lock.incomplete().into_iter().chain(used.against(&lock)).collect())
}

fn read(tree: &Path) -> anyhow::Result<Lock> {
    Lock::parse(&text(&tree.join(LOCK))?).with_context(|| format!("{LOCK} is no lock"))
}

fn text(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn name(tree: &Path, file: &Path) -> String {
    file.strip_prefix(tree).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn findings_of(lock: &str, workflow: &str, dockerfile: &str) -> Vec<String> {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join(".github/workflows")).unwrap();
        fs::write(tree.path().join(LOCK), lock).unwrap();
        fs::write(tree.path().join(".github/workflows/ci.yml"), workflow).unwrap();
        fs::write(tree.path().join("Dockerfile"), dockerfile).unwrap();
        findings(tree.path()).unwrap()
    }

    fn action(sha: &str) -> String {
        format!(
            "[[action]]\nname = \"a/b\"\nversion = \"v1\"\nsha = \"{sha}\"\nseen = [\"c/d e.yml\", \"f/g h.yml\"]\n"
        )
    }

    #[test]
    fn what_is_used_is_what_is_locked() {
        let workflow = format!("steps:\n  - uses: a/b@{SHA} # v1\n  - uses: ./.github/actions/own\n");
        assert_eq!(findings_of(&action(SHA), &workflow, ""), [""; 0]);
    }

    #[test]
    fn another_hash_another_version_and_an_action_outside_the_lock_are_found() {
        let workflow = format!("- uses: a/b@{} # v1\n- uses: a/b@{SHA} # v2\n- uses: x/y@v1\n", SHA.replace('0', "f"));
        let findings = findings_of(&action(SHA), &workflow, "");
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings[2].contains("x/y"), "{findings:?}");
    }

    #[test]
    fn a_locked_action_that_nothing_uses_is_found() {
        let findings = findings_of(&action(SHA), "", "");
        assert_eq!(findings, ["nothing uses a/b: take it out of .github/pins.toml"]);
    }

    #[test]
    fn a_hash_that_one_repository_alone_uses_is_found() {
        let lock = action(SHA).replace(", \"f/g h.yml\"", "");
        let findings = findings_of(&lock, &format!("- uses: a/b@{SHA} # v1\n"), "");
        assert!(findings[0].contains("two repositories"), "{findings:?}");
    }

    #[test]
    fn an_unresolved_action_is_used_by_its_version_and_refused_by_a_release() {
        let lock = action("unresolved").replace("\"c/d e.yml\", \"f/g h.yml\"", "");
        assert_eq!(findings_of(&lock, "- uses: a/b@v1\n", ""), [""; 0]);
        assert_eq!(Lock::parse(&lock).unwrap().unresolved(), ["a/b v1"]);
    }

    #[test]
    fn the_base_of_the_image_is_the_one_that_is_locked() {
        let lock = "[[image]]\nname = \"rust\"\nversion = \"1-bookworm\"\ndigest = \"unresolved\"\n";
        assert_eq!(findings_of(lock, "", "ARG BASE=rust:1-bookworm\nFROM ${BASE} AS build\nFROM scratch\n"), [""; 0]);
        let findings = findings_of(lock, "", "ARG BASE=rust:2-bookworm\nFROM ${BASE} AS build\nFROM debian:12\n");
        assert_eq!(findings.len(), 3, "{findings:?}");
    }

    #[test]
    fn the_images_of_the_manifests_are_those_that_are_locked_and_ours_is_in_no_lock() {
        let look = |digest: &str, manifest: &str| {
            let lock = format!("[[image]]\nname = \"nats\"\nversion = \"2\"\ndigest = \"{digest}\"\n");
            let kustomization = format!(
                "images:\n  - name: wasmwiz\n    digest: unresolved\n  - name: nats\n    newTag: 2\n    digest: {manifest}\n"
            );
            let tree = tempfile::tempdir().unwrap();
            for (file, text) in [(LOCK, lock), (MANIFESTS, kustomization), (".github/workflows/a.yml", String::new())] {
                fs::create_dir_all(tree.path().join(file).parent().unwrap()).unwrap();
                fs::write(tree.path().join(file), text).unwrap();
            }
            findings(tree.path()).unwrap().len()
        };
        let (one, two) = (format!("sha256:{}", "0".repeat(64)), format!("sha256:{}", "1".repeat(64)));
        assert_eq!((look("unresolved", "unresolved"), look(&one, &one)), (0, 0));
        // One is used and not locked, and one locked and not used.
        assert_eq!((look(&one, "unresolved"), look("unresolved", &one), look(&one, &two)), (2, 2, 2));
    }

    #[test]
    fn the_pins_of_this_repository_are_used() {
        assert_eq!(findings(workspace::root()).unwrap(), [""; 0]);
    }

    #[test]
    fn the_base_image_has_the_toolchain_of_the_workspace() {
        let toolchain = text(&workspace::root().join("rust-toolchain.toml")).unwrap();
        let dockerfile = text(&workspace::root().join("Dockerfile")).unwrap();
        let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
        assert!(
            dockerfile.contains(&format!("rust:{channel}-")),
            "the image is built by another toolchain than {channel}"
        );
    }
}
