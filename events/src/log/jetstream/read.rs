//! Reading the stream: its end and single commits at the leader, pages through a consumer of their own.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures_util::StreamExt as _;

use super::{
    Shared,
    session::{Failure, Session, Stored, Tail, stored},
    stream::subject,
    tries::Tries,
};
use crate::{
    commit::Recorded,
    id::TenantId,
    log::{ReadError, ReadLimit},
    nats::with_causes,
    revision::{Position, Revision},
};

/// So many events are read one commit after the other; for more, a consumer is worth its making.
const FEW: u64 = 8;

/// Messages that are asked for at once.
const FETCHED: usize = 256;

/// How long a consumer waits for messages that its server does not have yet, as a copy may lag.
const LAG: Duration = Duration::from_millis(500);

/// After that the server forgets a consumer that nobody asks.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Bytes of messages that are asked for at once: one of the largest fits.
const FETCHED_BYTES_MIN: usize = 2 << 20;

/// Tries until something is read, the stream is found damaged, or the time is over.
macro_rules! reading {
    ($shared:expr, |$session:ident| $read:expr) => {{
        let mut tries = Tries::within(&$shared.link, $shared.config.read_within());
        loop {
            let Some($session) = tries.session().await else { return Err(ReadError::Unavailable(tries.why())) };
            match $read.await {
                Ok(found) => return Ok(found),
                Err(Failure::Passing(why)) => tries.failed(why).await,
                Err(Failure::Damaged(position, what)) => {
                    return Err(ReadError::Damaged { position, what: what.into() });
                }
            }
        }
    }};
}

/// The end of a tenant's subject.
pub(super) async fn tail(shared: &Shared, tenant: &TenantId) -> Result<Tail, ReadError> {
    let subject = subject(&shared.config, tenant);
    reading!(shared, |session| session.tail(&subject, tenant))
}

/// The end of the stream.
pub(super) async fn end(shared: &Shared) -> Result<Position, ReadError> {
    let end = async |session: Arc<Session>| session.end().await.map(Position::new);
    reading!(shared, |session| end(session))
}

/// One message.
pub(super) async fn at(shared: &Shared, position: Position) -> Result<Option<Stored>, ReadError> {
    if position == Position::START {
        return Ok(None);
    }
    reading!(shared, |session| session.at(position.get()))
}

/// Whose subject one message is of.
pub(super) async fn tenant_at(shared: &Shared, position: Position) -> Result<Option<TenantId>, ReadError> {
    let whose = async |session: Arc<Session>| {
        let found = session.subject_at(position.get()).await?;
        Ok(found.and_then(|found| {
            let tenant = TenantId::new(found.rsplit_once('.')?.1).ok()?;
            (subject(&shared.config, &tenant) == found).then_some(tenant)
        }))
    };
    reading!(shared, |session| whose(session))
}

/// Commits of a tenant from a revision on, and behind a position.
pub(super) async fn stream(
    shared: &Shared,
    tenant: &TenantId,
    from: Revision,
    after: Position,
    limit: ReadLimit,
) -> Result<Vec<Arc<Recorded>>, ReadError> {
    reading!(shared, |session| page(shared, &session, tenant, (from, after), limit))
}

/// Commits of all tenants behind a position.
pub(super) async fn all(shared: &Shared, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
    reading!(shared, |session| whole_page(&session, after, limit))
}

/// The commit of a tenant that holds a revision.
pub(super) async fn holding(
    shared: &Shared,
    session: &Session,
    tenant: &TenantId,
    revision: Revision,
) -> Result<Option<Arc<Recorded>>, Failure> {
    let one = ReadLimit { commits: 1, bytes: 0 };
    let found = page(shared, session, tenant, (revision, Position::START), one).await?;
    Ok(found.into_iter().next())
}

