//! Where a command that needs no node finds a log: below a data folder, or where a node's configuration says.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use tokio::runtime::Runtime;
use wasmwiz_events::log::{jetstream::JetstreamLog, sqlite::SqliteAudit};

use crate::{
    app,
    config::{Config, LogKind},
};

/// Where the log is.
#[derive(Debug, Args)]
pub struct Place {
    /// The node's data folder.
    #[arg(long, value_name = "DIR", default_value = ".wasmwiz", conflicts_with = "config")]
    data: PathBuf,
    /// The node's configuration file, which says where its log is: needed when that is on JetStream.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A log that is open for reading.
pub enum Opened {
    /// Below the data folder.
    Sqlite(SqliteAudit),
    /// On JetStream, and what reads it.
    Jetstream(JetstreamLog, Runtime),
}

impl Place {
    /// Opens it for reading. Gives the data folder with it.
    ///
    /// # Errors
    /// When there is no log, or its servers are away; the text says what to do.
    pub fn open(&self) -> anyhow::Result<(PathBuf, Opened)> {
        let Some(file) = &self.config else { return Ok((self.data.clone(), sqlite(&self.data)?)) };
        let config = Config::load(Some(file))?;
        let data = config.node.data_dir;
        let opened = match config.log.kind {
            LogKind::Sqlite => sqlite(&data)?,
            LogKind::Jetstream => {
                let runtime = app::runtime()?;
                let log = runtime.block_on(Box::pin(JetstreamLog::open_existing(config.log.jetstream)))?;
                Opened::Jetstream(log, runtime)
            }
        };
        Ok((data, opened))
    }
}

fn sqlite(data: &Path) -> anyhow::Result<Opened> {
    let dir = data.join("log");
    let log = SqliteAudit::open(&dir).with_context(|| {
        format!("there is no log in {}; give the node's data folder with --data, or its --config", dir.display())
    })?;
    Ok(Opened::Sqlite(log))
}
