//! `cargo xtask image`: the image, where no registry can be reached.
//!
//! The Dockerfile is the one that builds everywhere. What it is built on, this chore makes of the machine's own: Debian by
//! debootstrap, the toolchain that builds the workspace, and the sources of the dependencies.

mod fleet;
pub(crate) mod servers;
pub(crate) mod trial;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};

use crate::{
    process::{command, describe, read, run as run_command, works},
    workspace,
};

/// Build the image with this machine's docker engine, without a registry
///
/// Makes the base image first, when there is none under the name that the Dockerfile has for it: Debian by debootstrap (it
/// wants root), this machine's Rust toolchain, and the vendored sources of every dependency, so that the build itself has no
/// network. Then lists what is in the image, and its size.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to call the image; with --fleet, which one to start
    #[arg(long, value_name = "NAME", default_value = "wasmwiz:local")]
    tag: String,
    /// Make the base image and stop
    #[arg(long)]
    base_only: bool,
    /// Make the base image anew
    #[arg(long)]
    fresh: bool,
    /// Build the image of the log's servers instead, for trials of the manifests: the nats-server that the tests use, and nothing
    /// else
    #[arg(long, conflicts_with_all = ["tag", "base_only", "fresh", "tried"])]
    servers: bool,
    /// Build nothing: start this image as it is meant to run, wait until it calls itself healthy, send it the README's
    /// request, and stop it
    #[arg(long = "try", value_name = "IMAGE", conflicts_with_all = ["tag", "base_only", "fresh"])]
    tried: Option<String>,
    /// Build nothing: start three servers of the log and three nodes of the image on private networks. Any node answers
    /// any request; nodes are killed under load, and replaced under load; at the end every node has to show what was
    /// answered, each execution with one end, and the history is verified. All of it is removed. Wants the images:
    /// `cargo xtask image`, and --servers
    #[arg(long, conflicts_with_all = ["base_only", "fresh", "servers", "tried"])]
    fleet: bool,
    /// With --fleet: how often a node is killed, each time another
    #[arg(long, value_name = "COUNT", default_value_t = 5, requires = "fleet")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    kills: u32,
    /// With --fleet: start the nodes of this image, and replace them one by one, under load, before all else
    #[arg(long, value_name = "IMAGE", requires = "fleet")]
    from_image: Option<String>,
}

/// The Debian release of the base, which is in its name.
const RELEASE: &str = "bookworm";

/// What the build takes from Debian: a C compiler and its library, make for what wants it, and certificates for the image.
const PACKAGES: &str = "ca-certificates,gcc,libc6-dev,make";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(works(command("docker").arg("version")), "no docker engine answers: start one, or use the workflows");
    if let Some(image) = &arguments.tried {
        return trial::run(image);
    }
    if arguments.fleet {
        return fleet::run(&arguments.tag, arguments.from_image.as_deref(), arguments.kills);
    }
    if arguments.servers {
        return servers::build();
    }
    let dockerfile = fs::read_to_string(workspace::root().join("Dockerfile")).context("cannot read the Dockerfile")?;
    let base = base_of(&dockerfile).context("the Dockerfile has no `ARG BASE=`")?;
    ensure!(base.ends_with(RELEASE), "the Dockerfile is built on {base}, and this chore makes {RELEASE}");
    if arguments.fresh || !works(command("docker").args(["image", "inspect", base])) {
        make_base(base)?;
    }
    if arguments.base_only {
        return Ok(());
    }
    eprintln!("image: building {} on {base}, without a network", arguments.tag);
    let revision = read(command("git").args(["rev-parse", "HEAD"]))?;
    let mut build = command("docker");
    // The classic builder: it needs nothing but the engine.
    build.env("DOCKER_BUILDKIT", "0");
    build.args(["build", "--network", "none", "--tag", &arguments.tag]);
    build.args(["--build-arg", &format!("BASE={base}")]);
    build.args(["--build-arg", &format!("REVISION={revision}")]);
    run_command(build.args(["--build-arg", concat!("VERSION=", env!("CARGO_PKG_VERSION")), "."]))?;
    show(&arguments.tag)
}

/// The base that a Dockerfile names, without its digest: an image that was made here has none.
fn base_of(dockerfile: &str) -> Option<&str> {
    let named = dockerfile.lines().find_map(|line| line.strip_prefix("ARG BASE="))?;
    named.split('@').next().map(str::trim)
}

