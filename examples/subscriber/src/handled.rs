//! The events that were handled, in a file.

use std::path::Path;

use anyhow::Context;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::event::Event;

/// How long an id is remembered, in seconds: longer than the stream keeps its messages (`feed.max_age_s`, a week).
const REMEMBERED_S: i64 = 8 * 24 * 3_600;

/// The ids of the events that were handled.
#[derive(Debug)]
pub(crate) struct Handled(Connection);

impl Handled {
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        let database = Connection::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "FULL")?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS handled
             (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, tenant TEXT NOT NULL, at INTEGER NOT NULL)",
        )?;
        database.execute("DELETE FROM handled WHERE at < unixepoch() - ?1", [REMEMBERED_S])?;
        Ok(Self(database))
    }

    /// Does it if the event is new. Was it?
    ///
    /// An effect in this database would happen exactly once; printing, which cannot be taken back, happens twice if the
    /// process dies before the commit.
    pub(crate) fn once(
        &mut self,
        event: &Event,
        effect: impl FnOnce(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let added = transaction.execute(
            "INSERT OR IGNORE INTO handled (id, tenant, at) VALUES (?1, ?2, unixepoch())",
            params![event.id, event.tenant()],
        )?;
        if added == 1 {
            effect(event)?;
        }
        transaction.commit()?;
        Ok(added == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_has_no_effect_and_what_failed_is_not_handled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.sqlite");
        let text = r#"{"id":"1","type":"t","source":"/tenants/acme","subject":"s","data":{}}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        let mut handled = Handled::open(&file).unwrap();
        handled.once(&event, |_| anyhow::bail!("no paper")).unwrap_err();
        assert!(handled.once(&event, |_| Ok(())).unwrap());
        drop(handled);
        assert!(!Handled::open(&file).unwrap().once(&event, |_| Ok(())).unwrap());
    }
}
