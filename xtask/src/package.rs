//! `cargo xtask package`: the program of a release, as it is downloaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    process::{command, read, run as run_command},
    sbom, workspace,
};

/// Build the program and pack it: an archive, its checksum, and what it is made of
///
/// Builds for this machine's architecture, from Cargo.lock as it is. The archive has the program, the licence and the README.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder to write to
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

/// What goes along with the program.
const BESIDE: [&str; 3] = ["LICENSE", "README.md", "SECURITY.md"];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let name = name(std::env::consts::ARCH)?;
    eprintln!("package: {name}");
    run_command(command("cargo").args(["build", "--release", "--locked", "--package", "wasmwiz", "--bin", "wasmwiz"]))?;
    let root = workspace::root();
    let folder = root.join("target/package").join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    copy(&root.join("target/release/wasmwiz"), &folder.join("wasmwiz"))?;
    BESIDE.iter().try_for_each(|file| copy(&root.join(file), &folder.join(file)))?;
    let output = std::path::absolute(&arguments.output)?;
    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    pack(&name, &root.join("target/package"), &output)?;
    sbom::write(&output.join(format!("{name}.cyclonedx.json")))
}

/// What the archive is called: the version, and the architecture as images call it.
fn name(architecture: &str) -> anyhow::Result<String> {
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("nothing is released for {other}"),
    };
    Ok(format!("wasmwiz-{}-{architecture}-linux", env!("CARGO_PKG_VERSION")))
}

fn pack(name: &str, from: &Path, output: &Path) -> anyhow::Result<()> {
    let archive = format!("{name}.tar.gz");
    let mut tar = command("tar");
    // The same files make the same archive: no names of this machine's people, no dates.
    tar.args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    run_command(tar.arg("--directory").arg(from).arg("--file").arg(output.join(&archive)).arg(name))?;
    let sum = read(command("sha256sum").arg(&archive).current_dir(output))?;
    let file = output.join(format!("{archive}.sha256"));
    fs::write(&file, sum + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(|_| ()).with_context(|| format!("cannot copy {}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_named_by_version_and_architecture() {
        assert_eq!(name("x86_64").unwrap(), format!("wasmwiz-{}-amd64-linux", env!("CARGO_PKG_VERSION")));
        assert!(name("riscv64").is_err());
    }

    #[test]
    fn the_same_files_make_the_same_archive_with_its_checksum() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("from/a")).unwrap();
        fs::write(folder.path().join("from/a/wasmwiz"), "x").unwrap();
        let packed = |to: &str| {
            let output = folder.path().join(to);
            fs::create_dir_all(&output).unwrap();
            pack("a", &folder.path().join("from"), &output).unwrap();
            assert!(fs::read_to_string(output.join("a.tar.gz.sha256")).unwrap().ends_with("  a.tar.gz\n"));
            fs::read(output.join("a.tar.gz")).unwrap()
        };
        assert_eq!(packed("one"), packed("two"));
    }
}
