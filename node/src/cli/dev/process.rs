//! Processes that a platform to try out is made of: started, looked at, and stopped in order.

use std::{
    fs::File,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::time::{Instant, sleep};

/// How long a server may take until it listens.
pub(super) const START_WITHIN: Duration = Duration::from_secs(60);

/// How often the processes are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the lines of a process go.
pub(super) enum Lines {
    /// To this file.
    Kept(PathBuf),
    /// What it prints goes to where this process prints, and the rest to this file.
    Printed(PathBuf),
    /// To where those of this process go.
    Shared,
}

/// A child that was started, in a group of its own: what the terminal sends to this process's group must not reach it, as
/// all are stopped in order.
pub(super) struct Process {
    pub(super) name: String,
    child: Child,
    log: Option<PathBuf>,
    /// Has its end been said?
    ended: bool,
}

/// What a script needs to know of a process.
#[derive(Serialize)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin_url: Option<String>,
    pub(super) pid: u32,
}

impl Process {
    /// Starts it. Its standard input is as the command has it.
    ///
    /// # Errors
    /// When its file cannot be opened, or the program not be started.
    pub(super) fn start(name: String, mut command: Command, lines: Lines) -> anyhow::Result<Self> {
        command.process_group(0);
        let log = match lines {
            Lines::Kept(log) => {
                command.stdout(appended(&log)?).stderr(appended(&log)?);
                Some(log)
            }
            Lines::Printed(log) => {
                command.stdout(Stdio::inherit()).stderr(appended(&log)?);
                Some(log)
            }
            Lines::Shared => {
                command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
                None
            }
        };
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child, log, ended: false })
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it says more.
    pub(super) fn more(&self) -> String {
        self.log.as_ref().map_or_else(|| "the lines above".to_owned(), |log| log.display().to_string())
    }

    /// Looks until `look` gives something, or the process has ended; `within` a time if there is a bound. A node has none: it says
    /// itself when it cannot go on, and its views may take long.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        within: Option<Duration>,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if let Some(how) = self.has_ended() {
                bail!("{} ended ({how}) before it {what}; see {}", self.name, self.more());
            }
            let is_in_time = within.is_none_or(|within| begun.elapsed() < within);
            ensure!(is_in_time, "{} takes too long until it {what}; see {}", self.name, self.more());
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, the first time that this is seen.
    pub(super) fn has_ended(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let how = match self.child.try_wait() {
            Ok(status) => status?.to_string(),
            Err(error) => error.to_string(),
        };
        self.ended = true;
        Some(how)
    }

    /// Its exit code, if it has ended with one.
    pub(super) fn code(&mut self) -> Option<u8> {
        let status = self.child.try_wait().ok().flatten()?;
        status.code().and_then(|code| u8::try_from(code).ok())
    }

    fn signal(&mut self, signal: Signal) {
        if self.runs() {
            // It fails only when the process has ended since.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells them to stop, and kills those that take longer than `within`.
pub(super) async fn stop(processes: &mut [Process], within: Duration) {
    for process in processes.iter_mut() {
        process.signal(Signal::TERM);
    }
    let until = Instant::now() + within;
    while processes.iter_mut().any(Process::runs) && Instant::now() < until {
        sleep(LOOK_EVERY).await;
    }
    for process in processes.iter_mut().filter_map(|process| process.runs().then_some(process)) {
        tracing::warn!(name = process.name, "it did not stop in time, and is killed");
        process.signal(Signal::KILL);
    }
}

fn appended(log: &Path) -> anyhow::Result<Stdio> {
    let file = File::options().create(true).append(true).open(log);
    Ok(file.with_context(|| format!("{} cannot be written", log.display()))?.into())
}
