//! Secrets in files, by detect-secrets, against a baseline of what looks like one and is none.
//!
//! The baseline, `xtask/checks/secrets.json`, has a file and a hash of each; lines move, so they are not compared. What is
//! in it and no longer in the tree is an error too: a list of exceptions that only grows is read by nobody.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{Outcome, configuration, tools::tool};
use crate::process::{command, read};

/// Files of digests and nothing else; and a golden log, which has, beside those, the key that was drawn for it.
const LOCKS: [&str; 4] =
    [r"^Cargo\.lock$", r"^xtask/.*\.txt$", r"^xtask/checks/secrets\.json$", r"^tests/upgrade/log/"];

/// Lines that name a commit or a digest of what is taken from outside.
const PINNED: [&str; 2] = [r"^\s*(- )?uses: \S+@[0-9a-f]{40} ", r#"^(sha|digest) = ""#];

/// Shapes of keys for services that nothing here speaks to. Each costs a look at every line of the tree, and such a key is a
/// random text, which the detectors of those find as well.
const UNUSED: [&str; 12] = [
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "IPPublicDetector",
    "MailchimpDetector",
    "SendGridDetector",
    "SoftlayerDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
];

/// What was found in each file.
type Found = BTreeMap<String, Vec<Suspect>>;

/// Something that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
struct Suspect {
    #[serde(rename = "type")]
    kind: String,
    hashed_secret: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Report {
    results: Found,
}

pub(super) fn check(tree: &Path) -> anyhow::Result<Outcome> {
    let baseline = fs::read_to_string(configuration("secrets.json")).context("cannot read the baseline of secrets")?;
    let baseline: Report = serde_json::from_str(&baseline).context("the baseline of secrets is no report")?;
    let findings = compare(&baseline.results, &scan(tree)?);
    if !findings.is_empty() {
        bail!("detect-secrets: {}", findings.join("\n"));
    }
    Ok(Outcome::Passed)
}

/// Takes what is in the tree now to be no secret.
pub(super) fn accept(tree: &Path) -> anyhow::Result<()> {
    let report = Report { results: scan(tree)? };
    let text = serde_json::to_string_pretty(&report)? + "\n";
    fs::write(configuration("secrets.json"), text).context("cannot write the baseline of secrets")
}

fn scan(tree: &Path) -> anyhow::Result<Found> {
    let mut scan = tool("detect-secrets", tree)?;
    // It would ask the services whether what it found opens something.
    scan.args(["--cores", "2", "scan", "--no-verify"]);
    for lock in LOCKS {
        scan.args(["--exclude-files", lock]);
    }
    for pinned in PINNED {
        scan.args(["--exclude-lines", pinned]);
    }
    for detector in UNUSED {
        scan.args(["--disable-plugin", detector]);
    }
    if tree.join(".git").exists() {
        // By name: it would walk through all that was built to find out that git does not track it, and some of that is
        // not to be read.
        scan.args(tracked(tree)?);
    } else {
        scan.arg("--all-files");
    }
    let mut report: Report = serde_json::from_str(&read(&mut scan)?).context("detect-secrets prints no report")?;
    for suspects in report.results.values_mut() {
        suspects.sort();
        suspects.dedup();
    }
    Ok(report.results)
}

/// The files that git tracks and that are there.
fn tracked(tree: &Path) -> anyhow::Result<Vec<String>> {
    let listed = read(command("git").current_dir(tree).args(["ls-files", "-z"]))?;
    Ok(listed.split_terminator('\0').filter(|name| tree.join(name).is_file()).map(str::to_owned).collect())
}

/// What is new, and what is gone.
fn compare(baseline: &Found, found: &Found) -> Vec<String> {
    let missing =
        |from: &Found, file: &str, suspect: &Suspect| !from.get(file).is_some_and(|all| all.contains(suspect));
    let new = pairs(found).filter(|(file, suspect)| missing(baseline, file, suspect));
    let gone = pairs(baseline).filter(|(file, suspect)| missing(found, file, suspect));
    let new = new.map(|(file, suspect)| format!("{file} has what looks like a secret: {}", suspect.kind));
    let gone = gone.map(|(file, suspect)| format!("{file} no longer has the {} of the baseline", suspect.kind));
    new.chain(gone).collect()
}

fn pairs(found: &Found) -> impl Iterator<Item = (&str, &Suspect)> {
    found.iter().flat_map(|(file, suspects)| suspects.iter().map(move |suspect| (file.as_str(), suspect)))
}

#[cfg(test)]
mod tests {
    use super::super::{tests::tree, tools};
    use super::*;

    fn found(file: &str, hash: &str) -> Found {
        Found::from([(file.into(), vec![Suspect { kind: "Private Key".into(), hashed_secret: hash.into() }])])
    }

    #[test]
    fn what_is_new_and_what_is_gone_are_both_found() {
        assert_eq!(compare(&found("a", "1"), &found("a", "1")), [""; 0]);
        let findings = compare(&found("a", "1"), &found("a", "2"));
        assert_eq!(findings.len(), 2, "{findings:?}");
    }

    #[test]
    fn a_private_key_in_a_file_is_found() {
        if tools::are_there() {
            let key = fs::read_to_string(crate::workspace::root().join("tests/certificates/one.key.pem")).unwrap();
            let found = scan(tree(&[("server.pem", &key)]).path()).unwrap();
            assert_eq!(found.get("server.pem").map(Vec::len), Some(1), "{found:?}");
            assert_eq!(scan(tree(&[("a.md", "Nothing here.\n")]).path()).unwrap(), Found::new());
        }
    }
}
