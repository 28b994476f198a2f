//! The records of decisions: `docs/adr/NNN-title.md`, and their index.

/// What every record says, as headings.
const SECTIONS: [&str; 3] = ["## Context", "## Decision", "## Consequences"];

/// Is it the path of a record? Everything in the folder but the index is one.
pub(super) fn is_record(path: &str) -> bool {
    path.starts_with("docs/adr/") && path.ends_with(".md") && path != "docs/adr/README.md"
}

/// Records that the index does not link to, links of the index to no record, and numbers that are taken twice.
pub(super) fn unlisted(index: &str, records: &[(&str, &str)]) -> Vec<String> {
    let names: Vec<_> = records.iter().filter_map(|(path, _)| path.strip_prefix("docs/adr/")).collect();
    let linked: Vec<_> =
        index.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link).collect();
    let mut findings = Vec::new();
    for name in &names {
        if !linked.contains(name) {
            findings.push(format!("{name} is not in the index"));
        }
        if names.iter().any(|other| other != name && number(other) == number(name)) {
            findings.push(format!("{name} shares its number"));
        }
    }
    let records_linked = linked.iter().filter(|link| number(link).is_some());
    findings
        .extend(records_linked.filter(|link| !names.contains(link)).map(|link| format!("the index links to {link}")));
    findings
}

/// What a record lacks: a number in its name, its title, a section.
pub(super) fn incomplete(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    match path.strip_prefix("docs/adr/").and_then(number) {
        Some(number) if !text.starts_with(&format!("# {number}. ")) => {
            findings.push(format!("{path} does not begin with `# {number}. <title>`"));
        }
        Some(_) => {}
        None => findings.push(format!("{path} is not named NNN-title.md")),
    }
    let missing = SECTIONS.iter().filter(|section| !text.lines().any(|line| line == **section));
    findings.extend(missing.map(|section| format!("{path} has no `{section}`")));
    findings
}

/// `007` of `007-title.md`.
fn number(name: &str) -> Option<&str> {
    let (number, _) = name.split_once('-')?;
    (number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "# 007. Title\n\n## Context\n\n## Decision\n\n## Consequences\n";

    #[test]
    fn a_whole_record_in_the_index_is_fine() {
        let records = [("docs/adr/007-title.md", WHOLE)];
        assert_eq!(unlisted("- [Title](007-title.md), see [the map](../ARCHITECTURE.md)", &records), [""; 0]);
        assert_eq!(incomplete("docs/adr/007-title.md", WHOLE), [""; 0]);
    }

    #[test]
    fn a_record_outside_the_index_and_a_link_to_none_are_found() {
        let findings = unlisted("[Other](008-other.md)", &[("docs/adr/007-title.md", WHOLE)]);
        assert_eq!(findings, ["007-title.md is not in the index", "the index links to 008-other.md"]);
    }

    #[test]
    fn a_number_that_is_taken_twice_is_found() {
        let records = [("docs/adr/007-a.md", WHOLE), ("docs/adr/007-b.md", WHOLE)];
        let findings = unlisted("[A](007-a.md) [B](007-b.md)", &records);
        assert_eq!(findings, ["007-a.md shares its number", "007-b.md shares its number"]);
    }

    #[test]
    fn a_record_without_consequences_or_its_number_is_found() {
        let text = WHOLE.replace("## Consequences", "").replace("007", "7");
        let findings = incomplete("docs/adr/007-title.md", &text);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(incomplete("docs/adr/title.md", WHOLE), ["docs/adr/title.md is not named NNN-title.md"]);
    }
}
