//! May this version go where that one ran? It has to know every event that the other may have recorded.
//!
//! Each form in which an event is stored has a golden file for ever (`events/golden`). A version without one of them was never
//! tried on that form. Whether such an event *was* recorded is not asked: that would be a question to the log.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use crate::process::{command, read};

/// Where the golden files are.
const GOLDEN: &str = "events/golden";

/// # Errors
/// When there are forms that the new version does not know, or git does not know one of the two.
pub(crate) fn check(running: &str, new: &str) -> anyhow::Result<()> {
    if running == new {
        return Ok(());
    }
    let unknown: Vec<_> = forms(running)?.difference(&forms(new)?).cloned().collect();
    ensure!(
        unknown.is_empty(),
        "{new} does not know what {running} may have recorded, and could not read those tenants: {}. Go to a version that \
         knows them, or restore a backup (docs/operations.md)",
        unknown.join(", ")
    );
    Ok(())
}

fn forms(revision: &str) -> anyhow::Result<BTreeSet<String>> {
    let listed = read(command("git").args(["ls-tree", "--name-only", revision, &format!("{GOLDEN}/")]));
    let listed = listed.with_context(|| format!("git does not know {revision}; fetch the whole history"))?;
    let forms = forms_in(&listed);
    ensure!(!forms.is_empty(), "commit {revision} has no golden files of events");
    Ok(forms)
}

fn forms_in(listed: &str) -> BTreeSet<String> {
    let names = listed.lines().filter_map(|line| line.rsplit('/').next()?.strip_suffix(".json"));
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_the_golden_files() {
        let listed = "events/golden/README.md\nevents/golden/a.v1.json\nevents/golden/a.v1.more.json\n";
        assert_eq!(forms_in(listed), BTreeSet::from(["a.v1".to_owned(), "a.v1.more".to_owned()]));
    }

    #[test]
    fn a_version_goes_where_the_same_one_ran_and_an_unknown_one_nowhere() {
        check("HEAD", "HEAD^{commit}").unwrap();
        assert!(check("HEAD", "no-such-commit").is_err());
    }
}
