//! One hash over all rows of a view: equal views have equal checksums.

use rusqlite::{Connection, types::ValueRef};
use sha2::{Digest as _, Sha256};
use wasmwiz_events::{digest::Digest, revision::Position};

use crate::row;

/// The rows of one view, hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Which view.
    pub view: &'static str,
    /// The checkpoint it stands at.
    pub position: Position,
    /// SHA-256 over all rows of all tables, the checkpoint among them.
    pub digest: Digest,
}

/// Hashes every table in the order of its name, every row in the order of its key. Reads one snapshot.
pub(crate) fn of(view: &'static str, connection: &Connection) -> rusqlite::Result<Checksum> {
    let snapshot = connection.unchecked_transaction()?;
    let position = snapshot.query_row("SELECT position FROM checkpoint", [], |found| row::unsigned(found, 0))?;
    let tables: Vec<String> = snapshot
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")?
        .query_map([], |found| found.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut hasher = Sha256::new();
    for table in tables {
        field(&mut hasher, b't', table.as_bytes());
        // A table's own b-tree is in the order of its key; NOT INDEXED keeps the planner from choosing another one.
        let mut statement = snapshot.prepare(&format!("SELECT * FROM \"{table}\" NOT INDEXED"))?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get_ref(column)? {
                    ValueRef::Null => field(&mut hasher, b'n', &[]),
                    ValueRef::Integer(number) => field(&mut hasher, b'i', &number.to_be_bytes()),
                    ValueRef::Real(number) => field(&mut hasher, b'r', &number.to_bits().to_be_bytes()),
                    ValueRef::Text(text) => field(&mut hasher, b's', text),
                    ValueRef::Blob(bytes) => field(&mut hasher, b'b', bytes),
                }
            }
        }
    }
    Ok(Checksum { view, position: Position::new(position), digest: Digest::from_bytes(hasher.finalize().into()) })
}

fn field(hasher: &mut Sha256, kind: u8, bytes: &[u8]) {
    hasher.update([kind]);
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}