async fn page(
    shared: &Shared,
    session: &Session,
    tenant: &TenantId,
    (from, after): (Revision, Position),
    limit: ReadLimit,
) -> Result<Vec<Arc<Recorded>>, Failure> {
    let subject = subject(&shared.config, tenant);
    let until = match session.tail(&subject, tenant).await {
        Ok(tail) if tail.head.revision < from || tail.sequence <= after.get() => return Ok(Vec::new()),
        Ok(tail) => tail.head.revision,
        Err(Failure::Damaged(position, _)) if position <= after => return Ok(Vec::new()),
        // What comes before it can be read, and the page ends there.
        Err(Failure::Damaged(..)) => Revision::new(u64::MAX),
        Err(failure) => return Err(failure),
    };
    let mark = shared.mark(tenant).filter(|(revision, sequence)| *revision <= from && *sequence > after.get());
    // Who says behind which position `from` is knows that little lies between them.
    let behind = (after > Position::START).then(|| (from.previous(), after.get().saturating_add(1)));
    let (at, first) = mark.or(behind).unwrap_or((Revision::NONE, 1));
    let mut page = Page { from, until, limit, bytes: 0, found: Vec::new() };
    if until.get().saturating_sub(at.get()) <= FEW {
        one_by_one(session, &subject, first, &mut page).await?;
    } else {
        by_consumer(session, subject, first, &mut page).await?;
    }
    if let Some(last) = page.found.last() {
        shared.set_mark(tenant, last.commit.last_revision().next(), last.position.get().saturating_add(1));
    }
    Ok(page.found)
}

