//! What a log says, read from its file or its server: stronger than what a node says of itself.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use wasmwiz_events::{
    commit::Commit,
    digest::Digest,
    event::Event,
    execution::{Accepted, Finished, Lost, Outcome, Started},
    id::{ExecutionId, TenantId},
    ledger::Verifier,
    log::{
        EventLog, ReadLimit,
        sqlite::{Found, SqliteLog},
    },
    payload::{self, Payload},
    revision::Position,
    time::Timestamp,
};

/// Everything recorded.
#[derive(Debug, Default)]
pub struct History {
    /// By execution, in the order of their ids.
    pub executions: BTreeMap<ExecutionId, Recorded>,
    /// Events in all.
    pub events: u64,
    /// Commits in all.
    pub commits: u64,
    /// By tenant, the ids of its events in their order.
    pub ids: BTreeMap<String, Vec<String>>,
    /// By tenant, when its executions were accepted, in their order.
    pub accepted: BTreeMap<String, Vec<Timestamp>>,
    /// The payloads that rode with commits.
    payloads: BTreeMap<[u8; 32], Bytes>,
}

/// What is recorded of one execution.
#[derive(Debug, Default)]
pub struct Recorded {
    /// How it began. One, in a sound history.
    pub accepted: Vec<Accepted>,
    /// Attempts at it, when it is asynchronous.
    pub started: Vec<Started>,
    /// How it ended. One, once it has.
    pub ends: Vec<End>,
}

/// A terminal event.
#[derive(Debug)]
pub enum End {
    /// It finished.
    Finished(Box<Finished>),
    /// It was declared lost.
    Lost(Lost),
}

impl End {
    /// Its outcome.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Finished(finished) => finished.outcome,
            Self::Lost(_) => Outcome::Lost,
        }
    }
}

/// A walk over a log.
#[derive(Debug, Default)]
struct Walk {
    history: History,
    chains: BTreeMap<TenantId, Verifier>,
}

impl Walk {
    /// Revisions without gap, a chain that holds, and epochs that never decrease.
    fn step(&mut self, commit: &Commit) -> anyhow::Result<()> {
        let (tenant, history) = (commit.tenant(), &mut self.history);
        self.chains.entry(tenant.clone()).or_insert_with(|| Verifier::new(tenant.clone())).step(commit)?;
        history.commits += 1;
        for envelope in commit.events()?.iter() {
            history.events += 1;
            history.ids.entry(tenant.to_string()).or_default().push(envelope.id.to_string());
            if matches!(envelope.event, Event::ExecutionAccepted(_)) {
                history.accepted.entry(tenant.to_string()).or_default().push(envelope.time);
            }
            history.remember(&envelope.event);
        }
        Ok(())
    }

    fn keep(&mut self, payloads: Vec<Payload>) -> anyhow::Result<()> {
        for payload in payloads {
            ensure!(payload.is_intact(), "the payload {payload:?} is damaged");
            self.history.payloads.insert(*payload.digest().as_bytes(), payload.bytes().clone());
        }
        Ok(())
    }
}

impl History {
    /// Reads the log in a node's data folder and walks every tenant's chain. A node may be running on it.
    ///
    /// # Errors
    /// When it cannot be read, or a chain is broken.
    pub fn read(data: &Path) -> anyhow::Result<Self> {
        let rows = SqliteLog::open_read_only(&data.join("log")).context("cannot open the log")?;
        let mut walk = Walk::default();
        for found in rows.rows() {
            let row = match found {
                Found::Row(row) => row,
                Found::Damage { position, what, .. } => bail!("the log is damaged at {position}: {what}"),
            };
            walk.step(&row.commit.map_err(anyhow::Error::msg)?)?;
            if let Some(packed) = row.payloads.map_err(anyhow::Error::msg)? {
                walk.keep(payload::unpack(packed)?)?;
            }
        }
        Ok(walk.history)
    }

    /// Reads a log from its beginning to its present end, and walks every tenant's chain. Nodes may be writing to it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn of(log: &dyn EventLog) -> anyhow::Result<Self> {
        let (mut walk, mut after, tail) = (Walk::default(), Position::START, log.tail().await?);
        while after < tail {
            let commits = log.read_all(after, ReadLimit::default()).await?;
            after = commits
                .last()
                .with_context(|| format!("nothing follows {after}, and the log ends at {tail}"))?
                .position;
            for recorded in commits {
                walk.step(&recorded.commit)?;
                walk.keep(log.payloads(recorded.position).await?)?;
            }
        }
        Ok(walk.history)
    }

    fn remember(&mut self, event: &Event) {
        match event {
            Event::ExecutionAccepted(accepted) => {
                self.executions.entry(accepted.execution_id).or_default().accepted.push((**accepted).clone());
            }
            Event::ExecutionStarted(started) => {
                self.executions.entry(started.execution_id).or_default().started.push(started.clone());
            }
            Event::ExecutionFinished(finished) => {
                let end = End::Finished(finished.clone());
                self.executions.entry(finished.execution_id).or_default().ends.push(end);
            }
            Event::ExecutionLost(lost) => {
                self.executions.entry(lost.execution_id).or_default().ends.push(End::Lost(lost.clone()));
            }
            _ => {}
        }
    }

    /// Executions that were accepted and have no terminal event yet.
    pub fn open(&self) -> usize {
        self.executions.values().filter(|execution| execution.ends.is_empty()).count()
    }

    /// Executions that ended like this.
    pub fn ended(&self, outcome: Outcome) -> usize {
        let ends = self.executions.values().flat_map(|execution| &execution.ends);
        ends.filter(|end| end.outcome() == outcome).count()
    }

    /// Every execution was accepted once and ended once.
    ///
    /// # Errors
    /// Names the first for which it is not so.
    pub fn each_ended_once(&self) -> anyhow::Result<()> {
        for (id, execution) in &self.executions {
            let (accepted, ends) = (execution.accepted.len(), execution.ends.len());
            ensure!(accepted == 1 && ends == 1, "{id} was accepted {accepted} times and ended {ends} times");
        }
        Ok(())
    }

    /// The bytes that a digest names: from a commit, or from the blobs below the same data folder.
    ///
    /// # Errors
    /// When they are nowhere, or are others.
    pub fn content(&self, data: &Path, digest: Digest) -> anyhow::Result<Bytes> {
        if let Some(bytes) = self.payloads.get(digest.as_bytes()) {
            return Ok(bytes.clone());
        }
        let hex = digest.to_hex();
        let file = data.join("blobs/sha256").join(hex.get(..2).unwrap_or_default()).join(&hex);
        let bytes = Bytes::from(fs::read(&file).with_context(|| format!("{digest} is nowhere"))?);
        ensure!(Digest::of(&bytes) == digest, "the blob {digest} is damaged");
        Ok(bytes)
    }
}
