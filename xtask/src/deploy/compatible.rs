//! May this version go where that one ran? It has to know every event that the other may have recorded.
//!
//! Each form in which an event is stored has a golden file for ever (`events/golden`). A version without one of them was never
//! tried on that form. Whether such an event *was* recorded is not asked: that would be a question to the log.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Context, ensure};

use crate::process::{command, read, works};

/// Where the golden files are.
const GOLDEN: &str = "events/golden";

/// # Errors
/// When there are forms that the new version does not know, or the git repository in this folder does not know one of the two.
pub(crate) fn check(history: &Path, running: &str, new: &str) -> anyhow::Result<()> {
    if running == new {
        return Ok(());
    }
    let unknown = unknown(&forms(history, running)?, &forms(history, new)?);
    ensure!(
        unknown.is_empty(),
        "{new} does not know what {running} may have recorded, and could not read those tenants: {}. Go to a version that \
         knows them, or restore a backup (docs/operations.md)",
        unknown.join(", ")
    );
    Ok(())
}

/// The types of events that a version may have recorded, each with its version.
///
/// # Errors
/// When git does not know it.
pub(crate) fn types(history: &Path, running: &str) -> anyhow::Result<Vec<String>> {
    let types: BTreeSet<_> = forms(history, running)?.iter().filter_map(|form| type_of(form)).collect();
    Ok(types.into_iter().collect())
}

/// The type of a form: what is before what tells it from others of its type. Nothing where it is of no event.
fn type_of(form: &str) -> Option<String> {
    let words: Vec<_> = form.split('.').collect();
    let is_version = |word: &&str| word.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
    let version = words.iter().position(is_version)?;
    form.starts_with("dev.").then(|| words.get(..=version).unwrap_or_default().join("."))
}

/// Is the new version one that the running one was made from? Both are known to be commits.
pub(crate) fn is_older(history: &Path, running: &str, new: &str) -> bool {
    running != new && works(git(history).args(["merge-base", "--is-ancestor", new, running]))
}

/// What the running version may have recorded and the new one cannot read.
fn unknown(running: &BTreeSet<String>, new: &BTreeSet<String>) -> Vec<String> {
    running.difference(new).cloned().collect()
}

fn git(history: &Path) -> Command {
    let mut git = command("git");
    git.arg("-C").arg(history);
    git
}

fn forms(history: &Path, revision: &str) -> anyhow::Result<BTreeSet<String>> {
    let listed = read(git(history).args(["ls-tree", "--name-only", revision, &format!("{GOLDEN}/")]));
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
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::workspace;

    /// A repository of two commits, of which the second knows one form of events more.
    pub(crate) fn history() -> (tempfile::TempDir, [String; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let golden = folder.path().join(GOLDEN);
        fs::create_dir_all(&golden).unwrap();
        read(git(folder.path()).args(["init", "--quiet"])).unwrap();
        let commits = ["a.v1", "b.v1"].map(|form| {
            fs::write(golden.join(format!("{form}.json")), "{}").unwrap();
            read(git(folder.path()).args(["add", "events"])).unwrap();
            let who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
            read(git(folder.path()).args(who).args(["commit", "--quiet", "--message", form])).unwrap();
            read(git(folder.path()).args(["rev-parse", "HEAD"])).unwrap()
        });
        (folder, commits)
    }

    #[test]
    fn forms_are_the_golden_files() {
        let listed = "events/golden/README.md\nevents/golden/a.v1.json\nevents/golden/a.v1.more.json\n";
        assert_eq!(forms_in(listed), BTreeSet::from(["a.v1".to_owned(), "a.v1.more".to_owned()]));
    }

    #[test]
    fn the_type_of_a_form_is_the_part_up_to_its_version() {
        let accepted = "dev.wasmwiz.execution.accepted.v1";
        for form in [accepted, "dev.wasmwiz.execution.accepted.v1.rerun-of"] {
            assert_eq!(type_of(form).as_deref(), Some(accepted));
        }
        assert_eq!(type_of("dev.wasmwiz.a.v12").as_deref(), Some("dev.wasmwiz.a.v12"));
        assert_eq!((type_of("commit.v1"), type_of("dev.wasmwiz.view")), (None, None));
        let types = types(workspace::root(), "HEAD").unwrap();
        assert!(types.len() > 10 && types.contains(&accepted.to_owned()), "{types:?}");
    }

    #[test]
    fn what_the_new_version_lacks_is_unknown_and_what_it_has_more_is_not() {
        let [few, many] = [&["a"][..], &["a", "b", "c"]].map(|forms| forms.iter().map(ToString::to_string).collect());
        assert_eq!(unknown(&many, &few), ["b", "c"]);
        assert_eq!(unknown(&few, &many), [""; 0]);
        assert_eq!(unknown(&many, &many), [""; 0]);
    }

    #[test]
    fn a_version_goes_forward_over_the_history_and_not_back_over_a_form_of_events() {
        let (folder, [old, new]) = history();
        check(folder.path(), &old, &new).unwrap();
        let error = check(folder.path(), &new, &old).unwrap_err().to_string();
        assert!(error.contains(&format!("{old} does not know what {new} may have recorded")), "{error}");
        assert!(error.contains(": b.v1."), "{error}");
        assert!(is_older(folder.path(), &new, &old));
        assert!(!is_older(folder.path(), &old, &new) && !is_older(folder.path(), &old, &old));
    }

    #[test]
    fn a_version_goes_where_the_same_one_ran_and_an_unknown_one_nowhere() {
        check(workspace::root(), "HEAD", "HEAD^{commit}").unwrap();
        assert!(check(workspace::root(), "HEAD", "no-such-commit").is_err());
    }
}