fn make_base(name: &str) -> anyhow::Result<()> {
    let root = workspace::root().join("target/image");
    let system = root.join("system");
    if system.exists() {
        fs::remove_dir_all(&system).with_context(|| format!("cannot remove {}", system.display()))?;
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    eprintln!("image: {RELEASE} by debootstrap (some minutes)");
    let mut debootstrap = command("debootstrap");
    debootstrap.args(["--variant=minbase", "--include", PACKAGES, RELEASE]).arg(&system);
    run_command(debootstrap.stdout(Stdio::null())).context("install debootstrap, and run this as root")?;
    eprintln!("image: the toolchain and the sources of the dependencies");
    let toolchain = PathBuf::from(read(command("rustc").args(["--print", "sysroot"]))?);
    for part in ["bin", "lib"] {
        run_command(
            command("cp")
                .args(["--archive", "--no-target-directory"])
                .arg(toolchain.join(part))
                .arg(system.join("usr/local").join(part)),
        )?;
    }
    vendor(&system)?;
    import(&system, name)?;
    // The engine has it now: a gigabyte that nothing here needs again.
    fs::remove_dir_all(&system).with_context(|| format!("cannot remove {}", system.display()))
}

/// The sources of everything in Cargo.lock, and a configuration that has cargo look nowhere else.
fn vendor(system: &Path) -> anyhow::Result<()> {
    let cargo = system.join("usr/local/cargo");
    let mut vendor = command("cargo");
    vendor.args(["vendor", "--locked", "--versioned-dirs", "--quiet"]).arg(cargo.join("vendor"));
    run_command(vendor.stdout(Stdio::null()))?;
    let configuration = "[source.crates-io]\nreplace-with = \"vendored\"\n\n[source.vendored]\ndirectory = \"/usr/local/cargo/vendor\"\n";
    let file = cargo.join("config.toml");
    fs::write(&file, configuration).with_context(|| format!("cannot write {}", file.display()))
}

/// Gives the folder to the engine as an image.
fn import(system: &Path, name: &str) -> anyhow::Result<()> {
    eprintln!("image: importing {name}");
    let mut pack = command("tar");
    pack.args(["--create", "--numeric-owner", "--directory"]).arg(system).arg(".").stdout(Stdio::piped());
    let mut packing = pack.spawn().with_context(|| format!("cannot start `{}`", describe(&pack)))?;
    let mut import = command("docker");
    import.args(["import", "--change", "ENV CARGO_HOME=/usr/local/cargo"]);
    import.args(["--change", "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "-", name]);
    if let Some(packed) = packing.stdout.take() {
        import.stdin(packed);
    }
    run_command(&mut import)?;
    let packed = packing.wait().context("tar did not end")?;
    ensure!(packed.success(), "`{}` ended with {packed}", describe(&pack));
    Ok(())
}

/// What is in the image, file by file, and its size.
fn show(image: &str) -> anyhow::Result<()> {
    let container = read(command("docker").args(["create", image]))?;
    let files = list(&container);
    run_command(command("docker").args(["rm", "--volumes", &container]).stdout(Stdio::null()))?;
    eprintln!("image: {image} has\n{}", files?);
    let size = read(command("docker").args(["image", "inspect", "--format", "{{.Size}}", image]))?;
    let size: u64 = size.parse().with_context(|| format!("{size} is no size"))?;
    eprintln!("image: {image} takes {} MiB", size.div_ceil(1 << 20));
    Ok(())
}

fn list(container: &str) -> anyhow::Result<String> {
    let mut export = command("docker");
    let mut exporting =
        export.args(["export", container]).stdout(Stdio::piped()).spawn().context("cannot start docker")?;
    let Some(exported) = exporting.stdout.take() else { bail!("docker exports nothing") };
    let listed = read(Command::new("tar").args(["--list", "--verbose", "--numeric-owner"]).stdin(exported))?;
    let ended = exporting.wait().context("docker did not end")?;
    ensure!(ended.success(), "`{}` ended with {ended}", describe(&export));
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_fleet_is_said_with_it() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let parsed = |line: &str| <Line as clap::Parser>::try_parse_from(line.split(' ')).map(|line| line.arguments);
        let fleet = parsed("image --fleet --tag a:1 --kills 7 --from-image a:0").unwrap();
        assert!(fleet.fleet && fleet.tag == "a:1" && fleet.kills == 7 && fleet.from_image.as_deref() == Some("a:0"));
        let plain = parsed("image --fleet").unwrap();
        assert!(plain.tag == "wasmwiz:local" && plain.kills == 5 && plain.from_image.is_none());
        assert!(
            !parsed("image").unwrap().fleet && parsed("image --servers").is_ok() && parsed("image --try a").is_ok()
        );
        for line in ["image --kills 7", "image --from-image a", "image --fleet --servers", "image --fleet --kills 0"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_base_is_named_by_the_dockerfile_with_or_without_a_digest() {
        assert_eq!(base_of("ARG BASE=rust:1-bookworm\nFROM ${BASE}\n"), Some("rust:1-bookworm"));
        assert_eq!(base_of("ARG BASE=rust:1-bookworm@sha256:00\n"), Some("rust:1-bookworm"));
        assert_eq!(base_of("FROM scratch\n"), None);
    }

    /// The lines of the Dockerfile that begin so, without it.
    fn lines(dockerfile: &str, beginning: &str) -> Vec<String> {
        dockerfile.lines().filter_map(|line| line.strip_prefix(beginning)).map(str::to_owned).collect()
    }

    #[test]
    fn every_member_of_the_workspace_is_in_the_layer_of_the_dependencies() {
        let dockerfile = fs::read_to_string(workspace::root().join("Dockerfile")).unwrap();
        for member in workspace::members().unwrap() {
            let copied = format!("{member}/Cargo.toml {member}/");
            assert!(lines(&dockerfile, "COPY ").contains(&copied), "the Dockerfile does not have `COPY {copied}`");
        }
    }

    #[test]
    fn the_image_needs_no_frontend_no_root_and_says_how_it_is() {
        let dockerfile = fs::read_to_string(workspace::root().join("Dockerfile")).unwrap();
        assert!(!dockerfile.contains("# syntax=") && !dockerfile.contains("RUN --mount") && !dockerfile.contains("<<"));
        assert_eq!(lines(&dockerfile, "USER "), ["65532:65532"]);
        assert_eq!(lines(&dockerfile, "STOPSIGNAL "), ["SIGTERM"]);
        assert_eq!(lines(&dockerfile, "HEALTHCHECK ").len(), 1);
        assert!(
            dockerfile.matches("cargo build").count() == dockerfile.matches("cargo build --release --locked").count()
        );
    }
}
