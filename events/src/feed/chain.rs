//! Messages of which each is stored only right behind the one before it, so that all may be under way at the same time.
//!
//! Each names the sequence that the stream must have had last. Once one is not stored, for whatever reason, none behind it is: what comes
//! later does not overtake. The stream answers each, so that none is missed either. A message that the stream has already (its id is known
//! there) is acknowledged and takes no sequence; what comes behind it is refused then. Whoever uses a chain sends such messages [one by
//! one](super::bus::Bus::publish).
//!
//! Nobody else is to write to the stream: somebody's message in the place of one of ours is followed by ours, which has overtaken then. So a chain
//! [ends for good](Chain::sent_alone) with the first message of somebody else.

use std::{num::NonZeroU64, time::Duration};

use async_nats::{Client, HeaderMap, Subscriber, client::PublishErrorKind, header::NATS_EXPECTED_LAST_SEQUENCE};
use futures_util::StreamExt as _;
use serde::{Deserialize, de::IgnoredAny};

use super::{bus::headers, message::Message, trouble::Trouble};

/// The end of a stream, and where it answers.
pub(crate) struct Chain {
    client: Client,
    /// What the subjects of answers begin with.
    inbox: String,
    answers: Subscriber,
    answered_within: Duration,
    /// The sequence of the stream's last message, as far as is known.
    last: u64,
    /// Does nobody else write to the stream, as far as is known?
    is_ours: bool,
}

/// What a stream answers. One that has stored the message says where, and a refusal has an error.
#[derive(Deserialize)]
struct Answer {
    seq: NonZeroU64,
    error: Option<IgnoredAny>,
}

impl Chain {
    /// Behind the message `last` of a stream, 0 for one that is empty.
    pub(super) async fn begin(client: Client, answered_within: Duration, last: u64) -> Result<Self, Trouble> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|error| Trouble::JetStream(format!("its answers cannot be heard: {error}")))?;
        Ok(Self { client, inbox, answers, answered_within, last, is_ours: true })
    }

    /// Takes note of so many messages that were sent one by one instead, of which the last one lies at `sequence`.
    pub(super) fn sent_alone(&mut self, count: usize, sequence: u64) {
        if self.is_ours && sequence.saturating_sub(self.last) > count as u64 {
            tracing::warn!(sequence, "somebody else writes to the feed's stream: permit that to the feed alone");
            self.is_ours = false;
        }
        self.last = self.last.max(sequence);
    }

    /// Sends them, and waits until each is answered. Are all of them stored now, or were they before?
    pub(super) async fn publish(&mut self, messages: &[Message]) -> Result<bool, Trouble> {
        if !self.is_ours {
            return Ok(false);
        }
        let (mut sent, mut expected) = (0, self.last);
        for (number, message) in messages.iter().enumerate() {
            let (subject, reply) = (message.subject.clone(), format!("{}.{number}", self.inbox));
            let headers = linked(message, expected);
            let published = self.client.publish_with_reply_and_headers(subject, reply, headers, message.body.clone());
            match published.await.map_err(|error| error.kind()) {
                Ok(()) => (sent, expected) = (sent + 1, expected + 1),
                Err(PublishErrorKind::Send) => return Err(Trouble::Lost),
                // It is told why when it is sent by itself.
                Err(PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject) => break,
            }
        }
        let (answered_within, mut all_stored) = (self.answered_within, sent == messages.len());
        let mut last = self.last;
        let answering = async {
            for _ in 0..sent {
                let answer = self.answers.next().await.ok_or(Trouble::Lost)?;
                match serde_json::from_slice(&answer.payload) {
                    Ok(Answer { seq, error: None }) => last = last.max(seq.get()),
                    Ok(_) | Err(_) => all_stored = false,
                }
            }
            Ok::<_, Trouble>(())
        };
        tokio::time::timeout(answered_within, answering).await.map_err(|_| Trouble::NotAcknowledged)??;
        if all_stored {
            self.last = last;
        }
        Ok(all_stored)
    }

    /// The sequence of the stream's last message, as far as is known.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }
}

/// The headers of a message that follows the one at `sequence`.
fn linked(message: &Message, sequence: u64) -> HeaderMap {
    let mut headers = headers(message);
    headers.insert(NATS_EXPECTED_LAST_SEQUENCE, sequence.to_string());
    headers
}
