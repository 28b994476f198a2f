//! How a source file may look.

/// Where people keep their files, and hosts that a package manager is pointed to by its own configuration.
const MACHINE_NAMES: [&str; 11] = [
    "/home/",
    "/root/",
    "/Users/",
    "/work/",
    "artifactory",
    "jfrog",
    "index.crates.io",
    "static.crates.io",
    "pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
];

/// Words that say that something is not done: as written, and in any case.
const UNDONE: [&str; 3] = ["TODO", "FIXME", "XXX"];
const UNDONE_IN_ANY_CASE: [&str; 2] = ["for now", "placeholder"];

/// The endings of files in which nothing may be put off. Pages are none: an input field has its own use of the word.
const SOURCE_ENDINGS: [&str; 8] = [".rs", ".toml", ".c", ".wat", ".sh", ".yml", ".yaml", ".ci/run"];

/// This file has to name what must not be named, and the lock file names where every package comes from.
pub(super) fn names_the_forbidden(path: &str) -> bool {
    path == "tests/it/tidy/sources.rs" || path == "Cargo.lock"
}

pub(super) fn is_source(path: &str) -> bool {
    SOURCE_ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// A file with more than `most` lines, its inline test modules left out; a file of tests only is never too long.
pub(super) fn too_long(path: &str, text: &str, most: usize) -> Option<String> {
    let lines = lines_without_tests(text);
    (lines > most && !path.ends_with("/tests.rs")).then(|| format!("{path} has {lines} lines"))
}

/// How many lines there are outside `#[cfg(test)] mod … { … }`. Counts on rustfmt: a module's last line is a brace that
/// stands as far to the right as its attribute.
fn lines_without_tests(text: &str) -> usize {
    let mut counted = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            counted += 1;
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let opens_module =
            lines.next().is_some_and(|next| next.trim_start().starts_with("mod ") && next.ends_with('{'));
        if opens_module {
            let is_end = |line: &&str| line.trim() == "}" && line.len() - line.trim_start().len() == indent;
            lines.by_ref().find(is_end);
        }
    }
    counted
}

/// Is it a `mod.rs` that could have a name? What the test programs of one crate share has none: directly in `tests/`, cargo
/// would take it for a test program.
pub(super) fn is_unnamed(path: &str) -> bool {
    let shared_by_tests = matches!(path.split('/').collect::<Vec<_>>()[..], [_, "tests", _, "mod.rs"]);
    path.ends_with("/mod.rs") && !shared_by_tests
}

/// A file that does not begin with a `//!` comment.
pub(super) fn undocumented(path: &str, text: &str) -> Option<String> {
    let documented =
        text.lines().next().and_then(|line| line.strip_prefix("//!")).is_some_and(|words| !words.trim().is_empty());
    (!documented).then(|| path.to_owned())
}

/// Lines that name a machine's folders or a registry's host.
pub(super) fn machine_names(path: &str, text: &str) -> Vec<String> {
    // A folder's name is one only at the beginning of a path: `docs/work/` is not meant.
    let begins_path = |line: &str, at: usize| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-}".contains(before))
    };
    let named = |line: &str, name: &str| {
        line.match_indices(name).any(|(at, _)| !name.starts_with('/') || begins_path(line, at))
    };
    findings(path, text, |line| MACHINE_NAMES.into_iter().find(|name| named(line, name)))
}

/// Lines that put something off.
pub(super) fn put_off(path: &str, text: &str) -> Vec<String> {
    findings(path, text, |line| {
        let lower = line.to_lowercase();
        let mut as_written = UNDONE.into_iter().filter(|word| has_word(line, word));
        let mut in_any_case = UNDONE_IN_ANY_CASE.into_iter().filter(|word| has_word(&lower, word));
        as_written.next().or_else(|| in_any_case.next())
    })
}

/// Lines that name poem-openapi's XML payload.
pub(super) fn xml_payloads(path: &str, text: &str) -> Vec<String> {
    findings(path, text, |line| has_word(line, "Xml").then_some("Xml"))
}

