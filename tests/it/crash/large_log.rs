//! A long history does not make a start long.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use tokio::{task::JoinSet, time::Instant};
use wasmwiz_events::{
    commit::Commit,
    envelope::{Actor, Cause, Envelope},
    event::Event,
    execution::{Accepted, Content, Finished, Output},
    id::{CommandId, CommitId, EventId, ExecutionId, TenantId},
    ledger::Head,
    log::{Append, EventLog, sqlite::SqliteLog},
    payload::Payload,
    revision::Revision,
    time::Timestamp,
};
use wasmwiz_tests::{
    chance::{Chance, setting},
    harness::{Launch, NodeProcess},
    history::{End, History},
    wait,
};

/// Events in the log before the starts that are measured, if the variable does not say otherwise.
const EVENTS: (&str, u64) = ("WASMWIZ_TESTS_LOG_EVENTS", 100_000);

/// Executions accepted by one commit and ended by the next: what a busy tenant's entity gathers.
const TOGETHER: u64 = 8;

/// Commits on their way to the log at a time: each waits for the one before it only in its stream, not for its sync.
const UNDER_WAY: usize = 64;

/// What a start may take. A build without optimisation decodes events some times slower, and it is the design that is
/// measured and not the build.
const START: Duration = if cfg!(debug_assertions) { Duration::from_secs(3) } else { Duration::from_secs(1) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_large_log_serves_again_at_once() -> anyhow::Result<()> {
    let events = setting(EVENTS.0, EVENTS.1)?;
    let mut node = NodeProcess::dev().await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let begun = Instant::now();
    fill(&node.data(), events).await?;
    eprintln!("{events} events written in {:?}", begun.elapsed());
    // The first one folds all of it into the views; in a build without optimisation that is some thousand events a second.
    let folding = start(&mut node, wait::SOON + Duration::from_millis(events)).await?;
    eprintln!("first start, which folds them into the views: ready after {folding:?}");
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let after_a_stop = start(&mut node, wait::SOON).await?;
    node.kill9().await?;
    let after_a_kill = start(&mut node, wait::SOON).await?;
    eprintln!("ready {after_a_stop:?} after a stop, {after_a_kill:?} after a kill; at most {START:?}");
    ensure!(after_a_stop < START, "ready only {after_a_stop:?} after a stop");
    ensure!(after_a_kill < START, "ready only {after_a_kill:?} after a kill");
    let history = History::read(&node.data())?;
    ensure!(history.events > events, "the log has only {} events", history.events);
    let listed = node.client()?.get_json("/v1/executions?limit=1").await?;
    ensure!(listed["items"].as_array().is_some_and(|items| items.len() == 1), "no execution is listed: {listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_past_of_which_nothing_is_kept_keeps_no_node_from_its_start() -> anyhow::Result<()> {
    let events = setting(EVENTS.0, EVENTS.1)?;
    let mut node = Launch::dev()?.variable("WASMWIZ_TELEMETRY__FILTER", "info").start().await?;
    ensure!(node.terminate().await?.success(), "the node did not end well");
    fill(&node.data(), events).await?;
    forget_what_was_kept(&node.data())?;
    // While it waits, it can be told to stop.
    node.begin_again().await?;
    wait::until("the node to serve", wait::SOON, async || {
        Ok((node.stderr().matches("the node serves").count() == 2).then_some(()))
    })
    .await?;
    let told = Instant::now();
    ensure!(node.terminate().await?.success(), "the node did not stop while it started");
    eprintln!("stopped after {:?} while it started", told.elapsed());
    forget_what_was_kept(&node.data())?;
    let took = start(&mut node, wait::SOON + Duration::from_millis(events)).await?;
    eprintln!("{events} events of which nothing was kept, and callers wait for 10 s: ready after {took:?}");
    let listed = node.client()?.get_json("/v1/executions?limit=1").await?;
    ensure!(listed["items"].as_array().is_some_and(|items| items.len() == 1), "no execution is listed: {listed}");
    Ok(())
}

fn forget_what_was_kept(data: &Path) -> anyhow::Result<()> {
    for folder in ["snapshots", "views"] {
        let removed = std::fs::remove_dir_all(data.join(folder));
        ensure!(removed.is_ok() || !data.join(folder).exists(), "{folder}/ cannot be removed: {removed:?}");
    }
    Ok(())
}

/// Starts the node and waits until it is ready: from the start of its process.
async fn start(node: &mut NodeProcess, within: Duration) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    node.begin_again().await?;
    node.ready_within(within).await?;
    let client = node.client()?;
    wait::until("readiness", within, async || Ok((client.get("/readyz").await?.status == 200).then_some(()))).await?;
    Ok(begun.elapsed())
}

/// Appends executions of the `dev` tenant, as that tenant's entity would have.
async fn fill(data: &Path, events: u64) -> anyhow::Result<()> {
    let log = Arc::new(SqliteLog::open(&data.join("log"), Default::default())?);
    let mut writer = Writer::after(data, log.as_ref()).await?;
    let mut under_way = JoinSet::new();
    for _ in 0..events / (2 * TOGETHER) {
        for append in writer.executions()? {
            if under_way.len() >= UNDER_WAY
                && let Some(appended) = under_way.join_next().await
            {
                appended??;
            }
            let log = Arc::clone(&log);
            // Queued in the order of the stream: a task is first polled when it is spawned onto this one's own set.
            let mut appending = Box::pin(async move { log.append(append).await });
            let first = std::future::poll_fn(|context| std::task::Poll::Ready(appending.as_mut().poll(context))).await;
            match first {
                std::task::Poll::Ready(appended) => drop(appended?),
                std::task::Poll::Pending => drop(under_way.spawn(appending)),
            }
        }
    }
    while let Some(appended) = under_way.join_next().await {
        appended??;
    }
    tokio::task::spawn_blocking(move || log.close()).await?;
    Ok(())
}

/// Continues the stream of the `dev` tenant.
struct Writer {
    tenant: TenantId,
    head: Head,
    time: Timestamp,
    chance: Chance,
    /// An execution that the node has recorded itself: those here are like it.
    like: (Accepted, Finished),
}

impl Writer {
    async fn after(data: &Path, log: &SqliteLog) -> anyhow::Result<Self> {
        let tenant = TenantId::new("dev")?;
        let history = History::read(data)?;
        let recorded = history.executions.into_values().next().context("dev runs an example when it starts")?;
        let accepted = recorded.accepted.into_iter().next().context("it was accepted")?;
        let finished = recorded.ends.into_iter().find_map(|end| match end {
            End::Finished(finished) => Some(*finished),
            End::Lost(_) => None,
        });
        let like = (accepted, finished.context("it finished")?);
        let (head, time) = (log.head(&tenant).await?, like.0.start_time);
        Ok(Self { tenant, head, time, chance: Chance::new(1), like })
    }

    /// A commit that accepts some executions, and one that ends them.
    fn executions(&mut self) -> anyhow::Result<[Append; 2]> {
        let ids: Vec<_> = (0..TOGETHER).map(|_| ExecutionId::new(self.uuid())).collect();
        let (mut accepted, mut finished) = (Vec::new(), Vec::new());
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for id in ids {
            let (input, output) =
                (Payload::new(self.chance.bytes(32).into()), Payload::new(self.chance.bytes(48).into()));
            accepted.push(Event::ExecutionAccepted(Box::new(self.accepted(id, &input))));
            finished.push(Event::ExecutionFinished(Box::new(self.finished(id, &output))));
            inputs.push(input);
            outputs.push(output);
        }
        Ok([self.append(accepted, inputs)?, self.append(finished, outputs)?])
    }

    fn accepted(&self, id: ExecutionId, input: &Payload) -> Accepted {
        let stdin = Content { digest: input.digest(), size_bytes: input.bytes().len() as u64 };
        Accepted { execution_id: id, stdin, start_time: self.time, ..self.like.0.clone() }
    }

    fn finished(&self, id: ExecutionId, output: &Payload) -> Finished {
        let stdout = Output { digest: output.digest(), size_bytes: output.bytes().len() as u64, truncated: false };
        Finished { execution_id: id, stdout, ..self.like.1.clone() }
    }

    fn append(&mut self, events: Vec<Event>, payloads: Vec<Payload>) -> anyhow::Result<Append> {
        self.time = self.time.plus_ms(1);
        let mut envelopes = Vec::new();
        for (event, revision) in events.into_iter().zip(self.head.revision.next().get()..) {
            let (id, command) = (EventId::new(self.uuid()), CommandId::new(self.uuid()));
            let cause =
                Cause { command, correlation: None, actor: Actor::system(), traceparent: None, idempotency: None };
            let (tenant, revision) = (self.tenant.clone(), Revision::new(revision));
            envelopes.push(Envelope { id, tenant, revision, time: self.time, cause, event });
        }
        let id = CommitId::new(self.uuid());
        let commit = Commit::seal(&self.head, self.tenant.clone(), id, self.head.epoch, self.time, envelopes)?;
        self.head = commit.head();
        Ok(Append { commit, payloads })
    }

    /// A UUIDv7 of the writer's own time.
    fn uuid(&mut self) -> uuid::Uuid {
        let mut random = [0; 10];
        random.copy_from_slice(&self.chance.bytes(10));
        uuid::Builder::from_unix_timestamp_millis(self.time.unix_ms().unsigned_abs(), &random).into_uuid()
    }
}
