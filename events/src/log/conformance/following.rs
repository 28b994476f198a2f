//! Promises of subscriptions: everything once, in order, old and then new.

use std::{future::Future, sync::Arc};

use tokio::task::JoinSet;

use super::{Log, Stream, within};
use crate::{
    log::{ReadLimit, Subscription},
    revision::Position,
};

/// While several writers append, subscriptions that begin anywhere see every commit once, in order, old and new.
pub async fn a_subscription_sees_each_commit_once_and_goes_live(log: Log) {
    const WRITERS: usize = 4;
    const COMMITS: u64 = 60;
    let mut streams: Vec<Stream> = (0..WRITERS).map(|_| Stream::fresh()).collect();
    let start = within(log.tail()).await.unwrap();
    for stream in &mut streams {
        stream.append(&log, 1).await;
    }
    let second = within(log.tail()).await.unwrap();
    let mut writers = JoinSet::new();
    for mut stream in streams.clone() {
        let log = Arc::clone(&log);
        writers.spawn(async move {
            for _ in 1..COMMITS {
                stream.append(&log, 1).await;
            }
            stream
        });
    }
    let mut from_start = within(log.subscribe(start)).await.unwrap();
    let mut from_second = within(log.subscribe(second)).await.unwrap();
    let (all, later) =
        tokio::join!(follow(&mut *from_start, &streams, COMMITS), follow(&mut *from_second, &streams, COMMITS));
    assert_eq!(all, vec![(1..=COMMITS).collect::<Vec<_>>(); WRITERS]);
    assert_eq!(later, vec![(2..=COMMITS).collect::<Vec<_>>(); WRITERS]);

    let mut live = within(log.subscribe(within(log.tail()).await.unwrap())).await.unwrap();
    let mut streams = within(writers.join_all()).await;
    for stream in &mut streams {
        stream.append(&log, 1).await;
    }
    for subscription in [&mut live, &mut from_start] {
        let seen = follow(&mut **subscription, &streams, COMMITS + 1).await;
        assert_eq!(seen, vec![vec![COMMITS + 1]; WRITERS]);
    }
}

/// The revisions of each stream as a subscription gives them, until each has reached `last`.
async fn follow(subscription: &mut dyn Subscription, streams: &[Stream], last: u64) -> Vec<Vec<u64>> {
    let mut seen = vec![Vec::new(); streams.len()];
    let mut position = Position::START;
    while seen.iter().any(|revisions: &Vec<u64>| revisions.last() != Some(&last)) {
        for recorded in within(subscription.next(ReadLimit { commits: 7, bytes: 1 << 20 })).await.unwrap() {
            assert!(recorded.position > position);
            position = recorded.position;
            if let Some(index) = streams.iter().position(|stream| stream.tenant == *recorded.commit.tenant()) {
                seen[index].push(recorded.commit.last_revision().get());
            }
        }
    }
    seen
}

/// A subscription whose waiting is given up again and again still gives every commit once.
pub async fn a_cancelled_wait_loses_nothing(log: Log) {
    const COMMITS: u64 = 50;
    let mut stream = Stream::fresh();
    let start = within(log.tail()).await.unwrap();
    let mut subscription = within(log.subscribe(start)).await.unwrap();
    let followed = stream.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..COMMITS {
            stream.append(&log, 1).await;
        }
    });
    let seen = within(async {
        let (mut seen, mut patience) = (Vec::new(), 1);
        while seen.last() != Some(&COMMITS) {
            let next = subscription.next(ReadLimit { commits: 3, bytes: 1 << 20 });
            // Give up early, also in the middle of a read, and wait longer each time.
            let Some(found) = turns(next, patience).await else {
                patience *= 2;
                continue;
            };
            patience = 1;
            let ours = found.unwrap().into_iter().filter(|found| *found.commit.tenant() == followed.tenant);
            seen.extend(ours.map(|found| found.commit.last_revision().get()));
        }
        seen
    });
    assert_eq!(seen.await, (1..=COMMITS).collect::<Vec<_>>());
    writer.await.unwrap();
}

/// The future's output, if it comes within some turns of the scheduler; then the future is dropped.
async fn turns<T>(future: impl Future<Output = T>, turns: usize) -> Option<T> {
    let yields = async {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = yields => None,
    }
}
