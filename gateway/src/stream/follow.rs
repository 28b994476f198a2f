//! Tells streams that their tenant's history has grown. One reader follows the log for all of them, and only while there
//! are any; what is new they read themselves, so nothing is buffered for who is slow.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    id::TenantId,
    log::{EventLog, ReadError, ReadLimit},
    revision::Position,
};

/// How long the reader leaves a log alone that it could not read.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows the log for as long as somebody watches.
#[derive(Clone)]
pub(crate) struct Follower {
    log: Arc<dyn EventLog>,
    draining: CancellationToken,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    tenants: HashMap<TenantId, watch::Sender<()>>,
    /// Does the reader run?
    following: bool,
}

impl Follower {
    /// Follows `log` until `draining` is cancelled: then there are no streams any more.
    pub(crate) fn new(log: Arc<dyn EventLog>, draining: CancellationToken) -> Self {
        Self { log, draining, watched: Arc::default() }
    }

    /// A receiver that changes whenever the tenant's history has grown after this call has returned.
    pub(crate) async fn watch(&self, tenant: &TenantId) -> Result<watch::Receiver<()>, ReadError> {
        // Taken before the receiver is there: a reader that begins here passes everything that it must be told.
        let tail = self.log.tail().await?;
        let mut watched = self.lock();
        let sender = watched.tenants.entry(tenant.clone()).or_insert_with(|| watch::Sender::new(()));
        let receiver = sender.subscribe();
        if !watched.following {
            watched.following = true;
            let following = self.draining.clone().run_until_cancelled_owned(self.clone().follow(tail));
            tokio::spawn(following);
        }
        Ok(receiver)
    }

    async fn follow(self, mut after: Position) {
        loop {
            match self.log.subscribe(after).await {
                Ok(mut subscription) => loop {
                    match subscription.next(ReadLimit::default()).await {
                        Ok(commits) => {
                            after = commits.last().map_or(after, |last| last.position);
                            if !self.tell(commits.iter().map(|recorded| recorded.commit.tenant())) {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the log cannot be followed for streams; trying again");
                            break;
                        }
                    }
                },
                Err(error) => tracing::warn!(%error, "the log cannot be followed for streams; trying again"),
            }
            tokio::time::sleep(PAUSE).await;
            if !self.tell(std::iter::empty()) {
                return;
            }
        }
    }

    /// Tells those who watch these tenants. False when nobody watches any more: then the reader has ended.
    fn tell<'a>(&self, grown: impl Iterator<Item = &'a TenantId>) -> bool {
        let mut watched = self.lock();
        for tenant in grown {
            if let Some(sender) = watched.tenants.get(tenant) {
                // Nobody may be listening; then it goes below.
                let _told = sender.send(());
            }
        }
        watched.tenants.retain(|_, sender| sender.receiver_count() > 0);
        watched.following = !watched.tenants.is_empty();
        watched.following
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
