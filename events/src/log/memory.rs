//! A log in memory, for tests: the same promises but durability, and faults on demand.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    Append, AppendError, Appended, EventLog, ReadError, ReadLimit, Subscription,
    admission::{self, Admission},
};
use crate::{
    commit::{Commit, Recorded},
    digest::Digest,
    id::TenantId,
    ledger::Head,
    payload::Payload,
    revision::{Position, Revision},
};

/// An event log that forgets everything when it is dropped.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stored: Mutex<Stored>,
    tail: watch::Sender<Position>,
    poison: watch::Sender<Option<Arc<str>>>,
    /// Are appends held back?
    held: watch::Sender<bool>,
    /// Appends are stored in the order in which they ask for it.
    turn: tokio::sync::Mutex<()>,
    /// How many are held back.
    waiting: watch::Sender<usize>,
    /// The last commit that followers are shown.
    shown: watch::Sender<Position>,
    /// How many more pages of streams are read, each of one commit. `None`: all, and of the usual size.
    pages: watch::Sender<Option<usize>>,
    /// What is said of whether it outlives a loss of power.
    durability: Mutex<Result<Option<Arc<str>>, Arc<str>>>,
}

#[derive(Debug, Default)]
struct Stored {
    commits: Vec<Arc<Recorded>>,
    payloads: Vec<Vec<Payload>>,
    /// Indices into `commits`.
    streams: HashMap<TenantId, Vec<usize>>,
    faults: VecDeque<Fault>,
    /// Places that cannot be read.
    damaged: BTreeSet<Position>,
    /// Places that no stream has.
    lost: BTreeSet<Position>,
}

