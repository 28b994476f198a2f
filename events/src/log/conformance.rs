//! What every log promises, as tests that every log runs.
//!
//! `event_log_conformance!(make().await)` makes one `#[tokio::test]` a promise; the expression gives a log and
//! something that keeps it alive (a folder, a server). [`run`] tries all promises one after the other.
//!
//! A log may hold other commits and may leave gaps between positions: each promise uses tenants of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a suite of tests: a broken promise panics"
)]

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::Barrier, task::JoinSet};

use super::{Append, AppendError, Appended, EventLog, ReadLimit};
use crate::{
    commit::{Commit, Header, MAX_BODY_BYTES, Recorded},
    id::TenantId,
    ledger::{ChainHash, Head, Verifier},
    payload::{MAX_COMMIT_BYTES, MAX_INLINE_BYTES, Payload},
    revision::{Epoch, Position, Revision},
};

mod following;
mod stream;

pub use following::{a_cancelled_wait_loses_nothing, a_subscription_sees_each_commit_once_and_goes_live};
pub use stream::Stream;

/// How long a promise may take: far more than any log needs, so that only a log that hangs is caught.
const DEADLINE: Duration = Duration::from_secs(60);

/// A log to be tried.
pub type Log = Arc<dyn EventLog>;

/// A promise as a function.
pub type Promise = fn(Log) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Makes one `#[tokio::test]` for each promise of [`crate::log::conformance`]. The expression is evaluated in each of
/// them and gives `(Arc<dyn EventLog>, something to keep)`.
#[macro_export]
macro_rules! event_log_conformance {
    ($make:expr) => {
        $crate::event_log_conformance!(@list each ($make));
    };
    (@list $rule:ident ($($arguments:tt)*)) => {
        $crate::event_log_conformance!(@$rule ($($arguments)*)
            what_was_appended_is_read_back
            of_many_racers_one_wins
            commits_offered_on_top_of_each_other_are_stored_in_order
            the_same_commit_twice_is_one_commit
            a_stale_commit_conflicts
            a_commit_that_runs_ahead_conflicts
            an_older_epoch_is_fenced
            an_older_epoch_may_write_until_a_younger_one_has
            a_commit_of_another_chain_is_refused
            what_is_too_large_is_refused
            a_stream_is_read_from_any_revision
            a_stream_is_read_behind_any_position
            a_read_respects_its_limits
            commits_are_read_in_the_order_of_their_positions
            payloads_come_back
            the_head_is_the_last_commit
            tenants_do_not_meet
            a_subscription_sees_each_commit_once_and_goes_live
            a_cancelled_wait_loses_nothing
        );
    };
    (@each ($make:expr) $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let (log, _keep) = $make;
                $crate::log::conformance::$promise(log).await;
            }
        )*
    };
    (@table () $($promise:ident)*) => {
        /// All promises and their names.
        pub const PROMISES: &[(&str, Promise)] = &[$((stringify!($promise), |log| Box::pin($promise(log)))),*];
    };
}

crate::event_log_conformance!(@list table ());

/// Tries all promises, each on a log of its own.
pub async fn run<K>(make: impl AsyncFn() -> (Log, K)) {
    for (name, promise) in PROMISES {
        tracing::info!(promise = name, "trying");
        let (log, _keep) = make().await;
        promise(log).await;
    }
}

async fn append(log: &Log, commit: &Commit) -> Result<Appended, AppendError> {
    within(log.append(Append { commit: commit.clone(), payloads: Vec::new() })).await
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the log does not answer")
}

async fn whole(log: &Log, tenant: &TenantId) -> Vec<Arc<Recorded>> {
    let mut commits: Vec<Arc<Recorded>> = Vec::new();
    loop {
        let from = commits.last().map_or(Revision::new(1), |last| last.commit.last_revision().next());
        let more = within(log.read_stream(tenant, from, ReadLimit::default())).await.unwrap();
        if more.is_empty() {
            return commits;
        }
        commits.extend(more);
    }
}