/// The event types for which there is no golden file.
pub(super) fn without_golden_file<'a>(types: impl Iterator<Item = &'a str>, paths: &[&str]) -> Vec<String> {
    let is_golden = |path: &str, name: &str| {
        path.starts_with("events/") && path.contains("/golden/") && path.ends_with(&format!("/{name}.json"))
    };
    types
        .filter(|name| !paths.iter().any(|path| is_golden(path, name)))
        .map(|name| format!("{name} has none"))
        .collect()
}

fn findings<'w>(path: &str, text: &str, find: impl Fn(&str) -> Option<&'w str>) -> Vec<String> {
    let found = text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, find(line)?)));
    found.map(|(number, word)| format!("{path}:{number} says `{word}`")).collect()
}

/// Does the word stand there by itself, and not as a part of another?
fn has_word(line: &str, word: &str) -> bool {
    let is_part =
        |neighbour: Option<char>| neighbour.is_some_and(|neighbour| neighbour.is_alphanumeric() || neighbour == '_');
    line.match_indices(word)
        .any(|(at, _)| !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let text = "//! A.\nfn a() {\n}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        assert_eq!(lines_without_tests(text), 5);
        assert_eq!(too_long("events/src/a.rs", text, 4).as_deref(), Some("events/src/a.rs has 5 lines"));
        assert_eq!(too_long("events/src/a.rs", text, 5), None);
        assert_eq!(too_long("events/src/a/tests.rs", text, 4), None);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_hides_nothing_after_it() {
        assert_eq!(lines_without_tests("#[cfg(test)]\nmod tests;\nfn a() {}\nfn b() {}\n"), 2);
    }

    #[test]
    fn a_file_that_does_not_say_what_it_is_is_found() {
        assert!(undocumented("a.rs", "use std::fs;\n//! Too late.\n").is_some());
        assert!(undocumented("a.rs", "//!\nuse std::fs;\n").is_some());
        assert!(undocumented("a.rs", "").is_some());
        assert!(undocumented("a.rs", "//! What it is.\n").is_none());
    }

    #[test]
    fn a_module_without_a_name_is_found_but_for_what_test_programs_share() {
        assert!(
            is_unnamed("events/src/log/mod.rs") && is_unnamed("tests/it/mod.rs") && is_unnamed("events/tests/mod.rs")
        );
        assert!(!is_unnamed("actors/tests/guests/mod.rs") && !is_unnamed("events/src/log.rs"));
    }

    #[test]
    fn a_path_of_somebodys_machine_is_found_and_a_relative_one_is_not() {
        let named = |line| !machine_names("a.md", line).is_empty();
        assert!(named("cd /home/ada/wasmwiz") && named("\"/root/.cargo\"") && named("index = https://pypi.org/simple"));
        assert!(!named("docs/work/plan.md") && !named("{data}/root/here") && !named("a rooted path"));
    }

    #[test]
    fn what_is_put_off_is_found_by_whole_words() {
        let said = |line| !put_off("a.rs", line).is_empty();
        assert!(said("// TODO: later") && said("// For now this is enough") && said("let placeholder = 1;"));
        assert!(!said("todo = \"deny\"") && !said("waits for nowhere") && !said("placeholders"));
    }

    #[test]
    fn an_xml_payload_is_found_however_it_is_imported() {
        assert_eq!(xml_payloads("a.rs", "\nuse poem_openapi::payload::{Json, Xml};\n"), ["a.rs:2 says `Xml`"]);
        assert_eq!(xml_payloads("a.rs", "let XmlLike = 1;"), [""; 0]);
    }

    #[test]
    fn a_type_without_a_golden_file_is_found() {
        let paths = ["events/tests/golden/key.issued.v1.json", "docs/golden/key.revoked.v1.json"];
        let findings = without_golden_file(["key.issued.v1", "key.revoked.v1"].into_iter(), &paths);
        assert_eq!(findings, ["key.revoked.v1 has none"]);
    }
}
