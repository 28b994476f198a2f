//! Forgetting payloads: in transactions of the writer, between its batches, a bounded number of commits each.
//!
//! A commit's row keeps everything that is hashed. Freed pages are filled again by what is appended; the file does not shrink.

use std::{ops::ControlFlow, sync::atomic::Ordering};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use super::{
    row, schema,
    writer::{Fault, Keep, Writer, used_pages},
};
use crate::{
    digest::Digest,
    log::AppendError,
    payload::{self, Payload},
    revision::Position,
};

const PACKED: &str = "SELECT payloads FROM commits WHERE position = ?1 AND payloads IS NOT NULL";
const UPDATE: &str = "UPDATE commits SET payloads = ?2 WHERE position = ?1";

/// Pages that forgetting the payloads of a commit may write beside those that it frees.
const PAGES_OF_A_COMMIT: usize = 8;

impl Writer {
    /// Does it durably, and answers.
    pub(super) fn forget(&mut self, Keep { kept, answer }: Keep) -> ControlFlow<()> {
        match self.forgotten(&kept) {
            Ok(forgotten) => {
                // Whoever asked may have gone.
                let _ = answer.send(forgotten);
                ControlFlow::Continue(())
            }
            Err(fault) => {
                self.poison(fault);
                ControlFlow::Break(())
            }
        }
    }

    fn forgotten(&mut self, kept: &[(Position, Vec<Digest>)]) -> Result<Result<u64, AppendError>, Fault> {
        match self.execute("BEGIN IMMEDIATE") {
            // As for appends: another program holds the file, and nothing was changed.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                return Ok(Err(AppendError::Busy));
            }
            begun => begun?,
        }
        let (mut bytes, mut stored) = (0_u64, 0_usize);
        for (position, kept) in kept {
            let (less, packed) = match keep(&self.connection, *position, kept) {
                // A row is written anew before what it had is freed, and the log has reached its bound: nothing is changed.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                    if !self.connection.is_autocommit() {
                        self.execute("ROLLBACK")?;
                    }
                    return Ok(Err(AppendError::Busy));
                }
                kept => kept?,
            };
            bytes = bytes.saturating_add(less);
            stored = stored.saturating_add(packed);
        }
        let used_pages = self.config.max_bytes.map(|_| used_pages(&self.connection)).transpose()?;
        self.execute("COMMIT")?;
        if let Some(used_pages) = used_pages {
            self.shared.used_pages.store(used_pages, Ordering::Relaxed);
        }
        // A page that is freed may be written too, as one of the list of those that are free.
        let freed = usize::try_from(bytes).unwrap_or(usize::MAX);
        let pages = kept.len() * PAGES_OF_A_COMMIT + (stored.saturating_add(freed)) / schema::PAGE_BYTES;
        self.wal_bytes_at_most += (pages * schema::PAGE_BYTES) as u64;
        Ok(Ok(bytes))
    }
}

/// Keeps of the payloads of one commit those that are named. How many bytes are gone, and how many are there.
fn keep(connection: &Connection, position: Position, kept: &[Digest]) -> rusqlite::Result<(u64, usize)> {
    let found = connection
        .prepare_cached(PACKED)?
        .query_row(params![row::bound(position.get())], |row| Ok(row.get_ref(0)?.as_blob().map(Bytes::copy_from_slice)))
        .optional()?;
    // What nobody can read is left for whoever looks into the damage.
    let Some(Ok(packed)) = found else { return Ok((0, 0)) };
    let Ok(riding) = payload::unpack(packed) else { return Ok((0, 0)) };
    let size = |payloads: &[Payload]| payloads.iter().map(|payload| payload.bytes().len() as u64).sum::<u64>();
    let staying: Vec<Payload> = riding.iter().filter(|payload| kept.contains(&payload.digest())).cloned().collect();
    if staying.len() == riding.len() {
        return Ok((0, 0));
    }
    let packed = (!staying.is_empty()).then(|| payload::pack(&staying));
    connection.prepare_cached(UPDATE)?.execute(params![row::bound(position.get()), packed.as_deref()])?;
    Ok((size(&riding).saturating_sub(size(&staying)), packed.map_or(0, |packed| packed.len())))
}
