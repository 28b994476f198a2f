//! Images in manifests: by a digest, or not at all.

use std::{fmt, str::FromStr};

use anyhow::{Context, bail, ensure};

use super::manifest;

/// How a manifest names our own image until a release is known. No engine takes it for the name of an image.
pub(crate) const OURS: &str = "wasmwiz@unresolved";

/// Where the nodes' StatefulSet says which commit its image is of.
pub(crate) const REVISION: &str = "wasmwiz.dev/revision";

/// Stands where a digest is not known.
pub(crate) const UNRESOLVED: &str = "unresolved";

/// An image of ours, and what it was built of.
#[derive(Debug, clap::Args)]
pub(crate) struct Built {
    /// The image's repository, without a tag: `HOST/OWNER/wasmwiz`
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Repository,
    /// The image's digest, `sha256:…`
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Digest,
    /// The commit that it was built of
    #[arg(long, value_name = "COMMIT", default_value = "HEAD")]
    pub(crate) revision: String,
}

/// The digest of an image: `sha256:` and 64 digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest(String);

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_hex) => Ok(Self(text.to_owned())),
            _ if text == UNRESOLVED => bail!("the digest is unresolved: name the one of a release, `sha256:…`"),
            _ => bail!("{text:?} is no digest; a tag may be another image tomorrow: give `sha256:` and 64 digits"),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an image is kept, without a tag and a digest: `host/owner/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository(String);

impl FromStr for Repository {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (host, path) =
            text.split_once('/').with_context(|| format!("{text:?} names no registry: HOST/OWNER/NAME"))?;
        ensure!(!text.contains('@'), "{text:?} has a digest; give that with --digest");
        ensure!(!path.contains(':'), "{text:?} has a tag, which may be another image tomorrow; give --digest");
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let words = path.split('/').all(|word| !word.is_empty() && word.bytes().all(inner));
        let named = !host.is_empty() && host.bytes().all(|byte| inner(byte) || byte == b':');
        ensure!(words && named, "{text:?} is no name of an image: lower case, digits, '.', '_' and '-'");
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is said at [`REVISION`]: the commit, and the image that it is said of.
pub(crate) fn annotation(revision: &str, digest: &Digest) -> String {
    format!("{revision}@{digest}")
}

/// The rendered file with our image in it, and with the commit of it.
///
/// # Errors
/// When an image of it still has no digest.
pub(crate) fn filled(text: &str, repository: &Repository, digest: &Digest, revision: &str) -> anyhow::Result<String> {
    let reference = format!("{repository}@{digest}");
    let unknown = format!("{REVISION}: {UNRESOLVED}");
    let lines = text.lines().map(|line| match line.trim_start().trim_start_matches("- ").strip_prefix("image: ") {
        Some(OURS) => line.replace(OURS, &reference),
        _ if line.trim() == unknown => line.replace(UNRESOLVED, &annotation(revision, digest)),
        _ => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    for image in manifest::read(&text)?.iter().flat_map(manifest::Document::images) {
        is_fixed(&image)?;
    }
    Ok(text)
}

/// Does it name its image by a digest?
///
/// # Errors
/// Says what it does instead.
pub(crate) fn is_fixed(image: &str) -> anyhow::Result<()> {
    match image.split_once('@') {
        None => bail!("{image} is named by a tag, which may be another image tomorrow"),
        Some((_, UNRESOLVED)) => {
            bail!(
                "the digest of {image} is unresolved; `cargo xtask pins --resolve` asks for it where there is a network"
            )
        }
        Some((_, digest)) => digest.parse::<Digest>().map(|_| ()).with_context(|| image.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "0a".repeat(32)).parse().unwrap()
    }

    #[test]
    fn a_tag_an_unresolved_digest_and_half_a_digest_are_refused() {
        for (text, said) in [
            ("latest", "no digest"),
            ("v0.1.0", "no digest"),
            ("unresolved", "is unresolved"),
            ("sha256:0a", "no digest"),
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_repository_has_a_host_and_neither_tag_nor_digest() {
        for name in ["registry.example/wasmwiz", "registry.example:5000/a/wasmwiz"] {
            assert_eq!(name.parse::<Repository>().unwrap().to_string(), name);
        }
        for name in [
            "wasmwiz",
            "registry.example/wasmwiz:latest",
            "registry.example/a@sha256:00",
            "registry.example/A",
            "/a",
            "a//b",
        ] {
            assert!(name.parse::<Repository>().is_err(), "{name}");
        }
    }

    #[test]
    fn our_image_is_filled_in_and_any_other_must_have_its_digest() {
        let pod = |image: &str, other: &str| {
            format!(
                "kind: Pod\nspec:\n  containers:\n  - image: {image}\n    args: [\"{OURS}\"]\n  initContainers:\n  - image: {other}\n"
            )
        };
        let (repository, digest) = ("registry.example/wasmwiz".parse().unwrap(), digest());
        let fixed = format!("nats:1@{digest}");
        let text = filled(&pod(OURS, &fixed), &repository, &digest, "abc").unwrap();
        assert_eq!(text, pod(&format!("{repository}@{digest}"), &fixed));
        for (other, said) in [("nats:1@unresolved", "unresolved"), ("nats:1", "by a tag"), ("nats", "by a tag")] {
            let error = filled(&pod(OURS, other), &repository, &digest, "abc").unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
    #[test]
    fn both_environments_say_of_which_commit_their_image_is() {
        let (repository, digest) = ("registry.example/wasmwiz".parse().unwrap(), digest());
        for target in super::super::render::TARGETS.iter().filter(|target| target.folder.contains("overlays")) {
            let text = target
                .read(crate::workspace::root())
                .unwrap()
                .replace("2.15.1@unresolved", &format!("2.15.1@{digest}"));
            let documents = manifest::read(&filled(&text, &repository, &digest, "abc").unwrap()).unwrap();
            let set = documents.iter().find(|document| document.title() == "StatefulSet wasmwiz").unwrap();
            assert_eq!(set.at("/metadata/annotations")[REVISION], format!("abc@{digest}"), "{}", target.file);
        }
    }
}
