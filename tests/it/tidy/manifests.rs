//! What a crate's manifest may say.

use toml::Table;

/// Which crates of the workspace a crate may depend on; the tests may on all.
const ARROWS: [(&str, &[&str]); 7] = [
    ("wasmwiz-events", &[]),
    ("wasmwiz-actors", &["wasmwiz-events"]),
    ("wasmwiz-projections", &["wasmwiz-events"]),
    ("wasmwiz-gateway", &["wasmwiz-actors", "wasmwiz-events", "wasmwiz-projections"]),
    ("wasmwiz", &["wasmwiz-actors", "wasmwiz-events", "wasmwiz-gateway", "wasmwiz-projections"]),
    ("xtask", &[]),
    ("wasmwiz-subscriber", &[]),
];

/// The crate on top, on which nothing depends.
const TESTS: &str = "wasmwiz-tests";

/// The parts of a manifest that are checked.
pub(super) struct Manifest {
    name: String,
    /// Of every kind: for the crate, its tests and its build script, of any target.
    dependencies: Vec<(String, toml::Value)>,
    inherits_lints: bool,
}

impl Manifest {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let table: Table = text.parse().map_err(|error| format!("is not TOML: {error}"))?;
        let name = table.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
        let name = name.ok_or("has no package name")?.to_owned();
        let inherits = table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        let targets = table.get("target").and_then(toml::Value::as_table).into_iter().flatten();
        let sections = std::iter::once(&table).chain(targets.filter_map(|(_, section)| section.as_table()));
        let dependencies = sections.flat_map(dependencies_of).collect();
        Ok(Self { name, dependencies, inherits_lints: inherits == Some(true) })
    }
}

fn dependencies_of(section: &Table) -> impl Iterator<Item = (String, toml::Value)> {
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = kinds.into_iter().filter_map(|kind| section.get(kind)?.as_table());
    tables.flatten().map(|(name, value)| (name.clone(), value.clone()))
}

/// The dependencies on crates of the workspace that are not drawn.
pub(super) fn reversed_arrows(manifest: &Manifest) -> Vec<String> {
    if manifest.name == TESTS {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == manifest.name) else {
        return vec![format!("{} is not drawn: add it to docs/ARCHITECTURE.md and to this test", manifest.name)];
    };
    let ours = |name: &str| name == TESTS || ARROWS.iter().any(|(ours, _)| *ours == name);
    let reversed = manifest.dependencies.iter().filter(|(name, _)| ours(name) && !allowed.contains(&name.as_str()));
    // A crate may name itself, to switch on features of its own in its tests.
    let reversed = reversed.filter(|(name, _)| *name != manifest.name);
    reversed.map(|(name, _)| format!("{} depends on {name}", manifest.name)).collect()
}

/// Versions and lints that the crate sets itself.
pub(super) fn own_rules(manifest: &Manifest) -> Vec<String> {
    let inherited = |value: &toml::Value| value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
    let own = manifest.dependencies.iter().filter(|(_, value)| !inherited(value));
    let mut findings: Vec<_> =
        own.map(|(name, _)| format!("{} sets its own version of {name}", manifest.name)).collect();
    if !manifest.inherits_lints {
        findings.push(format!("{} does not inherit the lints", manifest.name));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(text).unwrap()
    }

    #[test]
    fn a_dependency_against_the_arrow_is_found_wherever_it_hides() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let reversed = manifest(&format!(
                "[package]\nname = 'wasmwiz-actors'\n[{section}]\nwasmwiz-projections.workspace = true\n\
                 wasmwiz-events.workspace = true\n"
            ));
            assert_eq!(reversed_arrows(&reversed), ["wasmwiz-actors depends on wasmwiz-projections"], "{section}");
        }
    }

    #[test]
    fn nothing_depends_on_the_tests_and_the_tests_may_on_all() {
        let node = manifest("[package]\nname = 'wasmwiz'\n[dev-dependencies]\nwasmwiz-tests.workspace = true\n");
        assert_eq!(reversed_arrows(&node), ["wasmwiz depends on wasmwiz-tests"]);
        let tests = manifest("[package]\nname = 'wasmwiz-tests'\n[dependencies]\nwasmwiz.workspace = true\n");
        assert_eq!(reversed_arrows(&tests), [""; 0]);
    }

    #[test]
    fn a_crate_that_nobody_drew_is_found() {
        let findings = reversed_arrows(&manifest("[package]\nname = 'wasmwiz-extra'\n"));
        assert!(findings[0].starts_with("wasmwiz-extra is not drawn"), "{findings:?}");
    }

    #[test]
    fn a_version_or_a_lint_of_its_own_is_found() {
        let own = manifest("[package]\nname = 'xtask'\n[dependencies]\nclap = '4'\nanyhow.workspace = true\n");
        assert_eq!(own_rules(&own), ["xtask sets its own version of clap", "xtask does not inherit the lints"]);
    }
}
