//! Tenants with a past on JetStream: how long it takes to wake one with a long past, and how long, and how much memory, to wake many.

use std::{path::Path, process, sync::Arc, time::Duration};

use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use wasmwiz_actors::{
    aggregate::Authority,
    handle::{Ask, Origin},
    ids::Ids,
    limits::Policy,
    ownership::Alone,
    region::{Region, RegionConfig, RegionDeps},
    snapshots::{FileSnapshots, Snapshots as _},
    tenant::Command,
};
use wasmwiz_events::{
    id::{NodeId, TenantId},
    log::{EventLog, jetstream::JetstreamLog},
    time::SystemClock,
};
use wasmwiz_tests::{chance::setting, memory, past, times::Times, wait};

use super::one;

/// How many events a long past has, if the variable does not say otherwise.
const PAST: (&str, u64) = ("WASMWIZ_TESTS_PAST_EVENTS", 20_000);

/// From this length on, it is held against [`AWAKE_WITHIN`]: with a short one, what else the machine does is as long.
const LONG_EVENTS: u64 = 1_000_000;

/// What waking from a state that was kept may take, however long the past.
const AWAKE_WITHIN: Duration = Duration::from_secs(1);

/// How many tenants are rehydrated, if the variable does not say otherwise.
const TENANTS: (&str, u64) = ("WASMWIZ_TESTS_REHYDRATED_TENANTS", 300);

/// Events of each of them.
const EVENTS_EACH: u64 = 21;

/// From so many tenants on, their memory is held against [`BYTES_EACH_MAX`]: with few it is the process's own.
const MANY_TENANTS: u64 = 10_000;

/// The most memory that one of many tenants may take, in bytes.
const BYTES_EACH_MAX: u64 = 64 << 10;

/// How many are written, and asked, at the same time.
const AT_ONCE: usize = 128;

/// How long a caller waits: as long as the longest past may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);

async fn region(log: &Arc<JetstreamLog>, snapshots: &Path) -> anyhow::Result<Region> {
    let config = RegionConfig { answer_within_ms: ANSWER_WITHIN.as_millis() as u64, ..RegionConfig::default() };
    let deps = RegionDeps {
        log: Arc::clone(log) as Arc<dyn EventLog>,
        clock: Arc::new(SystemClock),
        policy: Policy::default(),
        ownership: Arc::new(Alone { node: NodeId::new("node-1")?, boot: Ids.boot() }),
        snapshots: Some(Arc::new(FileSnapshots::new(snapshots))),
    };
    Ok(Region::start(config, deps).await?)
}

/// Gives a tenant a command, and says how long it took: it has to be awake to decide.
async fn woken(region: &Region, tenant: &TenantId, command: Command) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let origin = Origin::internal(Ids.command());
    let ask = Ask { command, by: Authority::System, origin, payloads: Vec::new() };
    region.ask(tenant, ask).await?;
    Ok(begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_a_long_past_wakes_from_what_was_kept() -> anyhow::Result<()> {
    let events = setting(PAST.0, PAST.1)?;
    let ((log, _server), folder, tenant) = (one().await?, tempfile::tempdir()?, TenantId::new("acme")?);
    let begun = Instant::now();
    past::write(&log, &tenant, events).await?;
    eprintln!("{events} events written in {:?}", begun.elapsed());
    let log = Arc::new(log);
    let wake = async |what: &str| {
        let region = region(&log, folder.path()).await?;
        let rename = Command::Change { name: Some(what.to_owned()), tier: None };
        let took = woken(&region, &tenant, rename).await?;
        eprintln!("{events} events: awake {what} after {took:?}");
        anyhow::Ok((region, took))
    };
    let (region, whole) = wake("from its whole past").await?;
    let kept = wait::until("a state that is kept", wait::SOON * 3, async || {
        Ok((!FileSnapshots::new(folder.path()).revisions(&tenant)?.is_empty()).then_some(()))
    });
    kept.await?;
    region.shutdown(wait::SOON).await;
    let (region, kept) = wake("from what was kept").await?;
    region.shutdown(wait::SOON).await;
    if events >= LONG_EVENTS {
        ensure!(kept < AWAKE_WITHIN, "{kept:?} with a state that was kept, {whole:?} without");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tenants_are_rehydrated() -> anyhow::Result<()> {
    let count = setting(TENANTS.0, TENANTS.1)?;
    let ((log, _server), folder) = (one().await?, tempfile::tempdir()?);
    let tenants = (0..count).map(|n| TenantId::new(&format!("t-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let written = stream::iter(tenants.iter().map(|tenant| past::write(&log, tenant, EVENTS_EACH)));
    written.buffer_unordered(AT_ONCE).try_collect::<()>().await?;

    let log = Arc::new(log);
    let region = region(&log, folder.path()).await?;
    let (begun, before) = (Instant::now(), memory::resident_bytes(process::id())?);
    // What is so already: nothing is written, and the tenant has to be awake to know.
    let asked = tenants.iter().map(|tenant| woken(&region, tenant, Command::Resume));
    let mut awake = stream::iter(asked).buffer_unordered(AT_ONCE);
    let mut times = Times::default();
    while let Some(took) = awake.try_next().await? {
        times.push(took);
    }
    let (took, after) = (begun.elapsed(), memory::resident_bytes(process::id())?);
    let each = after.saturating_sub(before) / count.max(1);
    eprintln!(
        "{count} tenants of {EVENTS_EACH} events rehydrated in {took:?}, {AT_ONCE} at once; each waited: {times}; {} MiB of memory, \
         {each} bytes each",
        after.saturating_sub(before) >> 20
    );
    ensure!(times.count() as u64 == count, "{} of {count} are awake", times.count());
    if count >= MANY_TENANTS {
        ensure!(each < BYTES_EACH_MAX, "{each} bytes of memory for each tenant");
    }
    region.shutdown(wait::SOON).await;
    Ok(())
}
