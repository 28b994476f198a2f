//! A wall clock that steps: what a tenant is told, what runs, what lists show and what a day allows, whatever the clock did.

mod real;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use wasmwiz_actors::{
    aggregate::Authority,
    handle::{Ask, AskError, Decided, Origin},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
    region::{Region, RegionConfig, RegionDeps},
    tenant::{Command, Execute, ModuleChoice, NewKey, Refusal},
};
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Content, Finished, Outcome, Seed},
    id::{BootId, ExecutionId, KeyId, NodeId, TenantId},
    key::Scopes,
    log::{EventLog, memory::MemoryLog},
    tenant::Tier,
    time::{ManualClock, Timestamp},
};
use wasmwiz_projections::{Config, Views, audit::AuditFilter, executions::ExecutionFilter, page::Page};

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 86_400 * SECOND_MS;

/// How far the clock is set.
const STEPS_MS: [i64; 7] = [-SECOND_MS, SECOND_MS, -600 * SECOND_MS, 600 * SECOND_MS, -DAY_MS, DAY_MS, 30 * DAY_MS];

/// Executions that the tenant may start in a day, at once, and until the bucket is full again.
const PER_DAY: u64 = 13;
const BURST: u64 = 5;
const FILL_MS: u64 = 30_000;

/// When it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    BetweenRuns,
    DuringARun,
    OverMidnight,
    BeforeARestart,
}

const MOMENTS: [When; 4] = [When::BetweenRuns, When::DuringARun, When::OverMidnight, When::BeforeARestart];

struct Node {
    log: Arc<MemoryLog>,
    clock: Arc<ManualClock>,
    region: Region,
    boot: BootId,
}

impl Node {
    async fn start(log: Arc<MemoryLog>, clock: Arc<ManualClock>) -> anyhow::Result<Self> {
        let (boot, mut policy) = (Ids.boot(), Policy::default());
        policy.free.executions_per_day = PER_DAY;
        let deps = RegionDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            clock: Arc::clone(&clock) as _,
            policy,
            ownership: Arc::new(Alone { node: NodeId::new("node-1")?, boot }),
            snapshots: None,
        };
        Ok(Self { log, clock, region: Region::start(RegionConfig::default(), deps).await?, boot })
    }

    async fn restart(self) -> anyhow::Result<Self> {
        self.region.shutdown(Duration::from_secs(10)).await;
        Self::start(self.log, self.clock).await
    }

    async fn ask(&self, by: Authority, command: Command) -> Result<Decided, AskError> {
        let ask = Ask { command, by, origin: Origin::internal(Ids.command()), payloads: vec![] };
        self.region.ask(&acme(), ask).await
    }

    async fn set_up(&self) -> anyhow::Result<()> {
        let first_key = NewKey {
            key_id: KeyId::new("key1")?,
            name: "first".into(),
            scopes: Scopes::TENANT,
            hash: Digest::of(b"secret"),
            expires_at: None,
        };
        let register = Command::Register { name: "Acme".into(), tier: Tier::Free, first_key: Some(first_key) };
        self.ask(Authority::System, register).await?;
        Ok(())
    }

    async fn begin(&self) -> anyhow::Result<Result<ExecutionId, Refusal>> {
        let execution_id = Ids.execution();
        let execute = Execute {
            execution_id,
            module: ModuleChoice::Inline { digest: Digest::of(b"wasm"), size_bytes: 4 },
            stdin: Content::of(b""),
            args: vec![],
            timeout_ms: None,
            seed: Seed::new([0; 16]),
            engine: "test".into(),
            node: NodeId::new("node-1")?,
            boot: self.boot,
            asynchronous: false,
            deadline: None,
        };
        match self.ask(Authority::Key(KeyId::new("key1")?), Command::Execute(Box::new(execute))).await {
            Ok(_) => Ok(Ok(execution_id)),
            Err(AskError::Refused(refusal)) => Ok(Err(refusal)),
            Err(error) => Err(error.into()),
        }
    }

    async fn end(&self, id: ExecutionId) -> Result<Decided, AskError> {
        let finished = Finished::without_run(id, 1, Outcome::Succeeded, String::new());
        self.ask(Authority::System, Command::Finish(Box::new(finished))).await
    }

    /// Runs until it is refused: how many ran, and the refusal. No bucket makes anybody wait longer than it takes to fill.
    async fn run_until_refused(&self) -> anyhow::Result<(u64, Refusal)> {
        for count in 0..=PER_DAY {
            match self.begin().await? {
                Ok(id) => drop(self.end(id).await?),
                Err(refusal) => {
                    match &refusal {
                        Refusal::RateLimited { retry_after_ms, .. } => {
                            ensure!(*retry_after_ms <= FILL_MS, "told to wait {retry_after_ms} ms");
                        }
                        Refusal::DailyQuotaUsed { retry_after_ms, .. } => {
                            ensure!(*retry_after_ms <= DAY_MS.unsigned_abs(), "told to wait {retry_after_ms} ms");
                        }
                        other => bail!("refused: {other:?}"),
                    }
                    return Ok((count, refusal));
                }
            }
        }
        bail!("more ran at once than a day allows")
    }

    /// The events of the stream, with their recorded times, the first first.
    fn history(&self) -> anyhow::Result<Vec<(Timestamp, Event)>> {
        let mut events = Vec::new();
        for recorded in self.log.commits() {
            events.extend(recorded.commit.events()?.iter().map(|envelope| (envelope.time, envelope.event.clone())));
        }
        Ok(events)
    }
}