/// The stream is exactly `commits`, and its chain holds.
async fn holds(log: &Log, tenant: &TenantId, commits: &[Commit]) {
    let found = whole(log, tenant).await;
    let hashes = |commit: &Commit| (commit.hash(), commit.header().clone(), commit.body().clone());
    let expected: Vec<_> = commits.iter().map(hashes).collect();
    assert_eq!(found.iter().map(|found| hashes(&found.commit)).collect::<Vec<_>>(), expected);
    let mut verifier = Verifier::new(tenant.clone());
    for recorded in &found {
        verifier.step(&recorded.commit).unwrap();
    }
    assert_eq!(within(log.head(tenant)).await.unwrap(), *verifier.head());
}

/// Header, hash, body and events of a commit come back as they were, by stream, by position and in order.
pub async fn what_was_appended_is_read_back(log: Log) {
    let mut stream = Stream::fresh();
    let (position, first) = stream.append(&log, 3).await;
    let (last, second) = stream.append(&log, 1).await;
    assert!(last > position && position > Position::START);
    holds(&log, &stream.tenant, &[first.clone(), second]).await;
    let found = within(log.read_at(position)).await.unwrap().unwrap();
    assert_eq!((found.position, found.commit.hash()), (position, first.hash()));
    assert_eq!(found.commit.events().unwrap(), first.events().unwrap());
    assert!(within(log.read_at(Position::START)).await.unwrap().is_none());
    assert!(within(log.read_at(Position::new(1 << 40))).await.unwrap().is_none());
    assert!(within(log.tail()).await.unwrap() >= last);
}

/// Many commits that follow the same revision: one is stored, the others conflict.
pub async fn of_many_racers_one_wins(log: Log) {
    const RACERS: usize = 16;
    let stream = Stream::fresh();
    let barrier = Arc::new(Barrier::new(RACERS));
    let mut racers = JoinSet::new();
    for _ in 0..RACERS {
        let (log, barrier, commit) = (Arc::clone(&log), Arc::clone(&barrier), stream.seal(2));
        racers.spawn(async move {
            barrier.wait().await;
            (append(&log, &commit).await, commit)
        });
    }
    let (mut winners, mut losers) = (Vec::new(), 0);
    while let Some(raced) = racers.join_next().await {
        match raced.unwrap() {
            (Ok(appended), commit) => {
                assert!(!appended.repeated);
                winners.push(commit);
            }
            (Err(AppendError::Conflict { expected, actual, epoch }), _) => {
                assert_eq!((expected, actual, epoch), (Revision::NONE, Revision::new(2), Epoch::FIRST));
                losers += 1;
            }
            (Err(other), _) => panic!("{other}"),
        }
    }
    assert_eq!((winners.len(), losers), (1, RACERS - 1));
    holds(&log, &stream.tenant, &winners).await;
}

/// A log that keeps the order of its appends stores a commit that was offered before the one under it was acknowledged.
pub async fn commits_offered_on_top_of_each_other_are_stored_in_order(log: Log) {
    if !log.keeps_order() {
        return;
    }
    for _ in 0..100 {
        let mut stream = Stream::fresh();
        let [first, second, third] = [(); 3].map(|()| {
            let commit = stream.seal(1);
            stream.head = commit.head();
            commit
        });
        // Polls them in this order, and then waits for all.
        let offered = tokio::join!(biased; append(&log, &first), append(&log, &second), append(&log, &third));
        for offered in [offered.0, offered.1, offered.2] {
            assert!(matches!(offered, Ok(Appended { repeated: false, .. })), "{offered:?}");
        }
        holds(&log, &stream.tenant, &[first, second, third]).await;
    }
}

/// At once, at the end of the stream, further back, and after a younger owner has written.
pub async fn the_same_commit_twice_is_one_commit(log: Log) {
    let mut stream = Stream::fresh();
    let first = stream.seal(2);
    let (one, two) = tokio::join!(append(&log, &first), append(&log, &first));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.position, two.position);
    assert!(one.repeated != two.repeated);
    stream.head = first.head();
    let again = Appended { position: one.position, repeated: true };
    assert_eq!(append(&log, &first).await.unwrap(), again);
    let (_, second) = stream.append(&log, 1).await;
    assert_eq!(append(&log, &first).await.unwrap(), again);
    stream.epoch = Epoch::new(2);
    let (_, third) = stream.append(&log, 1).await;
    assert_eq!(append(&log, &first).await.unwrap(), again);
    holds(&log, &stream.tenant, &[first, second, third]).await;
}