#[derive(Debug)]
enum Fault {
    /// Refuse, store nothing.
    Refuse(AppendError),
    /// Store, and answer as if it were not known.
    LoseAnswer,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        let shared = Shared {
            stored: Mutex::default(),
            tail: watch::channel(Position::START).0,
            poison: watch::channel(None).0,
            held: watch::channel(false).0,
            turn: tokio::sync::Mutex::default(),
            waiting: watch::channel(0).0,
            shown: watch::channel(Position::new(u64::MAX)).0,
            pages: watch::channel(None).0,
            durability: Mutex::new(Ok(None)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The next append is refused with `error` and stores nothing. Several calls queue up.
    pub fn fail_next_append(&self, error: AppendError) {
        self.shared.stored().faults.push_back(Fault::Refuse(error));
    }

    /// The next append is stored, and answered [`AppendError::Unknown`].
    pub fn lose_next_answer(&self) {
        self.shared.stored().faults.push_back(Fault::LoseAnswer);
    }

    /// Faults that have not come yet do not come.
    pub fn forget_faults(&self) {
        self.shared.stored().faults.clear();
    }

    /// From now on it says this of whether what it acknowledged outlives a loss of power.
    pub fn say_durability(&self, said: Result<Option<Arc<str>>, Arc<str>>) {
        *self.shared.durability.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    /// From now on the log refuses everything, as after an I/O error.
    pub fn poison(&self, reason: &str) {
        self.shared.poison.send_replace(Some(reason.into()));
        // Those that are held back are refused too.
        self.release();
    }

    /// Appends that come now stay in flight until [`MemoryLog::release`].
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Lets the appends go on that were held back, in their order.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Waits until `appends` appends are held back.
    pub async fn held_back(&self, appends: usize) {
        // The sender lives in `self`.
        let _ = self.shared.waiting.subscribe().wait_for(|waiting| *waiting >= appends).await;
    }

    /// Followers are shown nothing after `position` until [`MemoryLog::show_all`], as if they were that slow.
    pub fn show_until(&self, position: Position) {
        self.shared.shown.send_replace(position);
    }

    /// Shows followers everything again.
    pub fn show_all(&self) {
        self.show_until(Position::new(u64::MAX));
    }

    /// From now on streams are read behind a place in pages of one commit, and only so many; who asks for more waits
    /// until this is called again. `None`: as usual.
    pub fn page(&self, pages: Option<usize>) {
        self.shared.pages.send_replace(pages);
    }

    /// Waits until none of the pages is left.
    pub async fn paged(&self) {
        // The sender lives in `self`.
        let _ = self.shared.pages.subscribe().wait_for(|left| *left == Some(0)).await;
    }

    /// Changes one byte of the last commit's body, as a damaged disk might.
    pub fn damage_last_body(&self) {
        let mut stored = self.shared.stored();
        let Some(last) = stored.commits.last_mut() else { return };
        let mut body = last.commit.body().to_vec();
        if let Some(byte) = body.last_mut() {
            *byte ^= 1;
        }
        let commit = Commit::from_stored(last.commit.header().clone(), last.commit.hash(), body.into());
        *last = Arc::new(Recorded { position: last.position, commit });
    }

    /// The commit at `position` cannot be read any more: reads that begin with it fail, as on a disk.
    pub fn damage(&self, position: Position) {
        self.shared.stored().damaged.insert(position);
    }

    /// The commit at `position` can be read again.
    pub fn mend(&self, position: Position) {
        self.shared.stored().damaged.remove(&position);
    }

    /// Reads of its stream do not find the commit at `position` any more, which may be one that is still to come, and nothing says whose it is.
    pub fn lose(&self, position: Position) {
        self.shared.stored().lost.insert(position);
    }

    /// All commits there are.
    pub fn commits(&self) -> Vec<Arc<Recorded>> {
        self.shared.stored().commits.clone()
    }
}

impl Shared {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a page, and says of how many commits it is.
    async fn page(&self, commits: usize) -> usize {
        let mut pages = self.pages.subscribe();
        loop {
            // The sender lives in `self`.
            let _ = pages.wait_for(|left| *left != Some(0)).await;
            // Another reader may have been faster.
            let mut given = None;
            self.pages.send_if_modified(|left| match left {
                None => {
                    given = Some(commits);
                    false
                }
                Some(0) => false,
                Some(left) => {
                    *left -= 1;
                    given = Some(1);
                    true
                }
            });
            if let Some(commits) = given {
                return commits;
            }
        }
    }

    fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let mut stored = self.stored();
        if let Some(reason) = self.poison.borrow().clone() {
            return Err(AppendError::Poisoned(reason));
        }
        admission::size(&append)?;
        let fault = stored.faults.pop_front();
        if let Some(Fault::Refuse(error)) = fault {
            return Err(error);
        }
        let appended = stored.append(append)?;
        self.tail.send_if_modified(|tail| {
            let grown = appended.position > *tail;
            *tail = appended.position.max(*tail);
            grown
        });
        drop(stored);
        match fault {
            Some(Fault::LoseAnswer) => Err(AppendError::Unknown("the answer was lost".into())),
            _ => Ok(appended),
        }
    }
}

impl Stored {
    fn append(&mut self, append: Append) -> Result<Appended, AppendError> {
        let tenant = append.commit.tenant().clone();
        match admission::admit(&self.head(&tenant), &append.commit) {
            Admission::Refused(refusal) => return Err(refusal),
            Admission::Taken(refusal) => return self.find(&append).ok_or(refusal),
            Admission::Next => {}
        }
        let position = Position::new(self.commits.len() as u64).next();
        self.streams.entry(tenant).or_default().push(self.commits.len());
        self.commits.push(Arc::new(Recorded { position, commit: append.commit }));
        self.payloads.push(append.payloads);
        Ok(Appended { position, repeated: false })
    }

    fn stream(&self, tenant: &TenantId) -> impl DoubleEndedIterator<Item = &Arc<Recorded>> {
        let indices = self.streams.get(tenant).map_or(&[][..], Vec::as_slice);
        let found = indices.iter().filter_map(|index| self.commits.get(*index));
        found.filter(|found| !self.lost.contains(&found.position))
    }

    fn head(&self, tenant: &TenantId) -> Head {
        self.stream(tenant).next_back().map_or_else(|| Head::genesis(tenant), |last| last.commit.head())
    }

    fn find(&self, append: &Append) -> Option<Appended> {
        let (header, hash) = (append.commit.header(), append.commit.hash());
        let same = |found: &&Arc<Recorded>| {
            found.commit.header().first_revision == header.first_revision
                && found.commit.header().commit_id == header.commit_id
                && found.commit.hash() == hash
        };
        let found = self.stream(&header.tenant).find(same)?;
        Some(Appended { position: found.position, repeated: true })
    }

    /// Those before the first that cannot be read, which fails a read that begins with it.
    fn readable(&self, mut found: Vec<Arc<Recorded>>) -> Result<Vec<Arc<Recorded>>, ReadError> {
        match found.iter().position(|found| self.damaged.contains(&found.position)) {
            Some(0) => {
                let position = found.first().map_or(Position::START, |found| found.position);
                Err(ReadError::Damaged { position, what: "its bytes cannot be read".into() })
            }
            Some(readable) => {
                found.truncate(readable);
                Ok(found)
            }
            None => Ok(found),
        }
    }

    fn after(&self, after: Position, limit: ReadLimit) -> Vec<Arc<Recorded>> {
        // Positions are 1, 2, 3 …, so the commit after `after` has the index `after`.
        let skip = usize::try_from(after.get()).unwrap_or(usize::MAX);
        limited(self.commits.get(skip..).unwrap_or_default().iter(), limit)
    }
}

fn limited<'a>(commits: impl Iterator<Item = &'a Arc<Recorded>>, limit: ReadLimit) -> Vec<Arc<Recorded>> {
    let mut bytes = 0_usize;
    let fits = |(taken, found): &(usize, &Arc<Recorded>)| {
        bytes = bytes.saturating_add(found.commit.body().len());
        *taken == 0 || (*taken < limit.commits && bytes <= limit.bytes)
    };
    commits.enumerate().take_while(fits).map(|(_, found)| Arc::clone(found)).collect()
}

/// Counts an append that is held back, however its waiting ends.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.waiting.send_modify(|waiting| *waiting += 1);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let held_back = self.shared.held.borrow().then(|| Waiting::begin(&self.shared));
        let _turn = self.shared.turn.lock().await;
        if held_back.is_some() {
            // The sender lives in `self`.
            let _ = self.shared.held.subscribe().wait_for(|held| !held).await;
        }
        self.shared.append(append)
    }

    fn keeps_order(&self) -> bool {
        // tokio's mutex is fair.
        true
    }

    async fn read_stream(
        &self,
        tenant: &TenantId,
        from: Revision,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let stored = self.shared.stored();
        let found = limited(stored.stream(tenant).filter(|found| found.commit.last_revision() >= from), limit);
        stored.readable(found)
    }

    async fn read_stream_behind(
        &self,
        tenant: &TenantId,
        from: Revision,
        after: Position,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let limit = ReadLimit { commits: self.shared.page(limit.commits).await, ..limit };
        let stored = self.shared.stored();
        let behind = stored.stream(tenant).filter(|found| found.position > after);
        let found = limited(behind.filter(|found| found.commit.last_revision() >= from), limit);
        stored.readable(found)
    }

    async fn read_all(&self, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        let stored = self.shared.stored();
        stored.readable(stored.after(after, limit))
    }

    async fn read_at(&self, position: Position) -> Result<Option<Arc<Recorded>>, ReadError> {
        let index = position.get().checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let stored = self.shared.stored();
        let found = index.and_then(|index| stored.commits.get(index).cloned());
        Ok(stored.readable(found.into_iter().collect())?.pop())
    }

    async fn tenant_at(&self, position: Position) -> Result<Option<TenantId>, ReadError> {
        let stored = self.shared.stored();
        let index = position.get().checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|_| !stored.lost.contains(&position));
        let whose = stored.streams.iter().find(|(_, indices)| index.is_some_and(|index| indices.contains(&index)));
        Ok(whose.map(|(tenant, _)| tenant.clone()))
    }

    async fn payloads(&self, position: Position) -> Result<Vec<Payload>, ReadError> {
        let index = position.get().checked_sub(1).and_then(|index| usize::try_from(index).ok());
        Ok(index.and_then(|index| self.shared.stored().payloads.get(index).cloned()).unwrap_or_default())
    }

    async fn with_payloads(
        &self,
        tenant: &TenantId,
        through: Revision,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        let stored = self.shared.stored();
        let rides = |found: &Arc<Recorded>| {
            let index = usize::try_from(found.position.get().saturating_sub(1)).ok();
            index.and_then(|index| stored.payloads.get(index)).is_some_and(|payloads| !payloads.is_empty())
        };
        let is_asked = |found: &Arc<Recorded>| {
            found.position > after && found.commit.header().first_revision <= through && rides(found)
        };
        let found = stored.stream(tenant).filter(|found| is_asked(found)).take(limit);
        Ok(found.map(|found| found.position).collect())
    }

    async fn keep_payloads(&self, kept: Vec<(Position, Vec<Digest>)>) -> Result<u64, AppendError> {
        let (mut stored, mut forgotten) = (self.shared.stored(), 0);
        for (position, kept) in kept {
            let index = usize::try_from(position.get().saturating_sub(1)).ok();
            let Some(payloads) = index.and_then(|index| stored.payloads.get_mut(index)) else { continue };
            payloads.retain(|payload| {
                let stays = kept.contains(&payload.digest());
                forgotten += if stays { 0 } else { payload.bytes().len() as u64 };
                stays
            });
        }
        Ok(forgotten)
    }

    async fn subscribe(&self, after: Position) -> Result<Box<dyn Subscription>, ReadError> {
        let (tail, shown) = (self.shared.tail.subscribe(), self.shared.shown.subscribe());
        Ok(Box::new(Follower { shared: Arc::clone(&self.shared), tail, shown, after }))
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head, ReadError> {
        Ok(self.shared.stored().head(tenant))
    }

    async fn tail(&self) -> Result<Position, ReadError> {
        Ok(*self.shared.tail.borrow())
    }

    fn durability(&self) -> Result<Option<Arc<str>>, Arc<str>> {
        self.shared.durability.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn poisoned(&self) -> Arc<str> {
        let mut poison = self.shared.poison.subscribe();
        loop {
            if let Some(reason) = poison.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives in `self`, so this only ever waits.
            let _ = poison.changed().await;
        }
    }
}

struct Follower {
    shared: Arc<Shared>,
    tail: watch::Receiver<Position>,
    shown: watch::Receiver<Position>,
    after: Position,
}

#[async_trait]
impl Subscription for Follower {
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        // `shared` keeps the senders alive, so these only ever wait.
        let _ = self.tail.wait_for(|tail| *tail > self.after).await;
        let shown = self.shown.wait_for(|shown| *shown > self.after).await.map_or(self.after, |shown| *shown);
        let mut found = self.shared.stored().after(self.after, limit);
        found.retain(|recorded| recorded.position <= shown);
        self.after = found.last().map_or(self.after, |last| last.position);
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
