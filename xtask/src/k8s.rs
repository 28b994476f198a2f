//! `cargo xtask k8s`: the manifests, rendered to the files that are applied.

pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod manifest;
pub(crate) mod pods;
pub(crate) mod policy;
mod rehearsal;
pub(crate) mod render;
pub(crate) mod trial;

use std::{fs, path::PathBuf};

use anyhow::Context;

use self::image::Built;
use crate::{
    process::{command, read},
    workspace,
};

/// Render the manifests below k8s
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write k8s/*.yaml and the rules of Prometheus anew, after a change of an overlay or of the alerts
    Render,
    /// Write the files of a release, with its image in them, each with its checksum
    Release(Release),
    Try(trial::Arguments),
    Rehearse(rehearsal::Arguments),
}

/// Write the files of a release: those of the tree, with the image's digest in them
///
/// Refuses files in which any other image is without its digest.
#[derive(Debug, clap::Args)]
pub(crate) struct Release {
    #[command(flatten)]
    built: Built,
    /// The folder to write to
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        What::Render => render(),
        What::Release(release) => release.write(),
        What::Try(arguments) => trial::run(arguments),
        What::Rehearse(arguments) => rehearsal::run(arguments),
    }
}

fn render() -> anyhow::Result<()> {
    let tree = workspace::root();
    let write =
        |file: &str, text: &str| fs::write(tree.join(file), text).with_context(|| format!("cannot write {file}"));
    // The overlays take the rules up.
    write(render::RULES, &render::rules(tree)?)?;
    for target in &render::TARGETS {
        write(target.file, &target.render(tree)?)?;
        eprintln!("k8s: {} is rendered from {}", target.file, target.folder);
    }
    Ok(())
}

impl Release {
    fn write(&self) -> anyhow::Result<()> {
        let revision = crate::deploy::commit(&self.built.revision)?;
        let output = std::path::absolute(&self.output)?;
        fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
        for target in &render::TARGETS {
            let text = target.read(workspace::root())?;
            let Built { image, digest, .. } = &self.built;
            let text = image::filled(&text, image, digest, &revision).with_context(|| target.file.to_owned())?;
            let name = target.name();
            fs::write(output.join(name), text).with_context(|| format!("cannot write {name}"))?;
            let sum = read(command("sha256sum").arg(name).current_dir(&output))?;
            fs::write(output.join(format!("{name}.sha256")), sum + "\n")
                .with_context(|| format!("cannot write the checksum of {name}"))?;
            eprintln!("k8s: {} is written", output.join(name).display());
        }
        Ok(())
    }
}
