//! What goes on beside everything else, until the node stops.

use std::{sync::Arc, time::Duration};

use super::{App, LAST_USED_EVERY_S, save};
use crate::{config::Config, retention::Retain, sweep::Sweep};

impl App {
    /// Keeps when keys were last used.
    pub(super) fn keep_last_used(&self) {
        let last_used = self.last_used.clone();
        let keeping = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(LAST_USED_EVERY_S)).await;
                save(&last_used).await;
            }
        };
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(keeping));
    }

    /// Looks for lost executions, until all are found.
    pub(super) fn sweep(&self) {
        let sweep = Sweep { views: self.views.clone(), bus: self.bus.clone(), log: Arc::clone(&self.store.log) };
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(sweep.run()));
    }

    /// Has payloads released and removed that are older than they are to be kept.
    pub(super) fn retain(&self, config: &Config) {
        if !config.policy().retention.is_on() {
            return;
        }
        let retain = Retain::new(self.views.clone(), self.bus.clone(), &self.store, config.retention.every());
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(retain.run()));
    }
}
