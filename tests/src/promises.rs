//! What must hold of a history, whatever was done to the node that wrote it: held against what clients were told.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use wasmwiz_events::{digest::Digest, execution::Outcome, id::ExecutionId};

use crate::{
    client::Client,
    history::{End, History, Recorded},
    load::Answered,
};

/// Executions of one page of the list.
const PAGE: usize = 200;

/// A promise that was not kept, and of which execution.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An accepted execution has exactly one terminal event.
    #[error("{id} was accepted {accepted} times and ended {ended} times")]
    NotOnce {
        /// Which.
        id: ExecutionId,
        /// Acceptances in the log.
        accepted: usize,
        /// Terminal events in the log.
        ended: usize,
    },
    /// What was answered is in the log.
    #[error("{id} was answered, and the log does not have its end")]
    Unrecorded {
        /// Which.
        id: ExecutionId,
    },
    /// With the outcome that was answered.
    #[error("{id} was answered as {}, and the log says {}", answered.as_str(), recorded.as_str())]
    OtherOutcome {
        /// Which.
        id: ExecutionId,
        /// What the client got.
        answered: Outcome,
        /// What the log has.
        recorded: Outcome,
    },
    /// With the output that was answered.
    #[error("{id} was answered with the output {answered}, and the log has {recorded}")]
    OtherOutput {
        /// Which.
        id: ExecutionId,
        /// Of what the client got.
        answered: Digest,
        /// What the log has.
        recorded: Digest,
    },
    /// The bytes of it can be read.
    #[error("the output of {id} cannot be read: {why}")]
    Unreadable {
        /// Which.
        id: ExecutionId,
        /// What came of it.
        why: String,
    },
    /// A view equals the fold of the log.
    #[error("the list shows {id} as {shown:?}, and the log has {recorded:?}")]
    OtherView {
        /// Which.
        id: ExecutionId,
        /// Its outcome there; nothing when it is not listed.
        shown: Option<String>,
        /// Its outcome in the log; nothing when it is not there.
        recorded: Option<&'static str>,
    },
    /// `wasmwiz audit verify` finds nothing.
    #[error("the history is not intact: {said}")]
    NotIntact {
        /// What it found.
        said: String,
    },
}

/// Every promise about executions that this history does not keep towards those who were answered. `data` is the folder
/// with the blobs.
pub fn broken(history: &History, data: &Path, answered: &BTreeMap<ExecutionId, Answered>) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (id, execution) in &history.executions {
        let (accepted, ended) = (execution.accepted.len(), execution.ends.len());
        if (accepted, ended) != (1, 1) {
            broken.push(Broken::NotOnce { id: *id, accepted, ended });
        }
    }
    broken.extend(answered.values().filter_map(|answer| kept(history, data, answer).err()));
    broken
}

/// What one client was told is what the log has.
fn kept(history: &History, data: &Path, answer: &Answered) -> Result<(), Broken> {
    let (id, answered) = (answer.id, answer.outcome);
    let end = history.executions.get(&id).and_then(|recorded| recorded.ends.first());
    let end = end.ok_or(Broken::Unrecorded { id })?;
    if end.outcome() != answered {
        return Err(Broken::OtherOutcome { id, answered, recorded: end.outcome() });
    }
    let End::Finished(finished) = end else { return Ok(()) };
    if answered != Outcome::Succeeded {
        return Ok(());
    }
    let recorded = finished.stdout.digest;
    if recorded != answer.input {
        return Err(Broken::OtherOutput { id, answered: answer.input, recorded });
    }
    let read = history.content(data, recorded);
    read.map(drop).map_err(|error| Broken::Unreadable { id, why: format!("{error:#}") })
}

/// Every execution of which the list shows another outcome than the log has.
pub fn other_in_view(history: &History, listed: &BTreeMap<ExecutionId, Option<String>>) -> Vec<Broken> {
    let outcome = |recorded: &Recorded| recorded.ends.first().map(|end| end.outcome().as_str());
    let ids = history.executions.keys().chain(listed.keys().filter(|id| !history.executions.contains_key(id)));
    let compared = ids.filter_map(|id| {
        let recorded = history.executions.get(id).and_then(outcome);
        let shown = listed.get(id).cloned().flatten();
        let same = shown.as_deref() == recorded && listed.contains_key(id) && history.executions.contains_key(id);
        (!same).then_some(Broken::OtherView { id: *id, shown, recorded })
    });
    compared.collect()
}

/// All executions of a client's tenant as the list shows them, with their outcomes.
///
/// # Errors
/// When a page is not of the shape that the contract says.
pub async fn listed(client: &Client) -> anyhow::Result<BTreeMap<ExecutionId, Option<String>>> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = client.get_json(&format!("/v1/executions?limit={PAGE}{cursor}")).await?;
        let items = page.get("items").and_then(|items| items.as_array()).context("a page has no items")?;
        for item in items {
            let text = |name: &str| item.get(name).and_then(|value| value.as_str());
            let id = text("id").context("an execution has no id")?.parse()?;
            all.insert(id, text("outcome").map(str::to_owned));
        }
        match page.get("next_cursor").and_then(|next| next.as_str()) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests;
