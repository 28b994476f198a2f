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
    /// The node's data folder. Without it, the one that a node would have here: by the configuration file, the environment,
    /// or .wasmwiz.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data: Option<PathBuf>,
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
    /// Was it said where?
    pub const fn is_given(&self) -> bool {
        self.data.is_some() || self.config.is_some()
    }

    /// Opens it for reading. Gives the data folder with it.
    ///
    /// # Errors
    /// When there is no log, or its servers are away; the text says what to do.
    pub fn open(&self) -> anyhow::Result<(PathBuf, Opened)> {
        if let Some(data) = &self.data {
            return Ok((data.clone(), sqlite(data)?));
        }
        let config = Config::load(self.config.as_deref())?.config;
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