/// A commit whose place is taken by another is refused, and nothing is stored.
pub async fn a_stale_commit_conflicts(log: Log) {
    let mut stream = Stream::fresh();
    let stale = stream.clone();
    let (_, first) = stream.append(&log, 2).await;
    let refused = append(&log, &stale.seal(1)).await;
    let (expected, actual) = (Revision::NONE, Revision::new(2));
    assert!(
        matches!(refused, Err(AppendError::Conflict { expected: e, actual: a, .. }) if (e, a) == (expected, actual)),
        "{refused:?}"
    );
    holds(&log, &stream.tenant, &[first]).await;
}

/// A commit that would leave a gap is refused, and nothing is stored.
pub async fn a_commit_that_runs_ahead_conflicts(log: Log) {
    let mut stream = Stream::fresh();
    let (_, first) = stream.append(&log, 1).await;
    let mut ahead = stream.clone();
    ahead.head = ahead.seal(1).head();
    let refused = append(&log, &ahead.seal(1)).await;
    assert!(matches!(refused, Err(AppendError::Conflict { .. })), "{refused:?}");
    holds(&log, &stream.tenant, &[first]).await;
}

/// After a younger owner has written, an older one cannot.
pub async fn an_older_epoch_is_fenced(log: Log) {
    let mut stream = Stream::fresh();
    stream.epoch = Epoch::new(7);
    let (_, first) = stream.append(&log, 1).await;
    let mut older = stream.clone();
    older.epoch = Epoch::new(6);
    let refused = append(&log, &older.seal(1)).await;
    let (offered, current) = (Epoch::new(6), Epoch::new(7));
    assert!(
        matches!(refused, Err(AppendError::Fenced { offered: o, current: c }) if (o, c) == (offered, current)),
        "{refused:?}"
    );
    let (_, second) = stream.append(&log, 1).await;
    holds(&log, &stream.tenant, &[first, second]).await;
}

/// Until a younger owner has written, an older one may. The younger one learns of it by its first commit, and whose it was.
pub async fn an_older_epoch_may_write_until_a_younger_one_has(log: Log) {
    let mut older = Stream::fresh();
    older.epoch = Epoch::new(6);
    let (_, first) = older.append(&log, 1).await;
    let mut younger = older.clone();
    younger.epoch = Epoch::new(7);
    let (_, late) = older.append(&log, 1).await;
    let refused = append(&log, &younger.seal(1)).await;
    assert!(matches!(refused, Err(AppendError::Conflict { epoch, .. }) if epoch == Epoch::new(6)), "{refused:?}");
    younger.head = late.head();
    let (_, next) = younger.append(&log, 1).await;
    let refused = append(&log, &older.seal(1)).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    holds(&log, &younger.tenant, &[first, late, next]).await;
}

/// A commit that fits by its revision and names another predecessor is refused.
pub async fn a_commit_of_another_chain_is_refused(log: Log) {
    let mut stream = Stream::fresh();
    let (_, first) = stream.append(&log, 1).await;
    let mut other = stream.clone();
    other.head.hash = ChainHash::from_bytes([7; 32]);
    let refused = append(&log, &other.seal(1)).await;
    assert!(matches!(refused, Err(AppendError::Unchained(at)) if at == Revision::new(1)), "{refused:?}");
    holds(&log, &stream.tenant, &[first]).await;
}

