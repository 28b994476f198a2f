//! `cargo xtask advisories`: known vulnerabilities of what the workspace depends on.

use crate::{
    process::{command, run as run_command},
    setup,
};

/// Ask the database of advisories about every dependency. Needs a network
///
/// cargo-deny weighs them by deny.toml, where each exception has its reason; cargo-audit reads Cargo.lock as it is, with the
/// same exceptions, and is a second opinion. `cargo xtask ci` cannot do this: the database is fetched each time.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// The policy, whose exceptions hold for both.
const POLICY: &str = include_str!("../../deny.toml");

pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    setup::for_advisories()?;
    eprintln!("advisories: cargo deny");
    run_command(command("cargo").args(["deny", "--workspace", "--all-features", "check", "advisories"]))?;
    eprintln!("advisories: cargo audit");
    let mut audit = command("cargo");
    audit.args(["audit", "--deny", "unsound", "--deny", "yanked"]);
    for id in excepted(POLICY) {
        audit.args(["--ignore", id]);
    }
    run_command(&mut audit)
}

/// The advisories that a policy lets pass.
fn excepted(policy: &str) -> impl Iterator<Item = &str> {
    let entries = policy.lines().filter_map(|line| line.trim_start().strip_prefix("{ id = \""));
    entries.filter_map(|rest| rest.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exceptions_are_those_of_the_policy() {
        let found: Vec<_> = excepted(POLICY).collect();
        assert_eq!(found.len(), POLICY.matches("id = \"RUSTSEC-").count());
        assert!(found.iter().all(|id| id.starts_with("RUSTSEC-")), "{found:?}");
    }
}