async fn whole_page(session: &Session, after: Position, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, Failure> {
    let end = session.end().await?;
    if end <= after.get() {
        return Ok(Vec::new());
    }
    let mut page = WholePage { end, limit, bytes: 0, found: Vec::new(), after: after.get() };
    by_consumer(session, String::new(), after.get().saturating_add(1), &mut page).await?;
    Ok(page.found)
}

/// Takes messages until it has what it wants.
trait Takes {
    /// Has it taken any that it wants?
    fn has_some(&self) -> bool;

    /// Takes one. Is that all?
    fn take(&mut self, recorded: Arc<Recorded>) -> Result<bool, Failure>;

    /// How many more may be asked for, and how many bytes.
    fn wants(&self) -> (usize, usize);
}

/// A page of one tenant's commits.
struct Page {
    from: Revision,
    until: Revision,
    limit: ReadLimit,
    bytes: usize,
    found: Vec<Arc<Recorded>>,
}

impl Takes for Page {
    fn has_some(&self) -> bool {
        !self.found.is_empty()
    }

    fn take(&mut self, recorded: Arc<Recorded>) -> Result<bool, Failure> {
        let commit = &recorded.commit;
        if let Some(last) = self.found.last()
            && commit.header().first_revision != last.commit.last_revision().next()
        {
            let what = format!("revision {} follows {}", commit.header().first_revision, last.commit.last_revision());
            return Err(Failure::Damaged(recorded.position, what));
        }
        let last = commit.last_revision();
        if last < self.from {
            return Ok(false);
        }
        if !fits(&self.found, self.bytes, commit.body().len(), self.limit) {
            return Ok(true);
        }
        self.bytes = self.bytes.saturating_add(commit.body().len());
        self.found.push(recorded);
        Ok(last >= self.until || self.found.len() >= self.limit.commits)
    }

    fn wants(&self) -> (usize, usize) {
        // Those before `from` are passed over, however many there are.
        let commits = if self.found.is_empty() { FETCHED } else { self.limit.commits.saturating_sub(self.found.len()) };
        (commits, self.limit.bytes.saturating_sub(self.bytes))
    }
}

/// A page of all tenants' commits.
struct WholePage {
    end: u64,
    limit: ReadLimit,
    bytes: usize,
    found: Vec<Arc<Recorded>>,
    after: u64,
}

impl Takes for WholePage {
    fn has_some(&self) -> bool {
        !self.found.is_empty()
    }

    fn take(&mut self, recorded: Arc<Recorded>) -> Result<bool, Failure> {
        let sequence = recorded.position.get();
        // Nothing is ever removed, so a gap is a message that did not come. The page ends before it.
        if sequence != self.after.saturating_add(1) {
            if !self.found.is_empty() {
                return Ok(true);
            }
            return Err(Failure::Passing(format!("message {sequence} came after {}", self.after)));
        }
        let size = recorded.commit.body().len();
        if !fits(&self.found, self.bytes, size, self.limit) {
            return Ok(true);
        }
        self.after = sequence;
        self.bytes = self.bytes.saturating_add(size);
        self.found.push(recorded);
        Ok(sequence >= self.end || self.found.len() >= self.limit.commits)
    }

    fn wants(&self) -> (usize, usize) {
        (self.limit.commits.saturating_sub(self.found.len()), self.limit.bytes.saturating_sub(self.bytes))
    }
}

/// At least one commit is given, whatever its size.
fn fits(found: &[Arc<Recorded>], bytes: usize, size: usize, limit: ReadLimit) -> bool {
    found.is_empty() || bytes.saturating_add(size) <= limit.bytes
}

async fn one_by_one(session: &Session, subject: &str, mut sequence: u64, page: &mut Page) -> Result<(), Failure> {
    loop {
        let stored = match session.next(subject, sequence).await {
            Ok(Some(stored)) => stored,
            // The end was there a moment ago.
            Ok(None) => return Err(Failure::Passing("the stream's leader has changed".to_owned())),
            // The next page begins with it.
            Err(Failure::Damaged(..)) if page.has_some() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        sequence = stored.recorded.position.get().saturating_add(1);
        if page.take(stored.recorded)? {
            return Ok(());
        }
    }
}

async fn by_consumer(session: &Session, subject: String, first: u64, page: &mut impl Takes) -> Result<(), Failure> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
        ack_policy: AckPolicy::None,
        filter_subject: subject,
        inactive_threshold: FORGOTTEN_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    let made = session.unless_lost(session.stream().create_consumer(config)).await?;
    let consumer = made.map_err(|error| Failure::Passing(with_causes(&error)))?;
    let taken = fetch_all(session, &consumer, page).await;
    let name = &consumer.cached_info().name;
    // Only so that the server need not remember it longer.
    let _ = session.unless_lost(session.stream().delete_consumer(name)).await;
    taken
}

async fn fetch_all(
    session: &Session,
    consumer: &async_nats::jetstream::consumer::Consumer<pull::Config>,
    page: &mut impl Takes,
) -> Result<(), Failure> {
    let passing = |error: &(dyn std::error::Error + 'static)| Failure::Passing(with_causes(error));
    loop {
        let (messages, bytes) = page.wants();
        let (messages, bytes) = (messages.clamp(1, FETCHED), bytes.clamp(FETCHED_BYTES_MIN, 8 << 20));
        let fetch = consumer.fetch().max_messages(messages).max_bytes(bytes).expires(LAG).messages();
        let mut batch = session.unless_lost(fetch).await?.map_err(|error| passing(&error))?;
        let mut came = false;
        while let Some(message) = session.unless_lost(batch.next()).await? {
            let message = match message {
                Ok(message) => message,
                // So a server ends a batch of which the next message goes beyond its bytes (409): the next batch begins with that one.
                // Whatever else it was stands in the way of the next one, too.
                Err(_) if came => break,
                Err(error) => return Err(Failure::Passing(error.to_string())),
            };
            let info = message.info().map_err(|error| Failure::Passing(error.to_string()))?;
            came = true;
            let stored = match stored(info.stream_sequence, &message.payload) {
                Ok(stored) => stored,
                // The next page begins with it.
                Err(Failure::Damaged(..)) if page.has_some() => return Ok(()),
                Err(failure) => return Err(failure),
            };
            if page.take(stored.recorded)? {
                return Ok(());
            }
        }
        if !came {
            return Err(Failure::Passing("a copy of the stream lags behind its leader".to_owned()));
        }
    }
}

impl Shared {
    fn mark(&self, tenant: &TenantId) -> Option<(Revision, u64)> {
        let mut marks = self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        marks.get(tenant).copied()
    }

    fn set_mark(&self, tenant: &TenantId, revision: Revision, sequence: u64) {
        let mut marks = self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        marks.put(tenant.clone(), (revision, sequence));
    }
}
