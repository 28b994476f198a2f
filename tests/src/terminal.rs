//! A terminal: a shell in a pseudo-terminal, typed at and looked at as by somebody who sits there.
//!
//! The pseudo-terminal is python3's, which the tests need anyhow: it runs wherever they do.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout},
};

use crate::cli::User;

/// How long something may take to appear. Generous: it is only spent when a test fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs its arguments in a pseudo-terminal, with its own input typed there and what appears there as its output.
const PTY: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

/// How the shell asks for the next command.
const PROMPT: &str = "ready> ";

/// Makes it ask so: what is typed is on the screen too, and must not look like the prompt. A variable would not do: what
/// starts python3 may be a script of another shell, which drops it.
const ASK: &str = "PS1='rea''dy> '";

/// A shell that somebody has opened. It is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    _child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
    looked: usize,
}

impl Terminal {
    /// Opens a shell for somebody.
    ///
    /// # Errors
    /// When there is no python3, or no shell.
    pub async fn open(user: &User) -> anyhow::Result<Self> {
        let mut command = user.command("python3".as_ref())?;
        command.args(["-c", PTY, "/bin/sh"]).env("TERM", "xterm-256color");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run python3, which the tests need")?;
        let keyboard = child.stdin.take().context("the terminal has no keyboard")?;
        let screen = child.stdout.take().context("the terminal has no screen")?;
        let mut terminal = Self { _child: child, keyboard, screen, seen: String::new(), looked: 0 };
        terminal.command(ASK).await?;
        Ok(terminal)
    }

    /// Types a line.
    ///
    /// # Errors
    /// When the shell is gone.
    pub async fn types(&mut self, line: &str) -> anyhow::Result<()> {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.keyboard.flush().await?)
    }

    /// Presses Ctrl-C.
    ///
    /// # Errors
    /// When the shell is gone.
    pub async fn interrupts(&mut self) -> anyhow::Result<()> {
        self.keyboard.write_all(b"\x03").await?;
        Ok(self.keyboard.flush().await?)
    }

    /// Waits until this text appears after what was looked at before, and gives all up to it.
    ///
    /// # Errors
    /// When it does not appear in time; with all that has appeared.
    pub async fn appears(&mut self, text: &str) -> anyhow::Result<String> {
        let look = async {
            loop {
                let new = self.seen.get(self.looked..).unwrap_or_default();
                if let Some(at) = new.find(text) {
                    let found = new.get(..at + text.len()).unwrap_or_default().to_owned();
                    self.looked += found.len();
                    return Ok(found);
                }
                let mut bytes = [0; 4_096];
                let read = self.screen.read(&mut bytes).await?;
                if read == 0 {
                    bail!("the terminal has closed");
                }
                // What is cut within a letter is told by the letter's replacement; nothing here waits for such.
                self.seen.push_str(&String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()));
            }
        };
        let found = tokio::time::timeout(DEADLINE, look).await.context("it did not appear in time").flatten();
        found.with_context(|| format!("`{text}` is not on the screen:\n{}", self.seen))
    }

    /// Types a command, and gives what it wrote until the shell is ready for the next.
    ///
    /// # Errors
    /// As [`Self::appears`].
    pub async fn command(&mut self, line: &str) -> anyhow::Result<String> {
        self.types(line).await?;
        self.appears(PROMPT).await
    }

    /// All that has appeared.
    pub fn record(&self) -> &str {
        &self.seen
    }
}
