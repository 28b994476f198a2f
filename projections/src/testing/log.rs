//! A log for tests, of which parts can be damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;
use wasmwiz_events::{
    commit::Recorded,
    id::TenantId,
    ledger::Head,
    log::{Append, AppendError, Appended, EventLog, ReadError, ReadLimit, Subscription},
    payload::Payload,
    revision::{Position, Revision},
};

use crate::{Config, Views};

/// A log in memory that tests write to directly.
#[derive(Debug, Clone)]
pub(crate) struct TestLog(Arc<watch::Sender<Vec<Arc<Recorded>>>>, Arc<AtomicU32>, Arc<Mutex<Damage>>);

/// What of a log cannot be read.
#[derive(Debug, Default)]
struct Damage {
    places: BTreeSet<Position>,
    /// Where reads of one stream say that such a place is, if elsewhere.
    misplaced: BTreeMap<Position, Position>,
    /// Does nothing beside the commits say whose they are?
    nameless: bool,
}

fn is_damaged(position: Position) -> ReadError {
    ReadError::Damaged { position, what: "its hash is not the hash of its content".into() }
}

impl TestLog {
    pub(crate) fn of(commits: &[Arc<Recorded>]) -> Self {
        Self(Arc::new(watch::Sender::new(commits.to_vec())), Arc::default(), Arc::default())
    }

    /// The same log, of which every other of the next reads fails, `times` times in all.
    pub(crate) fn failing(&self, times: u32) -> Self {
        Self(Arc::clone(&self.0), Arc::new(AtomicU32::new(2 * times)), Arc::clone(&self.2))
    }

    fn damage_now(&self) -> MutexGuard<'_, Damage> {
        self.2.lock().unwrap()
    }

    /// From now on the commit at a place cannot be read.
    pub(crate) fn damage(&self, position: Position) {
        self.damage_now().places.insert(position);
    }

    /// The same, and reads of its stream say that it is at another place.
    pub(crate) fn damage_said_at(&self, position: Position, said: Position) {
        self.damage(position);
        self.damage_now().misplaced.insert(position, said);
    }

    /// Nor can it be told whose any such commit is.
    pub(crate) fn forget_whose(&self) {
        self.damage_now().nameless = true;
    }

    /// Everything can be read again.
    pub(crate) fn repair(&self) {
        *self.damage_now() = Damage::default();
    }

    /// The commit at a place is gone.
    pub(crate) fn remove(&self, position: Position) {
        self.0.send_modify(|commits| commits.retain(|it| it.position != position));
    }

    /// A commit that was gone is there again.
    pub(crate) fn put_back(&self, recorded: &Arc<Recorded>) {
        self.0.send_modify(|commits| {
            commits.push(Arc::clone(recorded));
            commits.sort_by_key(|it| it.position);
        });
    }

    /// Another commit takes the place of one.
    pub(crate) fn replace(&self, recorded: &Arc<Recorded>) {
        self.0.send_modify(|commits| {
            let place = commits.iter().position(|it| it.position == recorded.position).unwrap();
            commits[place] = Arc::clone(recorded);
        });
    }

    /// What can be read of commits that are read in this order.
    fn readable(&self, commits: Vec<Arc<Recorded>>) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let damage = self.damage_now();
        let sound = commits.iter().take_while(|it| !damage.places.contains(&it.position)).count();
        match commits.get(sound) {
            Some(first) if sound == 0 => Err(is_damaged(first.position)),
            _ => Ok(commits.into_iter().take(sound).collect()),
        }
    }

    /// The same of the commits of one stream.
    fn readable_of_stream(&self, commits: Vec<Arc<Recorded>>) -> Result<Vec<Arc<Recorded>>, ReadError> {
        self.readable(commits).map_err(|error| match error {
            ReadError::Damaged { position, what } => {
                let said = self.damage_now().misplaced.get(&position).copied();
                ReadError::Damaged { position: said.unwrap_or(position), what }
            }
            unavailable @ ReadError::Unavailable(_) => unavailable,
        })
    }

    pub(crate) fn push(&self, recorded: Arc<Recorded>) -> Position {
        let position = recorded.position;
        self.0.send_modify(|commits| commits.push(recorded));
        position
    }

    pub(crate) fn end(&self) -> Position {
        self.0.borrow().last().map(|recorded| recorded.position).unwrap_or_default()
    }

    pub(crate) async fn views(&self, folder: &Path) -> Views {
        self.views_with(folder, Config::default()).await
    }

    pub(crate) async fn views_with(&self, folder: &Path, config: Config) -> Views {
        Views::open(folder, config, Arc::new(self.clone())).await.unwrap()
    }
}

