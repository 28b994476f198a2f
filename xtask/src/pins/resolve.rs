//! Asks for the hashes that the lock does not have: a tag's own repository, an image's registry. Needs a network.

use std::{fs, path::Path};

use anyhow::{Context, bail};

use super::{LOCK, MANIFESTS, lock::UNRESOLVED, lock::with_hash, name, read, text, used};
use crate::{
    k8s::render::TARGETS,
    process::{command, read as read_output},
};

pub(super) fn run(tree: &Path) -> anyhow::Result<()> {
    let lock = read(tree)?;
    for action in lock.actions.iter().filter(|action| action.sha == UNRESOLVED) {
        let sha = commit_of(&action.name, &action.version)?;
        keep(tree, &action.name, &sha)?;
        for file in used::workflows(tree)? {
            let unpinned = format!("{}@{}", action.name, action.version);
            replace(tree, &file, &unpinned, &format!("{}@{sha} # {}", action.name, action.version))?;
        }
    }
    for image in lock.images.iter().filter(|image| image.digest == UNRESOLVED) {
        let unpinned = image.reference();
        let digest = digest_of(&unpinned)?;
        keep(tree, &image.name, &digest)?;
        replace(
            tree,
            &tree.join("Dockerfile"),
            &format!("ARG BASE={unpinned}"),
            &format!("ARG BASE={unpinned}@{digest}"),
        )?;
        manifests(tree, &image.name, &unpinned, &digest)?;
    }
    eprintln!("pins: resolved; read the diff before you commit it");
    Ok(())
}

/// Gives an image of the manifests its digest, in the one place that they have it from and in what is rendered from that.
fn manifests(tree: &Path, name: &str, unpinned: &str, digest: &str) -> anyhow::Result<()> {
    let file = tree.join(MANIFESTS);
    fs::write(&file, with_digest(&text(&file)?, name, digest)).with_context(|| format!("cannot write {MANIFESTS}"))?;
    for target in &TARGETS {
        let (is, becomes) = (format!("{unpinned}@{UNRESOLVED}"), format!("{unpinned}@{digest}"));
        replace(tree, &tree.join(target.file), &is, &becomes)?;
    }
    Ok(())
}

/// The kustomization with a digest in the entry of that image.
fn with_digest(kustomization: &str, image: &str, digest: &str) -> String {
    let mut inside = false;
    let lines = kustomization.lines().map(|line| {
        if let Some(name) = line.trim().strip_prefix("- name: ") {
            inside = name == image;
        }
        let is = format!("digest: {UNRESOLVED}");
        if inside { line.replace(&is, &format!("digest: {digest}")) } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn keep(tree: &Path, name: &str, hash: &str) -> anyhow::Result<()> {
    let file = tree.join(LOCK);
    fs::write(&file, with_hash(&text(&file)?, name, hash)).with_context(|| format!("cannot write {LOCK}"))?;
    eprintln!("pins: {name} is {hash}");
    Ok(())
}

fn replace(tree: &Path, file: &Path, is: &str, becomes: &str) -> anyhow::Result<()> {
    let before = text(file)?;
    if before.contains(is) {
        let shown = name(tree, file);
        fs::write(file, before.replace(is, becomes)).with_context(|| format!("cannot write {shown}"))?;
    }
    Ok(())
}

/// The commit of a tag. An annotated tag is an object of its own, which names the commit: the line that ends in `^{}`.
fn commit_of(action: &str, version: &str) -> anyhow::Result<String> {
    let repository = format!("https://github.com/{action}");
    let tag = format!("refs/tags/{version}");
    let listed = read_output(command("git").args(["ls-remote", &repository, &tag, &format!("{tag}^{{}}")]))?;
    commit_in(&listed).map(str::to_owned).with_context(|| format!("{action} has no tag {version}"))
}

fn commit_in(listed: &str) -> Option<&str> {
    let lines = || listed.lines().filter_map(|line| line.split_once('\t'));
    let peeled = lines().find(|(_, name)| name.ends_with("^{}"));
    peeled.or_else(|| lines().next()).map(|(sha, _)| sha)
}

/// The digest of the list of an image's architectures.
fn digest_of(image: &str) -> anyhow::Result<String> {
    let shown = read_output(command("docker").args(["buildx", "imagetools", "inspect", image]))?;
    match shown.lines().find_map(|line| line.trim().strip_prefix("Digest:")) {
        Some(digest) => Ok(digest.trim().to_owned()),
        None => bail!("the registry names no digest of {image}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{commit_in, with_digest};

    #[test]
    fn a_digest_is_written_into_the_entry_of_its_own_image() {
        let text = "images:\n  - name: wasmwiz\n    digest: unresolved\n  - name: nats\n    newTag: 1\n    digest: unresolved\n";
        let written = with_digest(text, "nats", "sha256:00");
        assert_eq!(written, text.replace("newTag: 1\n    digest: unresolved", "newTag: 1\n    digest: sha256:00"));
    }

    #[test]
    fn a_tag_that_is_an_object_of_its_own_is_followed_to_its_commit() {
        let annotated = "1111\trefs/tags/v1\n2222\trefs/tags/v1^{}\n";
        assert_eq!(commit_in(annotated), Some("2222"));
        assert_eq!(commit_in("1111\trefs/tags/v1\n"), Some("1111"));
        assert_eq!(commit_in(""), None);
    }
}
