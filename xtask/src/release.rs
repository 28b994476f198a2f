//! `cargo xtask release`: may this commit be released under that name, and what does the release say of itself?

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};

use crate::workspace;

/// Check that a tag may be released, and write its notes
///
/// The tag is `v` and the workspace's version, and CHANGELOG.md has a section of it. The notes are that section.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The tag, for instance `v0.1.0`
    #[arg(value_name = "TAG")]
    tag: String,
    /// Where to write the notes
    #[arg(long, value_name = "FILE")]
    notes: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if arguments.tag != format!("v{version}") {
        bail!(
            "the tag is {}, and the workspace's version {version}: tag v{version}, or change Cargo.toml",
            arguments.tag
        );
    }
    let changelog = fs::read_to_string(workspace::root().join("CHANGELOG.md")).context("cannot read CHANGELOG.md")?;
    let notes = section(&changelog, version)
        .with_context(|| format!("CHANGELOG.md has no section `## [{version}]` with a word in it"))?;
    fs::write(&arguments.notes, notes).with_context(|| format!("cannot write {}", arguments.notes.display()))?;
    eprintln!("release: {} may be released", arguments.tag);
    Ok(())
}

/// What the changelog says of a version; nothing when it says nothing.
fn section(changelog: &str, version: &str) -> Option<String> {
    let heading = format!("## [{version}]");
    let mut lines = changelog.lines().skip_while(|line| !line.starts_with(&heading));
    lines.next()?;
    let text = lines.take_while(|line| !line.starts_with("## ")).collect::<Vec<_>>().join("\n");
    let text = text.trim();
    (!text.is_empty()).then(|| format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::section;

    const CHANGELOG: &str =
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n- News.\n\n## [0.1.0]\n\n- First.\n";

    #[test]
    fn the_notes_are_the_section_of_the_version_and_an_empty_one_is_none() {
        assert_eq!(section(CHANGELOG, "0.2.0").as_deref(), Some("- News.\n"));
        assert_eq!(section(CHANGELOG, "0.1.0").as_deref(), Some("- First.\n"));
        assert_eq!(section(CHANGELOG, "Unreleased"), None);
        assert_eq!(section(CHANGELOG, "0.3.0"), None);
    }
}
