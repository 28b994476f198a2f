//! The log on JetStream, on real servers: what every log promises, and what is in the way of this one.

mod copy;
mod doctor;
mod durability;
mod node;
mod past;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use rustix::process::Signal;
use wasmwiz_events::{
    ledger::Verifier,
    log::{
        Append, AppendError, EventLog, ReadLimit,
        conformance::{Log, PROMISES, Stream},
        jetstream::{JetstreamLog, JetstreamLogConfig, OpenError},
    },
    nats::NatsConfig,
    revision::{Position, Revision},
};
use wasmwiz_tests::{
    history::History,
    nats::{NatsCluster, NatsServer},
    wait,
};

const STREAM: &str = "WASMWIZ_LOG";

fn config(url: String, replicas: usize) -> JetstreamLogConfig {
    JetstreamLogConfig {
        nats: NatsConfig { url, ..Default::default() },
        replicas,
        answer_within_ms: 1_000,
        append_within_ms: 20_000,
        read_within_ms: 20_000,
        ..Default::default()
    }
}

async fn one() -> anyhow::Result<(JetstreamLog, NatsServer)> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    Ok((JetstreamLog::open(config(server.url(), 1)).await?, server))
}

async fn three() -> anyhow::Result<(JetstreamLog, NatsCluster)> {
    let cluster = NatsCluster::started(3).await?;
    Ok((JetstreamLog::open(config(cluster.url(), 3)).await?, cluster))
}

mod conformance_of_one_server {
    wasmwiz_events::event_log_conformance!({
        let (log, server) = super::one().await.unwrap();
        (std::sync::Arc::new(log) as super::Log, server)
    });
}

/// One cluster for all of them, as it takes seconds to agree; each has a log of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_keep_every_promise() -> anyhow::Result<()> {
    let cluster = NatsCluster::started(3).await?;
    for (number, (name, promise)) in PROMISES.iter().enumerate() {
        let own = JetstreamLogConfig {
            stream: format!("LOG_{number}"),
            bucket: format!("BLOBS_{number}"),
            subject_prefix: format!("log{number}"),
            ..config(cluster.url(), 3)
        };
        let log: Log = Arc::new(JetstreamLog::open(own).await?);
        tokio::spawn(promise(log)).await.with_context(|| format!("{name} is not kept"))?;
    }
    Ok(())
}

fn bare(stream: &Stream) -> Append {
    Append { commit: stream.seal(1), payloads: Vec::new() }
}

/// Appends to a stream until it has this many more commits, asking again for each whose outcome is not known. Gives their
/// positions.
async fn write(log: &dyn EventLog, mut stream: Stream, commits: usize) -> anyhow::Result<(Stream, Vec<Position>)> {
    let mut positions = Vec::new();
    while positions.len() < commits {
        let append = bare(&stream);
        let appended =
            wait::until("a commit to be stored", wait::SOON * 3, async || match log.append(append.clone()).await {
                Ok(appended) => Ok(Some(appended)),
                Err(AppendError::Busy | AppendError::Unknown(_)) => Ok(None),
                Err(error) => Err(error.into()),
            });
        positions.push(appended.await?.position);
        stream.head = append.commit.head();
    }
    Ok((stream, positions))
}

