//! Many clients at once that run the echo guest, each time with another input.

#![expect(clippy::indexing_slicing, reason = "a member that a JSON value lacks reads as null; nothing panics")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    multipart::{Form, Part},
};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::task::JoinHandle;
use wasmwiz_events::{digest::Digest, execution::Outcome, id::ExecutionId, payload::MAX_INLINE_BYTES};

use crate::{
    chance::Chance,
    client::{Answer, Client, send},
};

/// An execution that was answered.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Which.
    pub id: ExecutionId,
    /// Digest of its input, which is also what it must give back.
    pub input: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// The answer.
    pub answer: Value,
}

/// What the clients got.
#[derive(Debug, Default)]
pub struct Got {
    /// Executions that succeeded.
    pub answered: Vec<Answered>,
    /// Executions that the node could not carry out, and said so.
    pub failed: Vec<Answered>,
    /// Whole answers that were no outcome.
    pub refused: Vec<Answer>,
    /// Requests without a whole answer.
    pub unanswered: usize,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<anyhow::Result<Got>>>,
}

impl Load {
    /// Sends clients to work: by both doors, with inputs that ride with the commit and such that are too large for that.
    /// Each goes on until it is told to stop or its node is gone. `echo` holds the guest, which is published under
    /// that name.
    pub fn begin(client: &Client, echo: &Bytes, clients: u64, chance: &mut Chance) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|_| {
            let chance = Chance::new(chance.next());
            tokio::spawn(work(client.clone(), echo.clone(), chance, Arc::clone(&stop)))
        });
        Self { clients: clients.collect(), stop }
    }

    /// Lets every client finish its request, and gives what all of them got.
    ///
    /// # Errors
    /// When an answer is not what the contract says, or an execution did not succeed.
    pub async fn end(self) -> anyhow::Result<Got> {
        let all = self.end_with_failures().await?;
        let failed = all.failed.first().map(|failed| &failed.answer);
        ensure!(failed.is_none(), "an echo did not succeed: {failed:?}");
        Ok(all)
    }

    /// The same of a node that may fail to carry out what it accepted: it has no room, for instance.
    ///
    /// # Errors
    /// When an answer is not what the contract says.
    pub async fn end_with_failures(self) -> anyhow::Result<Got> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Got::default();
        for client in self.clients {
            let got = client.await.context("a client panicked")??;
            all.answered.extend(got.answered);
            all.failed.extend(got.failed);
            all.refused.extend(got.refused);
            all.unanswered += got.unanswered;
        }
        Ok(all)
    }
}

async fn work(client: Client, echo: Bytes, mut chance: Chance, stop: Arc<AtomicBool>) -> anyhow::Result<Got> {
    let mut got = Got::default();
    while !stop.load(Ordering::Relaxed) {
        let input = input(&mut chance);
        let digest = Digest::of(&input);
        let request = if chance.within(0..2) == 0 {
            client.request(Method::POST, "/v1/modules/echo/executions").body(input)
        } else {
            let part = |bytes: Bytes| Part::stream(bytes).file_name("file");
            let form = Form::new().part("wasm", part(echo.clone())).part("input", part(input));
            client.request(Method::POST, "/v1/executions").multipart(form)
        };
        // A client cannot know whether its request took effect when no whole answer came: it is left alone.
        let Ok(answer) = send(request).await else {
            got.unanswered += 1;
            break;
        };
        if answer.status != StatusCode::OK {
            got.refused.push(answer);
            continue;
        }
        let answer: Value = answer.json()?;
        let outcome = Outcome::deserialize(&answer["outcome"]).with_context(|| format!("no outcome: {answer}"))?;
        let id = answer["id"].as_str().context("an execution has no id")?.parse()?;
        let answered = Answered { id, input: digest, outcome, answer };
        match outcome {
            Outcome::Succeeded => got.answered.push(answered),
            Outcome::Failed => got.failed.push(answered),
            other => bail!("an echo ended as {}: {}", other.as_str(), answered.answer),
        }
    }
    Ok(got)
}

/// Unique bytes; one in four inputs is larger than what rides with a commit, and one in two is text.
fn input(chance: &mut Chance) -> Bytes {
    let most = MAX_INLINE_BYTES as u64;
    let size = if chance.within(0..4) == 0 { chance.within(most + 1..3 * most) } else { chance.within(16..4_096) };
    let mut bytes = chance.bytes(usize::try_from(size).unwrap_or(16));
    if chance.within(0..2) == 0 {
        bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
    }
    bytes.into()
}
