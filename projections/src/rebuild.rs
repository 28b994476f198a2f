//! The files of views, and when one is thrown away.
//!
//! A view's file is `<name>.v<version>.db`. Nothing in it is irreplaceable, so whatever is wrong with it has one answer:
//! delete it and fold the log again. A new version is a new file; the old ones go once the new one has caught up.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use crate::{
    checkpoint::Checkpoint,
    metrics,
    projection::{Projection, is_damage},
    quarantine,
};

/// Pages of the write-ahead log between two checkpoints of SQLite: 16 MiB, so that a busy view syncs about once a second.
const WAL_PAGES: i64 = 4_096;

/// Page cache of the writing connection, in KiB.
const CACHE_KIB: i64 = 8_192;

/// How long a writer waits for another one to let go of the file, for instance a backup.
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// Where one version of one view lives.
#[derive(Debug, Clone)]
pub(crate) struct ViewFile {
    folder: PathBuf,
    name: &'static str,
    version: u32,
}

/// A view's file cannot be opened, and not be replaced either.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("a view's file cannot be {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("a new view file cannot be set up")]
    Sqlite(#[from] rusqlite::Error),
}

impl ViewFile {
    pub(crate) fn of<P: Projection>(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), name: P::NAME, version: P::VERSION }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.file_name())
    }

    fn file_name(&self) -> String {
        format!("{}.v{}.db", self.name, self.version)
    }

    fn damage_mark(&self) -> PathBuf {
        self.folder.join(format!("{}.damaged", self.file_name()))
    }

    /// There from the making of the file until the view has caught up for the first time: then it has all that the log had, and
    /// before it has a part of it, also after a restart.
    fn building_mark(&self) -> PathBuf {
        self.folder.join(format!("{}.building", self.file_name()))
    }

    /// Has the file never had all that was in the log?
    pub(crate) fn is_building(&self) -> bool {
        self.building_mark().exists()
    }

    /// The view has caught up.
    pub(crate) fn is_built(&self) -> io::Result<()> {
        remove_if_there(&self.building_mark())
    }

    /// Opens the view for writing, anew when the file is damaged, unfinished, marked, or of another schema.
    pub(crate) fn open<P: Projection>(&self) -> Result<(Connection, Checkpoint), FileError> {
        if self.damage_mark().exists() {
            self.delete("it was marked as damaged")?;
        } else if self.path().exists() {
            match open_existing::<P>(&self.path()) {
                Ok(Some(opened)) => return Ok(opened),
                Ok(None) => self.delete("it is unfinished, or of another schema")?,
                Err(error) if is_damage(&error) => self.delete("it is damaged")?,
                Err(error) => self.delete(&format!("it cannot be opened: {error}"))?,
            }
        }
        let created = private(&self.building_mark()).and_then(|()| private(&self.path()));
        created.map_err(|source| FileError::Io { doing: "created", source })?;
        Ok(create::<P>(&self.path())?)
    }

    /// Deletes the view's file; the next opening begins at the start of the log.
    pub(crate) fn delete(&self, reason: &str) -> Result<(), FileError> {
        tracing::warn!(view = self.name, reason, "a view's file is deleted and folded again from the log");
        ::metrics::counter!(metrics::PROJECTION_REBUILT_TOTAL, "view" => self.name).increment(1);
        let doing = |source| FileError::Io { doing: "deleted", source };
        remove_database(&self.path()).map_err(doing)?;
        remove_if_there(&self.damage_mark()).map_err(doing)
    }

    /// Remembers that the file is damaged, for the next start. The open file stays readable as far as it is.
    pub(crate) fn mark_damaged(&self) -> io::Result<()> {
        private(&self.damage_mark())
    }

    /// Deletes the files of other versions of this view.
    pub(crate) fn remove_other_versions(&self) -> io::Result<()> {
        let (prefix, own) = (format!("{}.v", self.name), self.file_name());
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?.file_name();
            let Some(file) = entry.to_str() else { continue };
            let version = file.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".db"));
            if file != own && version.is_some_and(|version| version.parse::<u32>().is_ok()) {
                tracing::info!(view = self.name, file, "the file of another version of the view is deleted");
                remove_database(&self.folder.join(file))?;
                remove_if_there(&self.folder.join(format!("{file}.building")))?;
            }
        }
        Ok(())
    }
}

/// An empty file that its owner alone may read. SQLite gives its own files beside a database the mode of that one.
fn private(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

fn remove_database(path: &Path) -> io::Result<()> {
    // The main file first: without it the others are leftovers that SQLite deletes.
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        remove_if_there(Path::new(&file))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Which tables a file of the view has.
pub(crate) fn schema_digest<P: Projection>() -> [u8; 32] {
    // A program that knows of no quarantine would tell what is set aside.
    Sha256::new().chain_update(P::SCHEMA).chain_update(quarantine::SCHEMA).finalize().into()
}

fn open_existing<P: Projection>(path: &Path) -> rusqlite::Result<Option<(Connection, Checkpoint)>> {
    let connection = Connection::open_with_flags(path, writing())?;
    configure(&connection)?;
    let unfinished =
        connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'checkpoint'", [], |row| {
            row.get::<_, i64>(0)
        })? == 0;
    if unfinished {
        return Ok(None);
    }
    let checkpoint = Checkpoint::load(&connection, schema_digest::<P>())?;
    Ok(checkpoint.map(|checkpoint| (connection, checkpoint)))
}

fn create<P: Projection>(path: &Path) -> rusqlite::Result<(Connection, Checkpoint)> {
    let mut connection = Connection::open_with_flags(path, writing() | OpenFlags::SQLITE_OPEN_CREATE)?;
    configure(&connection)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(P::SCHEMA)?;
    transaction.execute_batch(quarantine::SCHEMA)?;
    Checkpoint::create(&transaction, schema_digest::<P>())?;
    transaction.commit()?;
    Ok((connection, Checkpoint::START))
}

fn writing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Rows and checkpoint are rolled back together, and the log can give them again: no sync per transaction.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(())
}
