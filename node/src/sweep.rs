//! The sweep for lost executions: at its start a node wakes the tenants that have executions without an end, and later
//! those of the shards that it takes up.
//!
//! An entity that is read back declares lost what a life that has ended ran for somebody, and offers what nobody waits for
//! to be run, so that waking it is enough. Only tenants that are owned here are asked: the others are their owners'. The
//! view of executions only says where to look; behind the place where it has stopped, the log does. A tenant that
//! does not answer is asked again, ever more rarely, and keeps no other from its turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;
use wasmwiz_actors::{
    aggregate::Authority,
    bus::CommandBus,
    handle::{Ask, AskError, Origin},
    ids::Ids,
    tenant::Command,
};
use wasmwiz_events::{
    commit::Commit,
    event::Event,
    id::TenantId,
    log::{EventLog, ReadError, ReadLimit},
    revision::Position,
    shard::Shard,
};
use wasmwiz_projections::{Views, views::View};

/// The first pause before those are asked again that did not answer; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: a stream that was repaired is noticed within five minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How often a sweep that waits for the view of executions says so.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(60);

/// Tenants asked at the same time: as many as a region folds at the same time by default.
const ASKED_AT_ONCE: usize = 8;

/// What the sweep needs of its node.
#[derive(Clone)]
pub(crate) struct Sweep {
    /// Says which tenants have open executions.
    pub(crate) views: Views,
    /// Wakes them.
    pub(crate) bus: CommandBus,
    /// Says it where the view has stopped.
    pub(crate) log: Arc<dyn EventLog>,
}

impl Sweep {
    /// Goes on for as long as the node: a shard may be taken up at any time.
    pub(crate) async fn run(self) {
        let mut owing = Owing::of(self.found().await);
        loop {
            tokio::select! {
                biased;
                taken_up = self.bus.region().next_taken_up() => {
                    tracing::info!(shards = taken_up.len(), "lost executions are looked for in shards that were taken up");
                    let mut found = self.found().await;
                    found.retain(|tenant| taken_up.contains(&Shard::of(tenant)));
                    owing.add(found);
                }
                () = self.ask_until_answered(&mut owing), if owing.len() > 0 => {}
            }
        }
    }

    /// Goes on until every tenant that is owned here has answered. May be dropped at any time.
    async fn ask_until_answered(&self, owing: &mut Owing) {
        let mut pause = FIRST_PAUSE;
        loop {
            owing.retain(|tenant| self.bus.region().owns(Shard::of(tenant)));
            let before = owing.len();
            for (tenant, answer) in self.ask_all(owing.tenants()).await {
                if let Some(reason) = owing.answered(&tenant, answer.map_err(|error| error.to_string())) {
                    tracing::warn!(tenant.id = %tenant, reason, "a tenant with open executions does not answer; it is asked again");
                }
            }
            if owing.len() == 0 {
                return;
            }
            pause = if owing.len() < before { FIRST_PAUSE } else { longer(pause) };
            tokio::time::sleep(pause).await;
        }
    }

    /// The tenants that may have open executions. Tries until it knows them.
    async fn found(&self) -> BTreeSet<TenantId> {
        let (mut pause, mut said) = (FIRST_PAUSE, String::new());
        loop {
            let reason = match self.look().await {
                Ok(tenants) => return tenants,
                Err(error) => format!("{error:#}"),
            };
            if reason != said {
                tracing::warn!(reason, "lost executions could not be looked for; trying again");
                said = reason;
            }
            tokio::time::sleep(pause).await;
            pause = longer(pause);
        }
    }

    async fn look(&self) -> anyhow::Result<BTreeSet<TenantId>> {
        let tail = self.log.tail().await?;
        let stopped_at = loop {
            match self.views.wait_for_view(View::Executions, tail, STILL_WAITING_EVERY).await {
                Ok(()) => break None,
                Err(behind) if behind.stopped => break Some(behind.position),
                Err(behind) => tracing::info!(%behind, "lost executions are looked for once the view has caught up"),
            }
        };
        let shown = self.views.executions().open_tenants().await;
        let Some(position) = stopped_at else { return Ok(shown?.into_iter().collect()) };
        // A file that is damaged may not be readable either: then the log is read from its beginning.
        let (shown, after) = shown.map_or_else(|_| (Vec::new(), Position::START), |shown| (shown, position));
        tracing::error!(%position, "the view of executions has stopped; lost executions are looked for in the log instead");
        let mut tenants: BTreeSet<TenantId> = shown.into_iter().collect();
        tenants.extend(accepting(self.log.as_ref(), after, tail).await?);
        Ok(tenants)
    }

