//! `cargo xtask deploy`: a release goes into an environment, or is refused before anything changes.

mod cluster;
pub(crate) mod compatible;
mod plan;
pub(crate) mod record;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{ArgAction, builder::PossibleValuesParser};

use self::{
    cluster::{Cluster, Programs},
    plan::{How, Plan},
    record::{Kind, Record},
};
use crate::{
    k8s::{
        image::{Built, Digest, Repository},
        policy::{ENVIRONMENTS, Environment},
        render::TARGETS,
    },
    process::{command, read},
    workspace,
};

/// Deploy an image to an environment, and wait until all its nodes are ready
///
/// The manifests are those of the tree. Refuses, before anything changes: what is named by a tag or whose digest is
/// unresolved; what a workflow of the repository has not signed for this very commit, and for production what was not released;
/// a namespace without the Secrets that the pods mount; a version that does not know what the running one may have recorded, or
/// that is older; servers of the log that are not all ready; and what the cluster itself would refuse. Wants kubectl with the rights of k8s/namespaces/base/deployer.yaml, cosign, and git with the history of
/// the running version.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    built: Built,
    /// The release that it is, as its tag names it without the `v`: no other one's signature will do. None where it is empty
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What a deployment and a rollback are both told.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Where to
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ENVIRONMENTS.map(|environment| environment.name)))]
    environment: String,
    /// Whose workflows have to have signed it: `OWNER/NAME` on the host of the repository
    #[arg(long, value_name = "OWNER/NAME")]
    source: String,
    /// Ask all that may refuse it, say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on where not all servers of the log are ready: for a change that mends them
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true")]
    repair: bool,
    /// How long each pod may take until it is replaced and ready, in seconds; the log's servers together an hour more
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    wait_seconds: u64,
    /// Where to write the record of it, as JSON: before the first change, and after each step
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// A file to which the record is added for people to read
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Who asked for it, for the record
    #[arg(long, value_name = "NAME", default_value = "")]
    by: String,
    /// The run of the pipeline, for the record
    #[arg(long, value_name = "URL", default_value = "")]
    run: String,
}

/// What goes where.
#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    pub(crate) kind: Kind,
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    /// The commit, in full.
    pub(crate) revision: String,
    /// Why, where somebody has to say so.
    pub(crate) reason: String,
    /// Are the manifests those of that commit, and not those of the tree?
    pub(crate) manifests_of_revision: bool,
    /// The release, where it is to be one.
    pub(crate) version: Option<String>,
    /// Is a rollback also one of the log's servers?
    pub(crate) servers: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let deployment = Deployment {
        kind: Kind::Deployment,
        repository: arguments.built.image.clone(),
        digest: arguments.built.digest.clone(),
        revision: commit(&arguments.built.revision)?,
        reason: String::new(),
        manifests_of_revision: false,
        version: arguments.version.clone().filter(|version| !version.is_empty()),
        servers: true,
    };
    arguments.common.carry_out(&deployment)
}

/// The commit of a name, in full.
///
/// # Errors
/// When git does not know it.
pub(crate) fn commit(name: &str) -> anyhow::Result<String> {
    read(command("git").args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")]))
        .with_context(|| format!("git does not know {name}; fetch the history with its tags"))
}

impl Common {
    /// Does it, and writes down what came of it.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub(crate) fn carry_out(&self, deployment: &Deployment) -> anyhow::Result<()> {
        self.carry_out_by(deployment, Programs::default(), manifest)
    }

    fn carry_out_by(
        &self,
        deployment: &Deployment,
        programs: Programs,
        manifest: impl FnOnce(&Environment, &Deployment) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let environment = self.environment()?;
        // What was only asked is no deployment.
        let file = self.record.clone().filter(|_| !self.dry_run);
        let mut record = Record::begun(environment, deployment, &self.by, &self.run, file)?;
        let pod_wait = Duration::from_secs(self.wait_seconds);
        let cluster = Cluster { programs, namespace: environment.namespace, pod_wait };
        let outcome = manifest(environment, deployment).and_then(|manifest| {
            self.follow(Plan::new(environment, deployment, &self.source, &manifest)?, &cluster, &mut record)
        });
        record.end(&outcome)?;
        self.summarise(&record)?;
        outcome.with_context(|| format!("{} to {} failed", deployment.kind.noun(), environment.name))
    }

    fn follow(&self, mut plan: Plan<'_>, cluster: &Cluster, record: &mut Record) -> anyhow::Result<()> {
        let how = How { dry_run: self.dry_run, repair: self.repair };
        plan.ask(cluster, how, record)?;
        if self.dry_run { Ok(()) } else { plan.change(cluster, record) }
    }

    fn environment(&self) -> anyhow::Result<&'static Environment> {
        let named = ENVIRONMENTS.iter().find(|environment| environment.name == self.environment);
        named.with_context(|| format!("there is no environment {}", self.environment))
    }

    fn summarise(&self, record: &Record) -> anyhow::Result<()> {
        use std::io::Write as _;
        let Some(file) = self.summary.as_ref().filter(|_| !self.dry_run) else { return Ok(()) };
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        let written = opened.and_then(|mut opened| opened.write_all(record.to_markdown().as_bytes()));
        written.with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The environment's file: of the tree, or as the version to go back to had it, whose settings it knows.
fn manifest(environment: &Environment, deployment: &Deployment) -> anyhow::Result<String> {
    let target = TARGETS.iter().find(|target| target.folder.ends_with(environment.name));
    let Some(target) = target else { bail!("nothing is rendered for {}", environment.name) };
    if !deployment.manifests_of_revision {
        return target.read(workspace::root());
    }
    let Deployment { revision, .. } = deployment;
    let shown = read(command("git").args(["show", &format!("{revision}:{}", target.file)]));
    shown.with_context(|| format!("commit {revision} has no {}: it was never deployed to a cluster", target.file))
}

#[cfg(test)]
mod tests;