/// Every commit of these streams is there once, in a chain that holds, at the position that was acknowledged.
async fn holds(log: &dyn EventLog, written: &[(Stream, Vec<Position>)]) -> anyhow::Result<()> {
    for (stream, positions) in written {
        let (mut verifier, mut found) = (Verifier::new(stream.tenant.clone()), Vec::new());
        loop {
            let page = log.read_stream(&stream.tenant, verifier.head().revision.next(), ReadLimit::default()).await?;
            if page.is_empty() {
                break;
            }
            for recorded in page {
                verifier.step(&recorded.commit)?;
                found.push(recorded.position);
            }
        }
        ensure!(found == *positions, "{}: {found:?}, acknowledged {positions:?}", stream.tenant);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_leader_is_killed_and_nobody_sees_a_gap() -> anyhow::Result<()> {
    let (log, mut cluster) = three().await?;
    let mut subscription = log.subscribe(Position::START).await?;
    let streams = (0..8).map(|_| Stream::fresh());
    let writing = try_join_all(streams.map(|stream| write(&log, stream, 60)));
    let has = async |commits| {
        let reached = async || Ok((log.tail().await?.get() >= commits).then_some(()));
        wait::until("commits to be stored", wait::SOON * 3, reached).await
    };
    let killing = async {
        for before in [60, 220] {
            has(before).await?;
            let leader = wait::until("a leader", wait::SOON, async || cluster.leader(STREAM).await).await?;
            cluster.kill9(leader);
            has(before + 100).await?;
            cluster.start(leader).await?;
        }
        Ok(())
    };
    let (written, ()) = tokio::try_join!(writing, killing)?;
    holds(&log, &written).await?;
    let (mut seen, mut last) = (BTreeMap::new(), Position::START);
    while seen.len() < 480 {
        for recorded in tokio::time::timeout(wait::SOON, subscription.next(ReadLimit::default())).await?? {
            ensure!(recorded.position > last, "{} came after {last}", recorded.position);
            last = recorded.position;
            seen.insert(recorded.position, recorded.commit.hash());
        }
    }
    let acknowledged: usize = written.iter().map(|(_, positions)| positions.len()).sum();
    ensure!(seen.len() == acknowledged, "{} were seen of {acknowledged}", seen.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_that_believe_the_same_one_is_refused_each_time() -> anyhow::Result<()> {
    let (one, cluster) = three().await?;
    let other = JetstreamLog::open(config(cluster.url(), 3)).await?;
    let mut stream = Stream::fresh();
    for _ in 0..30 {
        let (first, second) = (bare(&stream), bare(&stream));
        let (a, b) = tokio::join!(one.append(first.clone()), other.append(second.clone()));
        stream.head = match (&a, &b) {
            (Ok(_), Err(AppendError::Conflict { .. })) => first.commit.head(),
            (Err(AppendError::Conflict { .. }), Ok(_)) => second.commit.head(),
            _ => anyhow::bail!("{a:?} and {b:?}"),
        };
        ensure!(other.head(&stream.tenant).await? == stream.head && one.head(&stream.tenant).await? == stream.head);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_no_refusal() -> anyhow::Result<()> {
    let (log, cluster) = three().await?;
    let (stream, mut positions) = write(&log, Stream::fresh(), 3).await?;
    let leader = wait::until("a leader", wait::SOON, async || cluster.leader(STREAM).await).await?;
    cluster.signal(leader, Signal::STOP)?;
    let further = write(&log, stream, 3).await;
    cluster.signal(leader, Signal::CONT)?;
    let (stream, more) = further?;
    positions.extend(more);
    holds(&log, &[(stream, positions)]).await
}

#[tokio::test]
async fn without_a_bus_an_append_ends_within_its_bound_and_afterwards_goes_on() -> anyhow::Result<()> {
    let mut server = NatsServer::prepared("max_payload: 2MB")?;
    server.start().await?;
    let bounds = JetstreamLogConfig { append_within_ms: 1_500, read_within_ms: 1_500, ..config(server.url(), 1) };
    let log = JetstreamLog::open(bounds).await?;
    let (stream, positions) = write(&log, Stream::fresh(), 2).await?;
    server.kill9();
    let append = bare(&stream);
    let refused = tokio::time::timeout(Duration::from_secs(5), log.append(append.clone())).await?;
    ensure!(matches!(refused, Err(AppendError::Busy | AppendError::Unknown(_))), "{refused:?}");
    let hindered = wait::until("the check to say so", wait::SOON, async || Ok(log.check().err())).await?;
    ensure!(hindered.contains("log.jetstream.nats"), "no remedy: {hindered}");
    server.start().await?;
    let (again, later) = write(&log, stream, 1).await?;
    ensure!(log.check().is_ok());
    holds(&log, &[(again, [positions, later].concat())]).await
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_by_offering_it_again() -> anyhow::Result<()> {
    let (log, server) = one().await?;
    let (stream, _) = write(&log, Stream::fresh(), 3).await?;
    let append = bare(&stream);
    // Whoever appended it has heard nothing, and somebody else remembers an end before it.
    let other = JetstreamLog::open(config(server.url(), 1)).await?;
    let stored = other.append(append.clone()).await?;
    ensure!(!stored.repeated);
    let again = log.append(append).await?;
    ensure!(again.repeated && again.position == stored.position, "{again:?}, and it is at {}", stored.position);
    Ok(())
}

#[tokio::test]
async fn a_long_stream_is_read_in_pages_and_from_any_place() -> anyhow::Result<()> {
    let (log, _server) = one().await?;
    let (stream, positions) = write(&log, Stream::fresh(), 700).await?;
    holds(&log, &[(stream.clone(), positions)]).await?;
    for from in [1, 2, 350, 699, 700] {
        let limit = ReadLimit { commits: 1, bytes: 0 };
        let found = log.read_stream(&stream.tenant, Revision::new(from), limit).await?;
        ensure!(found.first().context("nothing")?.commit.header().first_revision.get() == from, "from {from}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_or_a_stream_that_will_not_do_is_refused_with_the_remedy() -> anyhow::Result<()> {
    let small = NatsServer::started().await?;
    let refused = JetstreamLog::open(config(small.url(), 1)).await.err().context("it was opened")?;
    ensure!(matches!(refused, OpenError::MaxPayload { .. }) && refused.to_string().contains("max_payload: 2MB"));
    let (_, server) = one().await?;
    let other = JetstreamLogConfig { duplicate_window_s: 7, ..config(server.url(), 1) };
    let refused = JetstreamLog::open(other).await.err().context("it was opened")?;
    ensure!(refused.to_string().contains("duplicate_window is 120s, should be 7s"), "{refused}");
    let bounds = JetstreamLogConfig { connect_within_ms: 300, ..config("nats://127.0.0.1:1".to_owned(), 1) };
    let refused = JetstreamLog::open(bounds).await.err().context("it was opened")?;
    ensure!(refused.to_string().contains("log.jetstream.nats.url"), "{refused}");
    Ok(())
}

/// A log whose server came back without what it had stored.
async fn emptied() -> anyhow::Result<(JetstreamLog, NatsServer, Stream)> {
    let (log, mut server) = one().await?;
    let (stream, _) = write(&log, Stream::fresh(), 2).await?;
    server.kill9();
    std::fs::remove_dir_all(server.folder().join("store"))?;
    server.start().await?;
    Ok((log, server, stream))
}

#[tokio::test]
async fn a_stream_that_was_removed_poisons_the_log_and_is_not_made_again() -> anyhow::Result<()> {
    let (log, server, stream) = emptied().await?;
    let reason = tokio::time::timeout(wait::SOON, log.poisoned()).await.context("nobody noticed the loss")?;
    ensure!(reason.contains("is gone"), "{reason}");
    ensure!(matches!(log.append(bare(&stream)).await, Err(AppendError::Poisoned(_))));
    let client = async_nats::connect(server.url()).await?;
    ensure!(async_nats::jetstream::new(client).get_stream(STREAM).await.is_err(), "an empty stream took its place");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_was_made_anew_poisons_the_log() -> anyhow::Result<()> {
    let (log, server, _) = emptied().await?;
    JetstreamLog::open(config(server.url(), 1)).await?;
    let reason = tokio::time::timeout(wait::SOON, log.poisoned()).await.context("nobody noticed the loss")?;
    ensure!(reason.contains("made again"), "{reason}");
    Ok(())
}

/// What walks a history in every scenario would see two owners: here the server's condition is passed by.
#[tokio::test]
async fn the_checker_of_histories_sees_a_commit_that_a_stale_owner_got_into_the_log() -> anyhow::Result<()> {
    let (log, server) = one().await?;
    write(&log, Stream::fresh(), 3).await?;
    ensure!(History::of(&log).await?.commits == 3, "three commits were stored");
    let client = async_nats::connect(server.url()).await?;
    let jetstream = async_nats::jetstream::new(client);
    let second = jetstream.get_stream(STREAM).await?.get_raw_message(2).await?;
    jetstream.publish(second.subject, second.payload).await?.await?;
    let error = History::of(&log).await.err().context("a fork of a history was taken for a history")?;
    ensure!(format!("{error:#}").contains("revision"), "{error:#}");
    Ok(())
}
