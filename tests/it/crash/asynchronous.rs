//! A node that is killed while asynchronous executions wait and run: each that was accepted ends once, as it should.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;
use wasmwiz_events::{digest::Digest, execution::Outcome, id::ExecutionId, payload::MAX_INLINE_BYTES};
use wasmwiz_tests::{
    chance::{Chance, setting},
    cli,
    client::{Client, send},
    guests,
    harness::NodeProcess,
    history::{End, History},
    wait,
};

const CLIENTS: u64 = 8;

/// How often the node is killed, if the variable does not say otherwise.
const CYCLES: (&str, u64) = ("WASMWIZ_TESTS_ASYNC_CYCLES", 10);

/// How long the executions of all cycles may take to end: some are tried again.
const ALL_ENDED_WITHIN: Duration = Duration::from_secs(60);

type Accepted = BTreeMap<ExecutionId, Digest>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_runs_after_the_node_was_killed_and_ends_once() -> anyhow::Result<()> {
    let mut chance = Chance::printed()?;
    let cycles = setting(CYCLES.0, CYCLES.1)?;
    let mut node = NodeProcess::dev().await?;
    node.client()?.put_module("spin", guests::SPIN.wasm()?).await?.is(201)?;
    let mut accepted = Accepted::new();
    for cycle in 1..=cycles {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(work(node.client().ok(), Chance::new(chance.next()), Arc::clone(&stop))))
            .collect();
        sleep(Duration::from_millis(chance.within(50..400))).await;
        node.kill9().await?;
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            accepted.extend(client.await?.with_context(|| format!("cycle {cycle}"))?);
        }
        node.restart().await?;
    }
    let data = node.data();
    let history = wait::until("an end of every execution", ALL_ENDED_WITHIN, async || {
        let history = History::read(&data)?;
        Ok((history.open() == 0).then_some(history))
    })
    .await?;
    history.each_ended_once()?;
    for (id, input) in &accepted {
        let ends = history.executions.get(id).map(|recorded| recorded.ends.as_slice()).unwrap_or_default();
        let [End::Finished(finished)] = ends else { anyhow::bail!("{id} was accepted, and the log says {ends:?}") };
        ensure!(finished.outcome == Outcome::Succeeded && finished.stdout.digest == *input, "{id}: {finished:?}");
    }
    let mut attempts = BTreeSet::new();
    for (id, recorded) in &history.executions {
        let numbers: Vec<u32> = recorded.started.iter().map(|started| started.attempt).collect();
        ensure!(numbers.iter().copied().eq(1..=numbers.len() as u32), "the attempts of {id} are {numbers:?}");
        attempts.extend(numbers);
    }
    ensure!(node.terminate().await?.success(), "the node did not end well");
    let verified = cli::verify(&data).await?;
    ensure!(verified.code == Some(0), "the history is not intact: {} {}", verified.stdout, verified.stderr);
    let all = history.executions.len();
    eprintln!("{cycles} kills: {} answered of {all} accepted; attempts up to {:?}", accepted.len(), attempts.last());
    // Without these the test would have shown nothing.
    ensure!(accepted.len() as u64 > 5 * cycles, "too few were accepted");
    ensure!(attempts.contains(&2), "no kill interrupted a run");
    Ok(())
}

/// Asks until the node is gone, and gives what was accepted with the digest of the output it must have.
async fn work(client: Option<Client>, mut chance: Chance, stop: Arc<AtomicBool>) -> anyhow::Result<Accepted> {
    let client = client.context("no client")?;
    let mut accepted = Accepted::new();
    while !stop.load(Ordering::Relaxed) {
        // One in three computes for a while and writes nothing, so that kills find something under way.
        let (module, input, output) = if chance.within(0..3) == 0 {
            // Those that sleep run beside each other: longer ones would meet three kills.
            let ms = chance.within(1..20).to_string();
            ("spin", Bytes::from(ms), Bytes::new())
        } else {
            let most = MAX_INLINE_BYTES as u64;
            let size =
                if chance.within(0..8) == 0 { chance.within(most + 1..2 * most) } else { chance.within(1..2_048) };
            let bytes = Bytes::from(chance.bytes(usize::try_from(size)?));
            ("echo", bytes.clone(), bytes)
        };
        let path = format!("/v1/modules/{module}/executions");
        let request = client.request(Method::POST, &path).header("prefer", "respond-async").body(input);
        let Ok(answer) = send(request).await else { break };
        match answer.status.as_u16() {
            202 => {
                let id = answer.json::<Value>()?["id"].as_str().context("no id")?.parse()?;
                ensure!(accepted.insert(id, Digest::of(&output)).is_none(), "{id} was given twice");
            }
            429 | 503 => sleep(Duration::from_millis(20)).await,
            _ => anyhow::bail!("{answer:?}"),
        }
    }
    Ok(accepted)
}
