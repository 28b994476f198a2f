//! `cargo xtask deploy`: a release goes into an environment, or is refused before anything changes.

mod cluster;
pub(crate) mod compatible;
mod plan;
pub(crate) mod record;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;

use self::{
    cluster::{Cluster, Programs},
    plan::Plan,
    record::{Kind, Record},
};
use crate::{
    k8s::{
        image::{Digest, Repository},
        policy::{ENVIRONMENTS, Environment},
        render::TARGETS,
    },
    process::{command, read},
    workspace,
};

/// Deploy an image to an environment, and wait until all its nodes are ready
///
/// The manifests are those of the tree. Refuses, before anything changes: what is named by a tag or whose digest is
/// unresolved; what a workflow of the repository has not signed, and for production what was not released; a namespace without
/// the Secrets that the pods mount; a version that does not know what the running one may have recorded; and what the cluster
/// itself would refuse. Wants kubectl with the rights of k8s/namespaces/base/deployer.yaml, cosign, and git with the history of
/// the running version.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The image's repository, without a tag: `HOST/OWNER/wasmwiz`
    #[arg(long, value_name = "NAME")]
    image: Repository,
    /// The image's digest, `sha256:…`
    #[arg(long, value_name = "DIGEST")]
    digest: Digest,
    /// The commit that it was built of
    #[arg(long, value_name = "COMMIT", default_value = "HEAD")]
    revision: String,
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
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How long each of the two StatefulSets may take until all its pods are ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    wait_seconds: u64,
    /// Where to write the record of it, as JSON
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
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let deployment = Deployment {
        kind: Kind::Deployment,
        repository: arguments.image.clone(),
        digest: arguments.digest.clone(),
        revision: commit(&arguments.revision)?,
        reason: String::new(),
        manifests_of_revision: false,
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
        self.carry_out_by(deployment, Programs::default())
    }

    fn carry_out_by(&self, deployment: &Deployment, programs: Programs) -> anyhow::Result<()> {
        let environment = self.environment()?;
        let manifest = manifest(environment, deployment)?;
        let plan = Plan::new(environment, deployment, &self.source, &manifest)?;
        let folder = format!("{}-{}", environment.namespace, std::process::id());
        let folder = workspace::root().join("target/deploy").join(folder);
        let wait = Duration::from_secs(self.wait_seconds);
        let cluster = Cluster { programs, namespace: environment.namespace, wait, folder };
        if self.dry_run {
            for line in plan.lines(&cluster) {
                eprintln!("deploy: would {line}");
            }
            return Ok(());
        }
        let mut record = Record::begun(environment, deployment, &self.by, &self.run)?;
        let outcome = plan.carry_out(&cluster, &mut record);
        record.end(&outcome)?;
        self.keep(&record)?;
        outcome.with_context(|| format!("{} to {} failed", deployment.kind.noun(), environment.name))
    }

    fn environment(&self) -> anyhow::Result<&'static Environment> {
        let named = ENVIRONMENTS.iter().find(|environment| environment.name == self.environment);
        named.with_context(|| format!("there is no environment {}", self.environment))
    }

    fn keep(&self, record: &Record) -> anyhow::Result<()> {
        if let Some(file) = &self.record {
            fs::write(file, record.to_json()? + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        if let Some(file) = &self.summary {
            use std::io::Write as _;
            let opened = fs::OpenOptions::new().create(true).append(true).open(file);
            let written = opened.and_then(|mut opened| opened.write_all(record.to_markdown().as_bytes()));
            written.with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
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