fn acme() -> TenantId {
    #[expect(clippy::expect_used, reason = "a literal that is a valid id")]
    TenantId::new("acme").expect("a valid id")
}

/// The clock is set on, or back, in one moment, and right again some time later.
async fn cell(step_ms: i64, when: When) -> anyhow::Result<()> {
    let noon = Timestamp::from_unix_ms(1_795_435_200_000);
    let begin = if when == When::OverMidnight { noon.plus_ms(43_200_000 - 500) } else { noon };
    let clock = Arc::new(ManualClock::at(begin));
    let mut node = Node::start(Arc::new(MemoryLog::new()), Arc::clone(&clock)).await?;
    node.set_up().await?;
    for _ in 0..2 {
        let id = node.begin().await??;
        node.end(id).await?;
    }
    let open = if when == When::DuringARun { Some(node.begin().await??) } else { None };

    clock.step_wall_ms(step_ms);
    if when == When::BeforeARestart {
        node = node.restart().await?;
    }
    let (ran, _) = node.run_until_refused().await?;
    ensure!(ran <= BURST, "a burst of {ran}");
    clock.advance_ms(6_000);
    let (ran, _) = node.run_until_refused().await?;
    ensure!(ran <= 1, "{ran} ran after six seconds that give one");
    if let Some(open) = open {
        // Everything that looks for lost executions looks now; the one that runs still ends by itself.
        node.region.look();
        node.end(open).await.context("the guest that ran was taken for lost")?;
    }

    clock.step_wall_ms(-step_ms);
    let mut days = 0;
    for _ in 0..20 {
        clock.advance_ms(FILL_MS);
        let (ran, refusal) = node.run_until_refused().await?;
        ensure!(ran <= BURST, "a burst of {ran}");
        if matches!(refusal, Refusal::DailyQuotaUsed { .. }) {
            days += 1;
            break;
        }
    }
    ensure!(days == 1, "the day's quota is never used up");
    let history = node.history()?;
    let accepted = history.iter().filter(|(_, event)| matches!(event, Event::ExecutionAccepted(_))).count() as u64;
    let own_days = if when == When::OverMidnight { 2 } else { 1 };
    ensure!(PER_DAY <= accepted && accepted <= (own_days + 1) * PER_DAY, "{accepted} ran");
    ensure!(!history.iter().any(|(_, event)| matches!(event, Event::ExecutionLost(_))), "an execution was lost");

    let folder = tempfile::tempdir()?;
    let views = views_of(&node, folder.path()).await?;
    lists_are_whole(&views, &history, begin, step_ms).await?;
    audit_is_in_order(&views, history.len()).await?;
    views.shutdown().await;
    node.region.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

async fn views_of(node: &Node, folder: &Path) -> anyhow::Result<Views> {
    let log = Arc::clone(&node.log) as Arc<dyn EventLog>;
    let tail = log.tail().await?;
    let views = Views::open(folder, Config::default(), log).await?;
    views.wait_for(tail, Duration::from_secs(30)).await?;
    Ok(views)
}

/// Every list of a stretch of time shows what was recorded in it, the last accepted first, each once.
async fn lists_are_whole(
    views: &Views,
    history: &[(Timestamp, Event)],
    begin: Timestamp,
    step_ms: i64,
) -> anyhow::Result<()> {
    let stepped = Timestamp::from_unix_ms(begin.unix_ms() + step_ms);
    for (from, to) in [
        (None, None),
        (Some(begin), None),
        (None, Some(begin.plus_ms(1))),
        (Some(stepped), None),
        (None, Some(stepped)),
        (Some(begin.min(stepped)), Some(begin.max(stepped).plus_ms(1))),
    ] {
        let mut expected = Vec::new();
        for (at, event) in history.iter().rev() {
            if let Event::ExecutionAccepted(accepted) = event
                && from.is_none_or(|from| from <= *at)
                && to.is_none_or(|to| *at < to)
            {
                expected.push(accepted.execution_id);
            }
        }
        let filter = ExecutionFilter { from, to, ..ExecutionFilter::default() };
        let (mut shown, mut page) = (Vec::new(), Page::first(3));
        loop {
            let listed = views.executions().list(&acme(), filter.clone(), page).await?;
            shown.extend(listed.items.iter().map(|execution| execution.id));
            let Some(next) = listed.next else { break };
            page = Page::following(3, next);
        }
        ensure!(shown == expected, "{filter:?} shows {shown:?} instead of {expected:?}");
    }
    Ok(())
}

async fn audit_is_in_order(views: &Views, events: usize) -> anyhow::Result<()> {
    let (mut revisions, mut page) = (Vec::new(), Page::first(7));
    loop {
        let found = views.audit().find(&acme(), AuditFilter::default(), page).await?;
        revisions.extend(found.items.iter().map(|event| event.revision.get()));
        let Some(next) = found.next else { break };
        page = Page::following(7, next);
    }
    let expected: Vec<u64> = (1..=events as u64).rev().collect();
    ensure!(revisions == expected, "the audit shows {revisions:?}");
    Ok(())
}

#[tokio::test]
async fn whatever_the_wall_clock_does_limits_runs_and_lists_hold() -> anyhow::Result<()> {
    for when in MOMENTS {
        for step_ms in STEPS_MS {
            Box::pin(cell(step_ms, when)).await.with_context(|| format!("a step of {step_ms} ms, {when:?}"))?;
        }
    }
    Ok(())
}
