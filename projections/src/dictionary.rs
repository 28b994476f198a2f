//! Small integers in place of long labels: a row of a view names its tenant by a number.
//!
//! Labels are numbered in the order in which the log first mentions them, so a rebuilt view has the same numbers. Within
//! a batch a label has a local index; the transaction that writes the batch turns indices into numbers.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc};

use rusqlite::{Connection, OptionalExtension};

/// Numbers kept in memory, beyond which they are read again from the file: a tenant may name any number of modules.
const CACHED_LABELS: usize = 65_536;

/// Index of a label within one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Local(u32);

/// The labels of one kind.
#[derive(Debug)]
pub(crate) struct Dictionary<L> {
    known: HashMap<L, i64>,
    indices: HashMap<L, Local>,
    batch: Vec<L>,
    numbers: Vec<i64>,
}

impl<L> Default for Dictionary<L> {
    fn default() -> Self {
        Self { known: HashMap::new(), indices: HashMap::new(), batch: Vec::new(), numbers: Vec::new() }
    }
}

impl<L: Hash + Eq + Clone> Dictionary<L> {
    /// The label's index within this batch.
    pub(crate) fn local<Q>(&mut self, label: &Q, own: impl FnOnce(&Q) -> L) -> Local
    where
        L: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(index) = self.indices.get(label) {
            return *index;
        }
        // A batch is bounded far below 2^32 labels.
        let index = Local(u32::try_from(self.batch.len()).unwrap_or(u32::MAX));
        let label = own(label);
        self.indices.insert(label.clone(), index);
        self.batch.push(label);
        index
    }

    /// Numbers the labels of the batch, asking `number` for those not in memory. It finds the label's row or adds one.
    pub(crate) fn resolve(&mut self, mut number: impl FnMut(&L) -> rusqlite::Result<i64>) -> rusqlite::Result<()> {
        self.numbers.clear();
        for label in &self.batch {
            let found = match self.known.get(label) {
                Some(found) => *found,
                None => {
                    let found = number(label)?;
                    if self.known.len() >= CACHED_LABELS {
                        self.known.clear();
                    }
                    self.known.insert(label.clone(), found);
                    found
                }
            };
            self.numbers.push(found);
        }
        Ok(())
    }

    /// The number of a local index, after [`Dictionary::resolve`].
    pub(crate) fn number(&self, index: Local) -> rusqlite::Result<i64> {
        self.numbers.get(index.0 as usize).copied().ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// The numbers given are durable; the next batch begins.
    pub(crate) fn committed(&mut self) {
        self.indices.clear();
        self.batch.clear();
        self.numbers.clear();
    }

    /// The numbers given may have been rolled back.
    pub(crate) fn discard(&mut self) {
        self.known.clear();
        self.committed();
    }
}

/// Labels that are texts.
pub(crate) type Texts = Dictionary<Arc<str>>;

impl Texts {
    pub(crate) fn text(&mut self, label: &str) -> Local {
        self.local(label, |text: &str| Arc::from(text))
    }

    /// Numbers the batch's texts in `table (n INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE)`.
    pub(crate) fn resolve_in(&mut self, rows: &Connection, table: &'static str) -> rusqlite::Result<()> {
        self.resolve(|label| match text_number(rows, table, label)? {
            Some(number) => Ok(number),
            None => {
                rows.prepare_cached(&format!("INSERT INTO {table} (label) VALUES (?1)"))?.execute([&**label])?;
                Ok(rows.last_insert_rowid())
            }
        })
    }
}

/// The number of a text, if it has one.
pub(crate) fn text_number(rows: &Connection, table: &'static str, label: &str) -> rusqlite::Result<Option<i64>> {
    let mut found = rows.prepare_cached(&format!("SELECT n FROM {table} WHERE label = ?1"))?;
    found.query_row([label], |row| row.get(0)).optional()
}
