//! A subscription: the stream from a position on, in order, over whatever connections there are.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};

use super::{
    Shared,
    session::{Failure, Session, stored},
};
use crate::{
    commit::Recorded,
    log::{ReadError, ReadLimit, Subscription},
    nats::with_causes,
    revision::Position,
};

/// Messages that are on their way to a subscription, at most.
const AHEAD: i64 = 128;

/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(50);

/// A subscription.
pub(super) struct Follow {
    shared: Arc<Shared>,
    /// The last message that has come.
    last: u64,
    /// What has come and was not given yet.
    ready: VecDeque<Arc<Recorded>>,
    open: Option<(Arc<Session>, pull::Ordered)>,
}

impl Follow {
    pub(super) const fn new(shared: Arc<Shared>, after: Position) -> Self {
        Self { shared, last: after.get(), ready: VecDeque::new(), open: None }
    }

    /// Waits for one more message, on this connection or a later one.
    async fn wait(&mut self) -> Result<(), ReadError> {
        loop {
            match self.try_wait().await {
                Ok(()) => return Ok(()),
                Err(Failure::Damaged(position, what)) => {
                    self.open = None;
                    return Err(ReadError::Damaged { position, what: what.into() });
                }
                Err(Failure::Passing(why)) => {
                    tracing::debug!(%why, after = self.last, "a subscription of the log begins again");
                    self.open = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            if let Some(reason) = self.shared.poisoned() {
                return Err(ReadError::Unavailable(reason));
            }
        }
    }

    async fn try_wait(&mut self) -> Result<(), Failure> {
        if self.open.is_none() {
            // Where the log is closed for good nothing will come; whoever waits is told by the poison, or stops itself.
            let Some(session) = self.shared.link.session().await else { return std::future::pending().await };
            let messages = subscribe(&session, self.last).await?;
            self.open = Some((session, messages));
        }
        let Some((session, messages)) = &mut self.open else { return Ok(()) };
        let message = session.unless_lost(messages.next()).await?;
        let message = message.ok_or_else(|| Failure::Passing("the consumer has ended".to_owned()))?;
        let message = message.map_err(|error| Failure::Passing(with_causes(&error)))?;
        self.take(&message)
    }

    fn take(&mut self, message: &async_nats::jetstream::Message) -> Result<(), Failure> {
        let info = message.info().map_err(|error| Failure::Passing(error.to_string()))?;
        // Nothing is ever removed from the stream, so a gap is a message that did not come.
        if info.stream_sequence != self.last.saturating_add(1) {
            return Err(Failure::Passing(format!("message {} came after {}", info.stream_sequence, self.last)));
        }
        let stored = stored(info.stream_sequence, &message.payload)?;
        self.last = info.stream_sequence;
        self.ready.push_back(stored.recorded);
        Ok(())
    }

    /// Takes what has come already, without waiting.
    fn gather(&mut self, commits: usize) {
        while self.ready.len() < commits {
            let Some((_, messages)) = &mut self.open else { return };
            // Whatever is wrong is found again by waiting for it.
            let Some(Some(Ok(message))) = messages.next().now_or_never() else { return };
            if self.take(&message).is_err() {
                self.open = None;
            }
        }
    }
}

async fn subscribe(session: &Session, after: u64) -> Result<pull::Ordered, Failure> {
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.saturating_add(1) },
        max_batch: AHEAD,
        ..Default::default()
    };
    let made = session.unless_lost(session.stream().create_consumer(config)).await?;
    let consumer = made.map_err(|error| Failure::Passing(with_causes(&error)))?;
    let messages = session.unless_lost(consumer.messages()).await?;
    messages.map_err(|error| Failure::Passing(with_causes(&error)))
}

#[async_trait]
impl Subscription for Follow {
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Arc<Recorded>>, ReadError> {
        // What has come is kept here until it is given: whoever stops waiting loses nothing.
        while self.ready.is_empty() {
            self.wait().await?;
        }
        self.gather(limit.commits);
        let (mut given, mut bytes): (Vec<Arc<Recorded>>, usize) = (Vec::new(), 0);
        while given.len() < limit.commits.max(1) {
            let Some(next) = self.ready.front() else { break };
            bytes = bytes.saturating_add(next.commit.body().len());
            if !given.is_empty() && bytes > limit.bytes {
                break;
            }
            given.extend(self.ready.pop_front());
        }
        Ok(given)
    }
}
