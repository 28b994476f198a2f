//! The golden log: what the version before has left, in few files, for a test that has no program of that version.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use rusqlite::Connection;
use wasmwiz_tests::{
    folder::{copy_all, size_bytes},
    upgrade::{DATA, EXPECTED, Expected, HEADS},
};

use crate::{left::Left, said};

/// The most that all of it may have, in bytes: it is in every checkout, once for each version that is recorded.
const BYTES_MAX: u64 = 300 * 1024;

/// The one file of the log.
const LOG: &str = "events.db";

pub(crate) fn record(left: &Left, commit: &str, to: &Path) -> anyhow::Result<()> {
    let data = to.join(DATA);
    if data.exists() {
        // Nothing else is removed.
        ensure!(to.join(EXPECTED).is_file(), "{} is there, and was not recorded by this", data.display());
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    // The rest of a data folder is made of these, or is a node's own.
    for part in ["log", "blobs"] {
        copy_all(&left.data().join(part), &data.join(part))?;
    }
    into_one_file(&data.join("log"))?;
    fs::copy(&left.heads, to.join(HEADS)).context("cannot write the heads")?;
    let (tenant, key) = (left.made.tenant.clone(), left.made.key.clone());
    let expected = Expected::new(commit.to_owned(), tenant, key, left.counted, &left.shown);
    let text = serde_json::to_string_pretty(&expected)? + "\n";
    fs::write(to.join(EXPECTED), text).context("cannot write what is expected")?;
    let bytes = size_bytes(to)?;
    ensure!(bytes <= BYTES_MAX, "the golden log has {bytes} bytes, more than {BYTES_MAX}: make its history smaller");
    said(format_args!("the golden log is in {}: {bytes} bytes", to.display()));
    Ok(())
}

/// Brings what a killed node has left beside its database into it.
fn into_one_file(log: &Path) -> anyhow::Result<()> {
    let file = Connection::open(log.join(LOG)).context("cannot open the log")?;
    let busy: i64 = file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    ensure!(busy == 0, "somebody has the copy of the log open");
    drop(file);
    for entry in fs::read_dir(log).context("cannot read the log's folder")? {
        let entry = entry?;
        if entry.file_name() != LOG {
            fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
