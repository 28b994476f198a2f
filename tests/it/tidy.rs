//! What is always true of the repository itself: how its parts may depend on each other, and how its files look.
//!
//! Every check is a pure function from texts to findings, so that it can be seen to fail; the tests here run each of them
//! over the files that are there.

mod adr;
mod manifests;
mod sources;
mod tree;

use wasmwiz_events::{event, upcast};

use self::{manifests::Manifest, tree::Tree};

/// Passes when there are no findings; shows all of them, and what to do, when there are.
#[track_caller]
fn assert_tidy(findings: &[String], remedy: &str) {
    assert!(findings.is_empty(), "{remedy}:\n  {}", findings.join("\n  "));
}

#[test]
fn crates_depend_on_each_other_only_as_drawn() {
    let findings = Tree::here().manifests().flat_map(|(path, text)| match Manifest::parse(text) {
        Ok(manifest) => manifests::reversed_arrows(&manifest),
        Err(error) => vec![format!("{path}: {error}")],
    });
    assert_tidy(
        &findings.collect::<Vec<_>>(),
        "an arrow of docs/ARCHITECTURE.md is reversed; move the code to the crate it belongs to, or define a trait below",
    );
}

#[test]
fn crates_take_their_versions_and_lints_from_the_workspace() {
    let findings = Tree::here().manifests().flat_map(|(path, text)| match Manifest::parse(text) {
        Ok(manifest) => manifests::own_rules(&manifest),
        Err(error) => vec![format!("{path}: {error}")],
    });
    assert_tidy(
        &findings.collect::<Vec<_>>(),
        "write `name.workspace = true` and keep the version in the root manifest; inherit the lints with `[lints] workspace = true`",
    );
}

#[test]
fn a_source_file_has_at_most_500_lines_without_its_tests() {
    let tree = Tree::here();
    let sources = tree.rust().filter(|(path, _)| path.contains("/src/"));
    assert_tidy(
        &sources.filter_map(|(path, text)| sources::too_long(path, text, 500)).collect::<Vec<_>>(),
        "a file holds one concept; split it along its concepts, as foo.rs beside foo/",
    );
}

#[test]
fn the_main_function_of_the_node_is_short() {
    let tree = Tree::here();
    let main = tree.rust().filter(|(path, _)| *path == "node/src/main.rs");
    assert_tidy(
        &main.filter_map(|(path, text)| sources::too_long(path, text, 60)).collect::<Vec<_>>(),
        "main only hands over: move what it does to cli/ or app.rs",
    );
}

#[test]
fn every_source_file_opens_by_saying_what_it_is() {
    let tree = Tree::here();
    assert_tidy(
        &tree.rust().filter_map(|(path, text)| sources::undocumented(path, text)).collect::<Vec<_>>(),
        "begin the file with a `//!` line that says what lives there",
    );
}

#[test]
fn a_module_is_named_after_its_file() {
    let tree = Tree::here();
    let findings = tree.paths().filter(|path| sources::is_unnamed(path)).map(str::to_owned);
    assert_tidy(&findings.collect::<Vec<_>>(), "name it foo.rs, beside foo/");
}

#[test]
fn no_file_names_a_machine_or_a_registry_host() {
    let tree = Tree::here();
    let files = tree.texts().filter(|(path, _)| !sources::names_the_forbidden(path));
    assert_tidy(
        &files.flat_map(|(path, text)| sources::machine_names(path, text)).collect::<Vec<_>>(),
        "the repository must work anywhere: use a relative path, or leave the registry to the tools' own configuration",
    );
}

#[test]
fn no_source_puts_anything_off() {
    let tree = Tree::here();
    let files = tree.texts().filter(|(path, _)| sources::is_source(path) && !sources::names_the_forbidden(path));
    assert_tidy(
        &files.flat_map(|(path, text)| sources::put_off(path, text)).collect::<Vec<_>>(),
        "do it, delete it, or open an issue: plans do not live in the tree",
    );
}

#[test]
fn no_payload_is_xml() {
    let tree = Tree::here();
    let files = tree.rust().filter(|(path, _)| !sources::names_the_forbidden(path));
    assert_tidy(
        &files.flat_map(|(path, text)| sources::xml_payloads(path, text)).collect::<Vec<_>>(),
        "deny.toml ignores the advisories of the XML reader because nothing reaches it: use JSON",
    );
}

#[test]
fn every_event_type_has_a_golden_file() {
    let tree = Tree::here();
    let types = event::TYPE_NAMES.iter().copied().chain(upcast::STEPS.iter().map(|step| step.from));
    assert_tidy(
        &sources::without_golden_file(types, &tree.paths().collect::<Vec<_>>()),
        "add events/<...>/golden/<type>.json, an event of that type as it is stored, and never change it again",
    );
}

#[test]
fn lines_are_at_most_120_columns_wide() {
    let settings = Tree::here().text("rustfmt.toml").parse::<toml::Table>().expect("rustfmt.toml is TOML");
    assert_eq!(settings.get("max_width").and_then(toml::Value::as_integer), Some(120), "rustfmt.toml: max_width");
}

#[test]
fn every_decision_is_in_the_index_and_complete() {
    let tree = Tree::here();
    let records = tree.texts().filter(|(path, _)| adr::is_record(path)).collect::<Vec<_>>();
    assert!(!records.is_empty(), "docs/adr/ holds no decisions");
    let findings = adr::unlisted(tree.text("docs/adr/README.md"), &records)
        .into_iter()
        .chain(records.iter().flat_map(|(path, text)| adr::incomplete(path, text)));
    assert_tidy(
        &findings.collect::<Vec<_>>(),
        "list it in docs/adr/README.md; say its context, decision and consequences",
    );
}
