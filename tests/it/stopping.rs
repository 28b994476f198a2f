//! A node that is told to stop: within its time whatever is under way, and every accepted execution has its end.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use rustix::process::Signal;
use tokio::{task::JoinHandle, time::Instant};
use wasmwiz_events::execution::Outcome;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    harness::{Launch, NodeProcess},
    history::History,
    tenants::register,
    wait,
};

/// The time that these nodes have for their stop, in milliseconds.
const WITHIN_MS: u64 = 12_000;

/// How much later than that the end of a process may be seen on a machine that is busy: far less than the guests run.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// A pipe holds 64 KiB; the next line finds no room in what is left then.
const NEARLY_FULL_BYTES: u64 = 60 << 10;

fn settings(more: &str) -> String {
    format!(
        "node.data_dir = \"{{data}}\"\nlisten.api = \"127.0.0.1:0\"\nlisten.admin = \"127.0.0.1:0\"\n\
         shutdown.within_ms = {WITHIN_MS}\nshutdown.announce_ms = 500\nshutdown.executions_ms = 1500\n{more}\n"
    )
}

/// A node on which a guest runs that its tier lets run for 300 seconds.
struct Busy {
    node: NodeProcess,
    caller: JoinHandle<anyhow::Result<Answer>>,
    client: Client,
}

async fn busy(launch: Launch) -> anyhow::Result<Busy> {
    let node = launch.start().await?;
    let client = register(&node.operator()?, "Busy", "enterprise").await?.client;
    for guest in [guests::ENDLESS_LOOP, guests::ENDLESS_SLEEP, guests::ECHO] {
        client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
    }
    let (data, caller) = (node.data(), client.clone());
    let caller = tokio::spawn(async move { caller.post_bytes("/v1/modules/endless-loop/executions", "").await });
    wait::until("a guest that runs", wait::SOON, async || Ok((History::read(&data)?.open() == 1).then_some(())))
        .await?;
    Ok(Busy { node, caller, client })
}