/// A payload, the payloads together, or a body over the bounds.
pub async fn what_is_too_large_is_refused(log: Log) {
    let stream = Stream::fresh();
    let payload = |bytes: usize| Payload::new(Bytes::from(vec![7; bytes]));
    let long = Commit::from_stored(
        Header { count: 1, ..stream.seal(1).header().clone() },
        ChainHash::from_bytes([0; 32]),
        Bytes::from(vec![b' '; MAX_BODY_BYTES + 1]),
    );
    let attempts = [
        (stream.seal(1), vec![payload(MAX_INLINE_BYTES + 1)]),
        (stream.seal(1), vec![payload(MAX_INLINE_BYTES); MAX_COMMIT_BYTES / MAX_INLINE_BYTES + 1]),
        (long, Vec::new()),
    ];
    for (commit, payloads) in attempts {
        let refused = within(log.append(Append { commit, payloads })).await;
        assert!(matches!(refused, Err(AppendError::TooLarge)), "{refused:?}");
    }
    holds(&log, &stream.tenant, &[]).await;
    let largest = vec![payload(MAX_INLINE_BYTES); MAX_COMMIT_BYTES / MAX_INLINE_BYTES];
    let appended = within(log.append(Append { commit: stream.seal(1), payloads: largest })).await;
    assert!(appended.is_ok(), "{appended:?}");
}

/// From the first revision of a commit, from the middle of one, and from beyond the end.
pub async fn a_stream_is_read_from_any_revision(log: Log) {
    let mut stream = Stream::fresh();
    for events in [2, 3, 1] {
        stream.append(&log, events).await;
    }
    let expected = [(0, 1), (1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6)];
    for (from, first) in expected {
        let found = within(log.read_stream(&stream.tenant, Revision::new(from), ReadLimit::default())).await.unwrap();
        assert_eq!(found[0].commit.header().first_revision, Revision::new(first), "from {from}");
        assert_eq!(found.last().unwrap().commit.last_revision(), Revision::new(6), "from {from}");
    }
    for from in [7, 1 << 40] {
        let found = within(log.read_stream(&stream.tenant, Revision::new(from), ReadLimit::default())).await.unwrap();
        assert!(found.is_empty(), "from {from}");
    }
}

/// Behind each of its commits, also when it is asked for from a revision that lies before; and behind one of somebody else's.
pub async fn a_stream_is_read_behind_any_position(log: Log) {
    let (mut stream, mut other) = (Stream::fresh(), Stream::fresh());
    let mut places = vec![(Position::START, 1)];
    for (events, next) in [(2, 3), (3, 6), (1, 7)] {
        places.push((stream.append(&log, events).await.0, next));
        places.push((other.append(&log, 1).await.0, next));
    }
    for (after, next) in places {
        for from in [Revision::NONE, Revision::new(next)] {
            let found =
                within(log.read_stream_behind(&stream.tenant, from, after, ReadLimit::default())).await.unwrap();
            let first = found.first().map_or(7, |first| first.commit.header().first_revision.get());
            assert_eq!(first, next, "from {from} behind {after}");
            assert!(found.iter().all(|it| it.position > after && *it.commit.tenant() == stream.tenant));
            assert!(found.is_empty() || found.last().unwrap().commit.last_revision() == Revision::new(6));
        }
        // Who asks for less gets less.
        let last = within(log.read_stream_behind(&stream.tenant, Revision::new(6), after, ReadLimit::default())).await;
        let last = last.unwrap();
        assert_eq!(last.len(), usize::from(next < 7), "behind {after}");
    }
}

/// Commits and bytes; and at least one commit, whatever its size.
pub async fn a_read_respects_its_limits(log: Log) {
    let mut stream = Stream::fresh();
    let start = within(log.tail()).await.unwrap();
    let mut sizes = Vec::new();
    for _ in 0..5 {
        sizes.push(stream.append(&log, 1).await.1.body().len());
    }
    let limits = [
        (ReadLimit { commits: 2, bytes: usize::MAX }, 2),
        (ReadLimit { commits: 100, bytes: sizes[0] + sizes[1] }, 2),
        (ReadLimit { commits: 100, bytes: sizes[0] + sizes[1] - 1 }, 1),
        (ReadLimit { commits: 100, bytes: 0 }, 1),
        (ReadLimit { commits: 1, bytes: 0 }, 1),
    ];
    for (limit, expected) in limits {
        let found = within(log.read_stream(&stream.tenant, Revision::new(1), limit)).await.unwrap();
        assert_eq!(found.len(), expected, "read_stream {limit:?}");
        let found = within(log.read_all(start, limit)).await.unwrap();
        assert!((1..=limit.commits).contains(&found.len()), "read_all {limit:?}");
        let bytes: usize = found.iter().map(|found| found.commit.body().len()).sum();
        assert!(found.len() == 1 || bytes <= limit.bytes, "read_all {limit:?}");
        let found = within(within(log.subscribe(start)).await.unwrap().next(limit)).await.unwrap();
        assert!((1..=limit.commits).contains(&found.len()), "subscription {limit:?}");
    }
}

