//! `cargo xtask rollback`: an environment goes back to a version that did.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::ArgAction;

use crate::{
    deploy::{
        Common, Deployment, commit,
        record::{Kind, Record},
    },
    k8s::image::{Digest, Repository},
};

/// Take an environment back to an earlier version, and wait until all its nodes are ready
///
/// With the manifests of that version: those of a newer one may have settings that it does not know. Everything that a
/// deployment refuses is refused here too, and first of all a version that does not know what the running one may have recorded:
/// its commit is looked at, and its program is asked (`wasmwiz compat check`). The log only goes forward. Wants docker besides.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The version, as its tag names it without the `v`
    #[arg(long, value_name = "VERSION", requires_all = ["image", "digest"], conflicts_with = "before")]
    version: Option<String>,
    /// The image's repository, without a tag
    #[arg(long, value_name = "NAME")]
    image: Option<Repository>,
    /// The image's digest, `sha256:…`
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
    /// The record of a deployment: back to what ran before it
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Take the log's servers back too, where that version had another image of them: an older one may not read what a newer one
    /// wrote
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true")]
    servers: bool,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(file) = &arguments.before
        && !record(file)?.changed
    {
        eprintln!("rollback: that deployment was refused before it changed anything; there is nothing to take back");
        return Ok(());
    }
    arguments.common.carry_out(&arguments.deployment()?)
}

impl Arguments {
    fn deployment(&self) -> anyhow::Result<Deployment> {
        ensure!(!self.reason.trim().is_empty(), "say why: the record is for those who ask later");
        let (repository, digest, revision) = match (&self.version, &self.image, &self.digest, &self.before) {
            (Some(version), Some(image), Some(digest), None) => {
                (image.clone(), digest.clone(), commit(&format!("refs/tags/v{version}"))?)
            }
            (None, None, None, Some(file)) => previous(file)?,
            _ => bail!("say where to: --version with --image and --digest, or --before with a record"),
        };
        Ok(Deployment {
            kind: Kind::Rollback,
            repository,
            digest,
            revision,
            reason: self.reason.clone(),
            manifests_of_revision: true,
            version: self.version.clone(),
            servers: self.servers,
        })
    }
}

fn record(file: &Path) -> anyhow::Result<Record> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Record::parse(&text).with_context(|| file.display().to_string())
}

/// What ran before the deployment of a record.
fn previous(file: &Path) -> anyhow::Result<(Repository, Digest, String)> {
    let previous =
        record(file)?.previous.context("nothing ran before that deployment: there is nothing to go back to")?;
    let (repository, digest) = previous.image.split_once('@').context("what ran before was named by a tag")?;
    let revision = previous.revision.context("what ran before did not say which commit it was of")?;
    Ok((repository.parse()?, digest.parse()?, commit(&revision)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(previous: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("record.json");
        let text = format!(
            r#"{{"kind": "deployment", "environment": "staging", "namespace": "a", "image": "b", "revision": "c", "reason": "",
                "by": "", "run": "", "previous": {previous}, "changed": true, "began_at": "", "ended_at": "", "outcome": "failed", "error": null,
                "steps": []}}"#
        );
        fs::write(&file, text).unwrap();
        (folder, file)
    }

    #[test]
    fn back_is_what_the_record_says_ran_before() {
        let (digest, head) = (format!("sha256:{}", "0".repeat(64)), commit("HEAD").unwrap());
        let (_folder, file) = recorded(&format!(r#"{{"image": "registry.example/w@{digest}", "revision": "{head}"}}"#));
        let (repository, found, revision) = previous(&file).unwrap();
        assert_eq!(
            (repository.to_string(), found.to_string(), revision),
            ("registry.example/w".to_owned(), digest, head)
        );
        for (before, said) in [
            ("null", "nothing ran before"),
            (r#"{"image": "registry.example/w:latest", "revision": "HEAD"}"#, "by a tag"),
            (r#"{"image": "registry.example/w@sha256:0", "revision": null}"#, "which commit"),
        ] {
            let (_folder, file) = recorded(before);
            let error = format!("{:#}", previous(&file).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_a_workflow_says_of_a_flag_and_what_people_type_are_both_understood() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let line = "rollback --environment staging --source a/b --before a.json --reason why";
        for (flags, servers) in [("", false), ("--servers", true), ("--servers=true", true), ("--servers=false", false)]
        {
            let words = line.split(' ').chain(flags.split_whitespace());
            let parsed = <Line as clap::Parser>::try_parse_from(words).unwrap();
            assert_eq!(parsed.arguments.servers, servers, "{flags}");
        }
    }
}