/// Every execution that was accepted has one end, and the one that was cut off is the host's fault.
fn each_has_its_end(node: &NodeProcess) -> anyhow::Result<()> {
    let history = History::read(&node.data())?;
    history.each_ended_once()?;
    ensure!(history.ended(Outcome::Failed) == 1, "the guest that was cut off has another end: {history:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_runs_for_minutes_is_cut_off_in_time_and_its_end_is_recorded_and_answered() -> anyhow::Result<()> {
    let Busy { mut node, caller, client } = busy(Launch::node(&settings(""))?).await?;
    let admin = node.admin()?;
    ensure!(admin.get("/readyz").await?.status == StatusCode::OK, "the node is not ready");
    let told = Instant::now();
    node.signal(Signal::TERM)?;
    let api = Client::new(&node.ready().url, None)?;
    let (mut unready, mut measured, mut api_closed) = (0, 0, false);
    // Until its end, also while nothing more is accepted: this one says that the node is not ready, and how it is.
    while node.exit_status()?.is_none() && told.elapsed() < SEEN_WITHIN {
        api_closed |= api.get("/livez").await.is_err();
        let Ok(answer) = admin.get("/readyz").await else { break };
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            ensure!(answer.text().contains("draining"), "{}", answer.text());
            unready += usize::from(api_closed);
        }
        measured += usize::from(admin.get("/metrics").await.is_ok_and(|answer| answer.text().contains("wasmwiz_")));
    }
    ensure!(node.ended().await?.code() == Some(0), "the node ended with another status");
    ensure!(told.elapsed() < Duration::from_millis(WITHIN_MS) + SEEN_WITHIN, "it took {:?}", told.elapsed());
    ensure!(api_closed && unready > 0 && measured > 0, "{unready} times unready, {measured} times measured");
    let answer = caller.await??.is(200)?;
    ensure!(answer["outcome"] == "failed", "{answer}");
    ensure!(answer["message"].as_str().is_some_and(|message| message.contains("the node stopped")), "{answer}");
    each_has_its_end(&node)?;
    drop(client);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_execution_that_is_cut_off_begins_again() -> anyhow::Result<()> {
    let Busy { mut node, caller, client } = busy(Launch::node(&settings(""))?).await?;
    let path = "/v1/modules/endless-sleep/executions";
    let request = client.request(reqwest::Method::POST, path).header("prefer", "respond-async");
    let accepted = client.send(request).await?;
    let path = accepted.header("location").context("no Location")?.to_owned();
    wait::until("an attempt", wait::SOON, async || {
        Ok((client.get(&path).await?.is(200)?["status"] == "running").then_some(()))
    })
    .await?;
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    caller.await??.is(200)?;
    node.restart().await?;
    let client = client.at(&node.ready().url);
    wait::until("another attempt", wait::SOON, async || {
        let history = History::read(&node.data())?;
        Ok(history.executions.values().any(|execution| execution.started.len() == 2).then_some(()))
    })
    .await?;
    client.delete(&path).await?;
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    each_has_its_end(&node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_and_the_next_start_tells_what_was_lost() -> anyhow::Result<()> {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let long = settings("").replace(&WITHIN_MS.to_string(), "600000");
        let Busy { mut node, caller, client } = busy(Launch::node(&long)?).await?;
        let admin = node.admin()?;
        node.signal(Signal::INT)?;
        wait::until("the announcement", wait::SOON, async || {
            Ok((admin.get("/readyz").await?.status == StatusCode::SERVICE_UNAVAILABLE).then_some(()))
        })
        .await?;
        ensure!(node.exit_status()?.is_none(), "it ended by the first signal alone");
        node.signal(signal)?;
        ensure!(node.ended().await?.code() == Some(code), "the node ended with another status");
        ensure!(caller.await?.is_err(), "the caller has an answer");
        node.restart().await?;
        let data = node.data();
        let lost = async || Ok((History::read(&data)?.ended(Outcome::Lost) == 1).then_some(()));
        wait::until("the end of what was lost", wait::SOON, lost).await?;
        drop(client);
        node.terminate().await?;
        History::read(&data)?.each_ended_once()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_pipe_as_standard_error_it_serves_and_stops() -> anyhow::Result<()> {
    let launch = Launch::node(&settings("telemetry.filter = \"trace\""))?.with_unread_stderr()?;
    let Busy { mut node, caller, client } = busy(launch).await?;
    let full = async || {
        client.execute("echo", "whoever logs waits for nobody").await?;
        Ok((node.unread_bytes()? > NEARLY_FULL_BYTES).then_some(()))
    };
    wait::until("a pipe that is full", wait::SOON, full).await?;
    for _ in 0..50 {
        client.execute("echo", "and all of this is logged, too").await?;
    }
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    caller.await??.is(200)?;
    each_has_its_end(&node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_during_its_start_or_while_its_views_are_folded_again_it_stops_in_time() -> anyhow::Result<()> {
    let Busy { mut node, caller, client } = busy(Launch::node(&settings(""))?).await?;
    for _ in 0..50 {
        client.execute("echo", "to be folded").await?;
    }
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    caller.await??.is(200)?;
    // Told at once, at its first line, and once it serves; with views to fold, of which one is held by somebody.
    let mut seen = node.stderr().len();
    for moment in ["the node", "the node serves", "views"] {
        // A node that was told at its first line has made none.
        let views = node.data().join("views");
        if views.exists() {
            fs::remove_dir_all(views)?;
        }
        node.begin_again().await?;
        match moment {
            "views" => node.wait_until_ready().await?,
            moment => {
                let line = async || Ok(node.stderr().get(seen..).unwrap_or_default().contains(moment).then_some(()));
                if moment != "the node" {
                    wait::until(moment, wait::SOON, line).await?;
                }
            }
        }
        let status = node.terminate().await?;
        // Before it hears signals, the system ends it.
        let is_ended = status.code() == Some(0) || (moment == "the node" && status.code().is_none());
        ensure!(is_ended, "{moment}: the node ended with {status}");
        seen = node.stderr().len();
    }
    each_has_its_end(&node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_ends_nothing() -> anyhow::Result<()> {
    let mut node = NodeProcess::dev().await?;
    node.signal(Signal::HUP)?;
    node.client()?.execute("greeter", "Ada").await?;
    node.signal(Signal::HUP)?;
    ensure!(node.exit_status()?.is_none(), "it has ended");
    ensure!(node.terminate().await?.code() == Some(0), "the node ended with another status");
    Ok(())
}
