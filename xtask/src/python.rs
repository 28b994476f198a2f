//! Python environments below `.tools`, made of lists that pin every package with its hashes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{
    process::{command, describe, read, run as run_command},
    workspace,
};

/// An environment: where it is, and what it is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment {
    /// Its folder below `.tools`.
    pub(crate) name: &'static str,
    /// The list of its packages, for pip.
    pub(crate) list: &'static str,
    /// The same list.
    pub(crate) packages: &'static str,
}

/// Where its packages went.
#[derive(Debug)]
pub(crate) struct Installed {
    /// The folder of importable modules.
    pub(crate) modules: PathBuf,
    /// The folder of scripts.
    pub(crate) scripts: PathBuf,
}

impl Environment {
    /// Is it there, made of exactly this list?
    pub(crate) fn is_complete(&self) -> bool {
        fs::read_to_string(self.stamp()).is_ok_and(|found| found == self.packages)
    }

    /// Makes it anew. It is complete once [`Environment::seal`] says so.
    pub(crate) fn install(&self) -> anyhow::Result<Installed> {
        eprintln!("setup: installing the packages of {} (a minute, once)", self.list);
        let tools = workspace::tools();
        fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
        self.virtual_environment().or_else(|reason| {
            eprintln!("setup: no virtual environment ({reason:#}); installing into a plain folder instead");
            self.plain_folder()
        })
    }

    /// Writes down that all of it is there.
    pub(crate) fn seal(&self) -> anyhow::Result<()> {
        let stamp = self.stamp();
        fs::write(&stamp, self.packages).with_context(|| format!("cannot write {}", stamp.display()))
    }

    /// One of its programs.
    pub(crate) fn program(&self, name: &str) -> anyhow::Result<Command> {
        let script = self.home().join("bin").join(name);
        if script.is_file() {
            return Ok(command(utf8(&script)?));
        }
        // Scripts of a plain folder do not know where their modules are.
        let mut program = command(utf8(&self.plain_home().join("bin").join(name))?);
        program.env("PYTHONPATH", self.plain_home());
        Ok(program)
    }

    fn virtual_environment(&self) -> anyhow::Result<Installed> {
        let home = self.home();
        let mut create = command("python3");
        create.args(["-m", "venv", "--clear"]).arg(&home);
        read(&mut create)?;
        let scripts = home.join("bin");
        let python = scripts.join("python");
        let python = utf8(&python)?;
        let mut install = command(python);
        // What is imported is compiled when it is; most of it never is.
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
        run_command(install.args(["--require-hashes", "--requirement", self.list]))?;
        let modules = read(command(python).args(["-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]))?;
        Ok(Installed { modules: PathBuf::from(modules), scripts })
    }

    /// For where the system's python comes without the module for virtual environments.
    fn plain_folder(&self) -> anyhow::Result<Installed> {
        let home = self.plain_home();
        let mut install = command("python3");
        install.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&home);
        install.args(["--require-hashes", "--requirement", self.list]);
        run_command(&mut install)
            .with_context(|| format!("`{}` failed: install python3 with its venv or pip module", describe(&install)))?;
        let scripts = home.join("bin");
        Ok(Installed { modules: home, scripts })
    }

    fn home(&self) -> PathBuf {
        workspace::tools().join(self.name)
    }

    fn plain_home(&self) -> PathBuf {
        workspace::tools().join(format!("{}-packages", self.name))
    }

    fn stamp(&self) -> PathBuf {
        workspace::tools().join(format!("{}.stamp", self.name))
    }
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the workspace's path is not UTF-8")
}
