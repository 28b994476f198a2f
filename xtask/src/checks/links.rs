//! Links between the documents, and headings that they name.

use std::{fs, path::Path};

use anyhow::{Context, bail};

use super::{Outcome, files_below};

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    let mut findings = Vec::new();
    for page in files_below(tree)?.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
        let broken = links(&text).into_iter().filter(|link| !leads_somewhere(page, &text, link));
        findings.extend(broken.map(|link| format!("{} links to {link}", page.display())));
    }
    if !findings.is_empty() {
        bail!("links that lead nowhere:\n{}", findings.join("\n"));
    }
    Ok(Outcome::Passed)
}

/// What a page links to below the root; code is no link.
fn links(text: &str) -> Vec<&str> {
    let fence = |line: &&str| line.trim_start().starts_with("```");
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= fence(&line);
        // Every second part between ticks is code.
        let prose = line.split('`').step_by(2).filter(|_| !in_code);
        let targets = prose.flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
        found.extend(targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")));
    }
    found
}

fn leads_somewhere(page: &Path, text: &str, link: &str) -> bool {
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    if file.is_empty() {
        return heading.is_none_or(|heading| has_heading(text, heading));
    }
    let Some(target) = page.parent().map(|folder| folder.join(file)) else { return false };
    match heading {
        None => target.exists(),
        Some(heading) => fs::read_to_string(target).is_ok_and(|text| has_heading(&text, heading)),
    }
}

fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line.trim_start_matches('#').trim()) == anchor)
}

/// How a heading is named in a link: lower case, hyphens for spaces, and no other signs.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn a_link_to_no_file_and_one_to_no_heading_are_found() {
        let good =
            "# An incident\n[a](b.md) [b](b.md#what-it-is) [c](#an-incident) [d](https://example.org)\n`[e](f.md)`\n";
        let files = [("a.md", good), ("b.md", "## What it is\n")];
        assert_eq!(check(tree(&files).path()).unwrap(), Outcome::Passed);
        for bad in ["[a](c.md)", "[a](b.md#other)", "[a](#other)"] {
            let files = [("a.md", bad), ("b.md", "## What it is\n")];
            assert!(check(tree(&files).path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_links_of_this_repository_lead_somewhere() {
        check(crate::workspace::root()).unwrap();
    }
}
