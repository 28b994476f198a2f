//! A cluster as it is deployed, three nodes over three servers: what its callers and subscribers see while parts of it
//! die, stand still, are cut off or are replaced.

mod any_node;
mod failover;
mod gone;
mod limits;
mod partitions;
mod rolling;
mod status;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use wasmwiz_tests::{
    fleet::{Call, Callers, Fleet, Said, Size, said_what_is_recorded},
    history::History,
    nats::delivered,
    subscriber::{Language, Subscriber},
    wait,
};

/// Three nodes over three servers.
const THREE: Size = Size { nodes: 3, servers: 3, tenants: 12 };

/// How long the feed, and reading it here, may take for each event, beside what all may take.
const PER_EVENT: Duration = Duration::from_millis(5);

/// A fleet with a caller of every tenant, and one subscriber of each example.
struct Scene {
    fleet: Fleet,
    callers: Callers,
    subscribers: [Subscriber; 2],
    _folder: TempDir,
}

/// The first difference between what is recorded and what the feed has.
fn differing(recorded: &BTreeMap<String, Vec<String>>, fed: &BTreeMap<String, Vec<String>>) -> Option<String> {
    let none = Vec::new();
    recorded.iter().find_map(|(tenant, ids)| {
        let has = fed.get(tenant).unwrap_or(&none);
        let at = (0..ids.len().max(has.len())).find(|at| ids.get(*at) != has.get(*at))?;
        let (wanted, found) = (ids.get(at), has.get(at));
        let (recorded, fed) = (ids.len(), has.len());
        Some(format!("{tenant}: {fed} of {recorded} events, and at {at} {found:?} in place of {wanted:?}"))
    })
}

/// What is known in the end.
struct Told {
    calls: Vec<Call>,
    history: History,
}

impl Scene {
    /// Everybody is at work.
    async fn begun(fleet: Fleet) -> anyhow::Result<Self> {
        let (folder, url) = (tempfile::tempdir()?, fleet.nats.url());
        let subscribers = [
            Subscriber::start(Language::Python, &url, folder.path())?,
            Subscriber::start(Language::Rust, &url, folder.path())?,
        ];
        let callers = Callers::begin(&fleet.nodes, &fleet.tenants, 1);
        callers.each_answered(2).await.context("before anything happened")?;
        Ok(Self { fleet, callers, subscribers, _folder: folder })
    }

    /// Lets everybody finish. Every request was answered; what was answered is what is recorded, in one sound history for
    /// each tenant; every accepted execution ended once; the feed and its subscribers have every event, in order.
    async fn ended(self) -> anyhow::Result<Told> {
        let calls = self.callers.end().await?;
        let history = self.fleet.settled().await?;
        said_what_is_recorded(&calls, &history)?;
        let unanswered = calls.iter().find(|call| matches!(call.said, Said::Nothing(_)));
        ensure!(unanswered.is_none(), "a request was not answered: {unanswered:?}");
        // Servers that have just come back may not answer yet.
        wait::until("the servers of the feed", wait::SOON, async || {
            Ok(self.fleet.nats.messages().await.ok().map(drop))
        })
        .await?;
        let events = history.ids.values().map(Vec::len).sum::<usize>();
        let (within, mut difference) = (wait::SOON + PER_EVENT * u32::try_from(events)?, String::new());
        let fed = wait::until("every event in the feed", within, async || {
            let delivered = delivered(&self.fleet.nats.messages().await?);
            difference = differing(&history.ids, &delivered).unwrap_or_default();
            Ok((delivered == history.ids).then_some(()))
        });
        fed.await.with_context(|| difference)?;
        for subscriber in &self.subscribers {
            subscriber.until_equal(&history.ids).await?;
        }
        Ok(Told { calls, history })
    }
}
