//! What the workflows, the Dockerfile and the manifests use, read line by line: a workflow names an action in one line, an
//! image its base, and a kustomization an image in three.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::lock::{Action, Image, Lock, UNRESOLVED};

/// The workflows of a tree.
pub(super) fn workflows(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = tree.join(".github/workflows");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.with_context(|| format!("cannot read {}", folder.display()))?.path());
    }
    files.sort();
    Ok(files)
}

/// What is used, and where.
#[derive(Debug, Default)]
pub(super) struct Used {
    actions: Vec<Use>,
    images: Vec<Based>,
}

/// One use of an image.
#[derive(Debug)]
struct Based {
    place: &'static str,
    /// With its tag, and its digest if that is known.
    reference: String,
}

/// One use of an action.
#[derive(Debug)]
struct Use {
    place: String,
    /// `owner/name`, without the folder of an action inside its repository.
    name: String,
    /// What is after the `@`.
    reference: String,
    /// The comment.
    version: Option<String>,
}

impl Used {
    pub(super) fn read_workflow(&mut self, file: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_start().trim_start_matches("- ");
            let Some(used) = line.strip_prefix("uses:").map(str::trim) else { continue };
            // Of this repository, at the commit that runs.
            if used.starts_with("./") {
                continue;
            }
            let (action, comment) = used.split_once('#').map_or((used, None), |(used, comment)| (used, Some(comment)));
            let (name, reference) = action.trim().split_once('@').unwrap_or((action.trim(), ""));
            let name = name.split('/').take(2).collect::<Vec<_>>().join("/");
            let version = comment.map(|comment| comment.trim().to_owned());
            self.actions.push(Use {
                place: format!("{file}:{}", index + 1),
                name,
                reference: reference.to_owned(),
                version,
            });
        }
    }

    /// The bases of a Dockerfile: the default of `BASE`, and whatever a stage begins with. Nothing has no version.
    pub(super) fn read_dockerfile(&mut self, text: &str) {
        for line in text.lines() {
            let base = line.strip_prefix("ARG BASE=");
            let stage = line.strip_prefix("FROM ").and_then(|rest| rest.split_whitespace().next());
            let named = base.or(stage).filter(|image| !image.starts_with("${") && *image != "scratch");
            self.images
                .extend(named.map(|image| Based { place: "the Dockerfile", reference: image.trim().to_owned() }));
        }
    }

    /// The images of a kustomization that have a tag. Our own has none: its digest is that of each release.
    pub(super) fn read_kustomization(&mut self, text: &str) {
        for entry in text.split("- name: ").skip(1) {
            let mut lines = entry.lines().map(str::trim);
            let name = lines.next().unwrap_or_default();
            let value = |key: &str| entry.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
            if let Some(tag) = value("newTag: ") {
                let digest = value("digest: ").filter(|digest| *digest != UNRESOLVED);
                let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
                self.images.push(Based { place: "the manifests", reference: format!("{name}:{tag}{digest}") });
            }
        }
    }

    /// Where it is not what the lock says.
    pub(super) fn against(&self, lock: &Lock) -> Vec<String> {
        let mut findings: Vec<_> = self.actions.iter().filter_map(|used| used.against(&lock.actions)).collect();
        for Based { place, reference } in &self.images {
            if !lock.images.iter().any(|locked| locked.reference() == *reference) {
                findings.push(format!("{reference} of {place} is not in the lock"));
            }
        }
        for action in lock.actions.iter().filter(|action| !self.actions.iter().any(|used| used.name == action.name)) {
            findings.push(format!("nothing uses {}: take it out of .github/pins.toml", action.name));
        }
        let unused = |image: &&Image| !self.images.iter().any(|based| based.reference == image.reference());
        findings.extend(lock.images.iter().filter(unused).map(|image| format!("nothing uses {}", image.reference())));
        findings
    }
}

impl Use {
    fn against(&self, locked: &[Action]) -> Option<String> {
        let Self { place, name, reference, version } = self;
        let Some(action) = locked.iter().find(|action| action.name == *name) else {
            return Some(format!("{place} uses {name}, which is not in the lock"));
        };
        let (expected, comment) = action.reference();
        if reference != expected {
            return Some(format!("{place} uses {name}@{reference}; the lock has {expected}"));
        }
        let said = version.as_deref();
        (comment.is_some() && said != comment)
            .then(|| format!("{place} calls {name} {}; the lock has {}", said.unwrap_or("nothing"), action.version))
    }
}