/// All streams together, from any position, without gap or repetition.
pub async fn commits_are_read_in_the_order_of_their_positions(log: Log) {
    let mut streams = [Stream::fresh(), Stream::fresh(), Stream::fresh()];
    let start = within(log.tail()).await.unwrap();
    let mut appended = Vec::new();
    for round in 0..12 {
        let (position, commit) = streams[round % 3].append(&log, 1 + round % 2).await;
        appended.push((position, commit.hash()));
    }
    assert!(appended.is_sorted_by(|before, after| before.0 < after.0));
    let ours = |found: &Arc<Recorded>| streams.iter().any(|stream| stream.tenant == *found.commit.tenant());
    for skipped in [0, 1, 5, 11] {
        let mut after = if skipped == 0 { start } else { appended[skipped - 1].0 };
        let mut found = Vec::new();
        loop {
            let more = within(log.read_all(after, ReadLimit { commits: 5, bytes: 1 << 20 })).await.unwrap();
            let Some(last) = more.last() else { break };
            after = last.position;
            found.extend(more.iter().filter(|found| ours(found)).map(|found| (found.position, found.commit.hash())));
        }
        assert_eq!(found, appended[skipped..], "after {skipped}");
    }
    let tail = within(log.tail()).await.unwrap();
    assert!(within(log.read_all(tail, ReadLimit::default())).await.unwrap().is_empty());
}

/// Every payload of a commit, whole and by digest; none where there was none.
pub async fn payloads_come_back(log: Log) {
    let mut stream = Stream::fresh();
    let commit = stream.seal(1);
    let payloads: Vec<Payload> =
        [&b"stdin"[..], b"", &[0xff; 4_096]].map(|bytes| Payload::new(Bytes::copy_from_slice(bytes))).into();
    let append = Append { commit: commit.clone(), payloads: payloads.clone() };
    let position = within(log.append(append)).await.unwrap().position;
    stream.head = commit.head();
    let (bare, _) = stream.append(&log, 1).await;
    assert_eq!(within(log.payloads(position)).await.unwrap(), payloads);
    assert_eq!(within(log.payload(position, payloads[2].digest())).await.unwrap().as_ref(), Some(payloads[2].bytes()));
    assert_eq!(within(log.payload(bare, payloads[2].digest())).await.unwrap(), None);
    assert!(within(log.payloads(bare)).await.unwrap().is_empty());
    assert!(within(log.payloads(Position::START)).await.unwrap().is_empty());
}

/// The head is the genesis of an empty stream, and then the end of its last commit.
pub async fn the_head_is_the_last_commit(log: Log) {
    let mut stream = Stream::fresh();
    stream.epoch = Epoch::new(3);
    assert_eq!(within(log.head(&stream.tenant)).await.unwrap(), Head::genesis(&stream.tenant));
    for events in [1, 4, 2] {
        let (_, commit) = stream.append(&log, events).await;
        assert_eq!(within(log.head(&stream.tenant)).await.unwrap(), commit.head());
    }
}

/// Streams of two tenants have revisions, heads and chains of their own.
pub async fn tenants_do_not_meet(log: Log) {
    let (mut one, mut other) = (Stream::fresh(), Stream::fresh());
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ones.push(one.append(&log, 2).await.1);
        others.push(other.append(&log, 1).await.1);
    }
    holds(&log, &one.tenant, &ones).await;
    holds(&log, &other.tenant, &others).await;
    holds(&log, &Stream::fresh().tenant, &[]).await;
}