fn after(commits: &[Arc<Recorded>], position: Position, limit: ReadLimit) -> Vec<Arc<Recorded>> {
    let start = commits.partition_point(|recorded| recorded.position <= position);
    let mut bytes = 0;
    let fits = |recorded: &&Arc<Recorded>| {
        let first = bytes == 0;
        bytes += recorded.commit.body().len();
        first || bytes <= limit.bytes
    };
    commits[start..].iter().take(limit.commits.max(1)).take_while(fits).cloned().collect()
}

#[async_trait]
impl EventLog for TestLog {
    async fn append(&self, _append: Append) -> Result<Appended, AppendError> {
        Err(AppendError::Busy)
    }

    async fn read_stream(
        &self,
        tenant: &TenantId,
        from: Revision,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let commits = self.0.borrow().clone();
        let theirs = commits.into_iter().filter(|it| it.commit.tenant() == tenant && it.commit.last_revision() >= from);
        self.readable_of_stream(theirs.take(limit.commits.max(1)).collect())
    }

    async fn read_stream_behind(
        &self,
        tenant: &TenantId,
        from: Revision,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let commits = self.0.borrow().clone();
        let theirs = commits.into_iter().filter(|it| it.commit.tenant() == tenant && it.position > after);
        let theirs = theirs.filter(|it| it.commit.last_revision() >= from);
        self.readable_of_stream(theirs.take(limit.commits.max(1)).collect())
    }

    async fn read_all(&self, from: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let found = after(&self.0.borrow(), from, limit);
        self.readable(found)
    }

    async fn read_at(&self, position: Position) -> Result<Option<Arc<Recorded>>, ReadError> {
        let found = self.0.borrow().iter().find(|recorded| recorded.position == position).cloned();
        self.readable(found.into_iter().collect()).map(|found| found.into_iter().next())
    }

    async fn tenant_at(&self, position: Position) -> Result<Option<TenantId>, ReadError> {
        let found = self.0.borrow().iter().find(|recorded| recorded.position == position).cloned();
        let found = found.filter(|_| !self.damage_now().nameless);
        Ok(found.map(|recorded| recorded.commit.tenant().clone()))
    }

    async fn payloads(&self, _position: Position) -> Result<Vec<Payload>, ReadError> {
        Ok(Vec::new())
    }

    async fn subscribe(&self, after: Position) -> Result<Box<dyn Subscription>, ReadError> {
        Ok(Box::new(Follower { log: self.clone(), commits: self.0.subscribe(), after }))
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head, ReadError> {
        Ok(Head::genesis(tenant))
    }

    async fn tail(&self) -> Result<Position, ReadError> {
        Ok(self.end())
    }

    async fn poisoned(&self) -> Arc<str> {
        std::future::pending().await
    }
}

struct Follower {
    log: TestLog,
    commits: watch::Receiver<Vec<Arc<Recorded>>>,
    after: Position,
}

#[async_trait]
impl Subscription for Follower {
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let left = self.log.1.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok_and(|left| left % 2 == 1) {
            return Err(ReadError::Unavailable("out of reach".into()));
        }
        let from = self.after;
        let more = |commits: &Vec<Arc<Recorded>>| commits.last().is_some_and(|recorded| recorded.position > from);
        let next = {
            let commits = self.commits.wait_for(more).await;
            after(&commits.map_err(|_| ReadError::Unavailable("closed".into()))?, from, limit)
        };
        let next = self.log.readable(next)?;
        self.after = next.last().map_or(from, |recorded| recorded.position);
        Ok(next)
    }
}