    /// Asks each of them once, a few at a time. Whose task fails is not among the answers.
    async fn ask_all(&self, tenants: Vec<TenantId>) -> Vec<(TenantId, Result<(), AskError>)> {
        let (mut asking, mut answers) = (JoinSet::new(), Vec::new());
        for tenant in tenants {
            if asking.len() >= ASKED_AT_ONCE {
                answers.extend(asking.join_next().await.and_then(Result::ok));
            }
            let sweep = self.clone();
            asking.spawn(async move {
                let answer = sweep.ask(&tenant).await;
                (tenant, answer)
            });
        }
        while let Some(answer) = asking.join_next().await {
            answers.extend(answer.ok());
        }
        answers
    }

    async fn ask(&self, tenant: &TenantId) -> Result<(), AskError> {
        let (command, origin) = (Command::Reap, Origin::internal(Ids.command()));
        self.bus.ask(tenant, Ask { command, by: Authority::System, origin, payloads: vec![] }).await.map(drop)
    }
}

/// The tenants that accepted executions in `(after, tail]`, and those of commits that cannot be read.
async fn accepting(log: &dyn EventLog, mut after: Position, tail: Position) -> Result<BTreeSet<TenantId>, ReadError> {
    let mut tenants = BTreeSet::new();
    while after < tail {
        match log.read_all(after, ReadLimit::default()).await {
            Ok(commits) => {
                let Some(last) = commits.last() else { break };
                after = last.position;
                let accepting = commits.iter().filter(|recorded| may_accept(&recorded.commit));
                tenants.extend(accepting.map(|recorded| recorded.commit.tenant().clone()));
            }
            // Whose commit it is cannot be told; a tenant whose stream is damaged could not be woken anyway.
            Err(ReadError::Damaged { position, what }) => {
                tracing::warn!(%position, %what, "the log is damaged; lost executions are looked for behind the place");
                after = after.max(position);
            }
            Err(unavailable @ ReadError::Unavailable(_)) => return Err(unavailable),
        }
    }
    Ok(tenants)
}

fn may_accept(commit: &Commit) -> bool {
    let accepted = |event: &Event| matches!(event, Event::ExecutionAccepted(_));
    commit.events().map_or(true, |events| events.iter().any(|envelope| accepted(&envelope.event)))
}

/// The tenants that have not answered yet, each with what was said of it last.
#[derive(Debug)]
struct Owing(BTreeMap<TenantId, Option<String>>);

impl Owing {
    fn of(tenants: BTreeSet<TenantId>) -> Self {
        Self(tenants.into_iter().map(|tenant| (tenant, None)).collect())
    }

    /// Those that are asked already are not asked twice.
    fn add(&mut self, tenants: BTreeSet<TenantId>) {
        for tenant in tenants {
            self.0.entry(tenant).or_default();
        }
    }

    fn retain(&mut self, is_ours: impl Fn(&TenantId) -> bool) {
        self.0.retain(|tenant, _| is_ours(tenant));
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn tenants(&self) -> Vec<TenantId> {
        self.0.keys().cloned().collect()
    }

    /// Takes an answer. Gives the reason of a failure that is to be said: another one than the last time.
    fn answered(&mut self, tenant: &TenantId, answer: Result<(), String>) -> Option<String> {
        let Err(reason) = answer else {
            self.0.remove(tenant);
            return None;
        };
        let said = self.0.entry(tenant.clone()).or_default();
        (said.as_ref() != Some(&reason)).then(|| said.insert(reason).clone())
    }
}

fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    #[test]
    fn only_tenants_that_failed_are_asked_again_and_each_reason_is_said_once() {
        let mut owing = Owing::of([tenant("tenant-a"), tenant("tenant-b")].into());
        let damaged = || Err("damaged".to_owned());
        assert_eq!(owing.answered(&tenant("tenant-a"), damaged()).as_deref(), Some("damaged"));
        assert_eq!(owing.answered(&tenant("tenant-b"), Ok(())), None);
        assert_eq!(owing.tenants(), [tenant("tenant-a")]);
        assert_eq!(owing.answered(&tenant("tenant-a"), damaged()), None);
        assert_eq!(owing.answered(&tenant("tenant-a"), Err("busy".into())).as_deref(), Some("busy"));
        assert_eq!(owing.answered(&tenant("tenant-a"), Ok(())), None);
        assert_eq!(owing.len(), 0);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<_> = std::iter::successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause))).take(12).collect();
        assert_eq!(pauses.get(1), Some(&Duration::from_secs(2)));
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
    }
}
