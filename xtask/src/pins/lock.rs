//! The lock, `.github/pins.toml`: actions by the hash of a commit, images by the digest of a manifest.

use serde::Deserialize;

/// Stands where a hash could not be found.
pub(super) const UNRESOLVED: &str = "unresolved";

/// Stands in `seen` when the hash was asked of the tag itself.
pub(super) const OWN: &str = "its own repository";

/// How many public repositories must use a hash for a version, so that it is taken from them.
const WITNESSES: usize = 2;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Lock {
    #[serde(rename = "action")]
    pub(super) actions: Vec<Action>,
    #[serde(rename = "image")]
    pub(super) images: Vec<Image>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Action {
    /// `owner/name`.
    pub(super) name: String,
    /// The tag.
    pub(super) version: String,
    /// The commit that the tag names.
    pub(super) sha: String,
    /// Where this hash stands for this version: a repository and a file of it each.
    pub(super) seen: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    pub(super) name: String,
    /// The tag.
    pub(super) version: String,
    /// `sha256:…`
    pub(super) digest: String,
}

impl Action {
    /// How a workflow has to name it: the part after the `@`, and the comment.
    pub(super) fn reference(&self) -> (&str, Option<&str>) {
        if self.sha == UNRESOLVED { (&self.version, None) } else { (&self.sha, Some(&self.version)) }
    }
}

impl Image {
    /// How the Dockerfile has to name it.
    pub(super) fn reference(&self) -> String {
        let tagged = format!("{}:{}", self.name, self.version);
        if self.digest == UNRESOLVED { tagged } else { format!("{tagged}@{}", self.digest) }
    }
}

impl Lock {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// What has no hash.
    pub(super) fn unresolved(&self) -> Vec<String> {
        let actions = self.actions.iter().filter(|action| action.sha == UNRESOLVED);
        let images = self.images.iter().filter(|image| image.digest == UNRESOLVED);
        let actions = actions.map(|action| format!("{} {}", action.name, action.version));
        actions.chain(images.map(|image| format!("{}:{}", image.name, image.version))).collect()
    }

    /// Hashes that are none, and those that nobody vouches for.
    pub(super) fn incomplete(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for action in self.actions.iter().filter(|action| action.sha != UNRESOLVED) {
            if !is_hex(&action.sha, 40) {
                findings.push(format!("{} has no hash of a commit: {}", action.name, action.sha));
            }
            if action.repositories() < WITNESSES && !action.seen.iter().any(|seen| seen == OWN) {
                findings.push(format!("{}: two repositories have to use a hash before it is taken", action.name));
            }
        }
        for image in self.images.iter().filter(|image| image.digest != UNRESOLVED) {
            if !image.digest.strip_prefix("sha256:").is_some_and(|digest| is_hex(digest, 64)) {
                findings.push(format!("{} has no digest: {}", image.name, image.digest));
            }
        }
        findings
    }
}

impl Action {
    fn repositories(&self) -> usize {
        let mut names: Vec<_> = self.seen.iter().filter_map(|seen| seen.split_whitespace().next()).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The lock's text with a hash in the entry of that name, and who vouches for it. Comments stay where they are.
pub(super) fn with_hash(text: &str, name: &str, hash: &str) -> String {
    let entry = format!("name = \"{name}\"");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("[[") {
            inside = false;
        }
        inside |= line == entry;
        lines.push(match line {
            "sha = \"unresolved\"" if inside => format!("sha = \"{hash}\""),
            "digest = \"unresolved\"" if inside => format!("digest = \"{hash}\""),
            "seen = []" if inside => format!("seen = [\"{OWN}\"]"),
            line => line.to_owned(),
        });
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Why.\n[[action]]\nname = \"a/b\"\nversion = \"v1\"\nsha = \"unresolved\"\nseen = []\n\n\
                        [[image]]\nname = \"rust\"\nversion = \"1\"\ndigest = \"unresolved\"\n";

    #[test]
    fn a_hash_is_written_into_its_own_entry() {
        let hash = "0".repeat(40);
        let written = with_hash(TEXT, "a/b", &hash);
        assert!(written.starts_with("# Why.\n") && written.contains("digest = \"unresolved\""), "{written}");
        let lock = Lock::parse(&written).unwrap();
        assert_eq!(lock.incomplete(), [""; 0]);
        assert_eq!(lock.unresolved(), ["rust:1"]);
        let digest = format!("sha256:{}", "0".repeat(64));
        let lock = Lock::parse(&with_hash(&written, "rust", &digest)).unwrap();
        assert_eq!((lock.unresolved(), lock.incomplete()), (vec![], vec![]));
        assert_eq!(lock.images[0].reference(), format!("rust:1@{digest}"));
    }

    #[test]
    fn what_is_no_hash_is_found() {
        let lock = Lock::parse(&TEXT.replace("unresolved", "main")).unwrap();
        let findings = lock.incomplete();
        assert_eq!(findings.len(), 3, "{findings:?}");
    }
}
