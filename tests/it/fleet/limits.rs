//! A tenant's limits are kept by its owner: asked through all nodes at once, it is admitted exactly as often as through one.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::{sleep, timeout};
use wasmwiz_actors::limits::{Policy, TierLimits};
use wasmwiz_events::{
    execution::Outcome,
    time::{Clock as _, SystemClock, Timestamp},
};
use wasmwiz_tests::{
    client::Answer,
    fleet::{Fleet, Size},
    guests,
    history::History,
    tenants::{Tenant, register},
    wait,
};

/// How many send requests of a tenant at a time.
const CALLERS: usize = 6;

/// How long each of them rests between two requests.
const REST: Duration = Duration::from_millis(40);

/// How many are admitted after the burst, each as its token comes back.
const AFTER_BURST: usize = 2;

/// How many of a day's executions are left for the free tier.
const LEFT: usize = 3;

/// Two clocks show one moment in whole milliseconds, and the wall clock may be slewed.
const ROUNDING_MS: u64 = 50;

/// A day that ends sooner than this is not used up before the next one.
const DAY_LEFT_MS: u64 = 180_000;

/// What callers were told.
#[derive(Debug, Default)]
struct Told {
    admitted: usize,
    /// By the problem.
    refused: BTreeMap<String, usize>,
}

impl Told {
    fn note(&mut self, answer: &Answer) -> anyhow::Result<()> {
        match answer.status.as_u16() {
            200 => self.admitted += 1,
            // A node may have no place for a moment, or not know an owner.
            429 | 503 => *self.refused.entry(answer.problem().unwrap_or_default()).or_default() += 1,
            _ => bail!("{}: {}", answer.status, answer.text()),
        }
        Ok(())
    }

    fn refused_for(&self, problem: &str) -> usize {
        self.refused.get(problem).copied().unwrap_or_default()
    }
}

/// A tenant of this tier whose key and module all nodes know.
async fn tenant(fleet: &Fleet, urls: &[String], name: &str, tier: &str) -> anyhow::Result<Tenant> {
    let tenant = register(&fleet.operator(0)?, name, tier).await?;
    for guest in [guests::ECHO, guests::ENDLESS_SLEEP] {
        tenant.client.put_module(guest.name, guest.wasm()?).await?.is(201)?;
        for url in urls {
            tenant.client.at(url).get(&format!("/v1/modules/{}", guest.name)).await?.is(200)?;
        }
    }
    Ok(tenant)
}

/// Callers of a tenant, each of which asks these nodes in turn, until they were told enough.
async fn hammer(
    tenant: &Tenant,
    urls: &[String],
    callers: usize,
    enough: impl Fn(&Told) -> bool,
) -> anyhow::Result<Told> {
    let told = RefCell::new(Told::default());
    let (noted, enough) = (&told, &enough);
    let caller = |first: usize| async move {
        let mut turns = urls.iter().cycle().skip(first);
        while !enough(&noted.borrow()) {
            let client = tenant.client.at(turns.next().context("no node")?);
            let answer = client.post_bytes(&format!("/v1/modules/{}/executions", guests::ECHO.name), "x").await?;
            noted.borrow_mut().note(&answer)?;
            sleep(REST).await;
        }
        anyhow::Ok(())
    };
    let hammered = timeout(wait::SOON * 4, try_join_all((0..callers).map(caller))).await;
    hammered.with_context(|| format!("it was not enough: {told:?}"))??;
    Ok(told.into_inner())
}

fn accepted<'h>(history: &'h History, tenant: &Tenant) -> &'h [Timestamp] {
    history.accepted.get(&tenant.id).map(Vec::as_slice).unwrap_or_default()
}

/// Were as many accepted as the bucket gave until the last of them, and none before its token was there?
fn as_the_bucket_gives(accepted: &[Timestamp], free: &TierLimits) -> anyhow::Result<()> {
    let rate = free.executions_rate().context("the tier has a rate")?;
    let (burst, interval_ms) = (usize::try_from(free.executions_burst)?, rate.interval_ms());
    let (first, last) = accepted.first().zip(accepted.last()).context("none was accepted")?;
    let since_ms = last.ms_since(*first) + ROUNDING_MS;
    let given = burst + usize::try_from(since_ms / interval_ms)?;
    ensure!(accepted.len() == given, "{} were accepted of {given}: {accepted:?}", accepted.len());
    for (after, time) in (1..).zip(accepted.iter().skip(burst)) {
        let due = first.plus_ms(after * interval_ms);
        ensure!(time.plus_ms(ROUNDING_MS) >= due, "{time:?} is before {due:?}: {accepted:?}");
    }
    Ok(())
}

/// A burst and then the rate, whichever nodes are asked.
async fn by_the_minute(fleet: &Fleet, urls: &[String], free: &TierLimits) -> anyhow::Result<[Tenant; 2]> {
    let (one, all) = (tenant(fleet, urls, "One", "free").await?, tenant(fleet, urls, "All", "free").await?);
    let many = usize::try_from(free.executions_burst)? + AFTER_BURST;
    let enough = |told: &Told| told.admitted >= many;
    let through_one = hammer(&one, urls.get(1..2).context("no second node")?, CALLERS, enough);
    let (through_one, through_all) = tokio::try_join!(through_one, hammer(&all, urls, CALLERS, enough))?;
    eprintln!("through one node {through_one:?}, through all {through_all:?}");
    for told in [through_one, through_all] {
        ensure!(told.refused_for("rate-limited") > 0, "nobody was refused for the rate: {told:?}");
    }
    Ok([one, all])
}

/// A day's quota, whichever nodes are asked. Most of it is used in a tier that may more a minute.
async fn by_the_day(fleet: &Fleet, urls: &[String], free: &TierLimits) -> anyhow::Result<[Tenant; 2]> {
    let (one, all) = (tenant(fleet, urls, "One's day", "pro").await?, tenant(fleet, urls, "All's day", "pro").await?);
    let most = usize::try_from(free.executions_per_day)? - LEFT;
    let node = urls.get(1..2).context("no second node")?;
    let enough = |told: &Told| told.admitted >= most;
    tokio::try_join!(hammer(&one, node, 1, enough), hammer(&all, urls, 1, enough))?;
    for tenant in [&one, &all] {
        let path = format!("/v1/tenants/{}", tenant.id);
        fleet.operator(2)?.patch_json(&path, &json!({"tier": "free"})).await?.is(200)?;
    }
    let enough = |told: &Told| told.refused_for("daily-quota-used") >= 2 * CALLERS;
    let (through_one, through_all) =
        tokio::try_join!(hammer(&one, node, CALLERS, enough), hammer(&all, urls, CALLERS, enough))?;
    eprintln!("the rest of a day through one node {through_one:?}, through all {through_all:?}");
    Ok([one, all])
}

/// As many at a time as the tier allows, whichever nodes are asked.
async fn at_a_time(fleet: &Fleet, urls: &[String], free: &TierLimits) -> anyhow::Result<Tenant> {
    let tenant = tenant(fleet, urls, "At a time", "free").await?;
    let path = format!("/v1/modules/{}/executions?timeout_ms=4000", guests::ENDLESS_SLEEP.name);
    let clients: Vec<_> = urls.iter().cycle().take(CALLERS).map(|url| tenant.client.at(url)).collect();
    let answers = try_join_all(clients.iter().map(|client| client.post_bytes(&path, ""))).await?;
    let (ran, refused): (Vec<Answer>, Vec<Answer>) = answers.into_iter().partition(|answer| answer.status == 200);
    ensure!(ran.len() == usize::try_from(free.executions_concurrent)?, "{} ran: {refused:?}", ran.len());
    for answer in refused {
        answer.refuses(429, "too-many-concurrent")?;
    }
    Ok(tenant)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_free_tenant_is_admitted_through_all_nodes_exactly_as_often_as_through_one() -> anyhow::Result<()> {
    let free = Policy::default().free;
    let fleet = Fleet::started(Size { nodes: 3, servers: 3, tenants: 1 }).await?;
    let urls: Vec<_> = fleet.nodes.iter().map(|node| node.ready().url.clone()).collect();
    let concurrent = at_a_time(&fleet, &urls, &free).await?;
    let rated = by_the_minute(&fleet, &urls, &free).await?;
    let today = SystemClock.now();
    let is_long = today.plus_ms(DAY_LEFT_MS).utc_day() == today.utc_day();
    let daily = if is_long { Some(by_the_day(&fleet, &urls, &free).await?) } else { None };

    // What was admitted is what the log has: more than what callers were told, should an answer have been lost.
    let history = fleet.settled().await?;
    let at_a_time = usize::try_from(free.executions_concurrent)?;
    ensure!(accepted(&history, &concurrent).len() == at_a_time, "{:?}", accepted(&history, &concurrent));
    for tenant in &rated {
        as_the_bucket_gives(accepted(&history, tenant), &free).with_context(|| tenant.id.clone())?;
    }
    for tenant in daily.iter().flatten() {
        let admitted = accepted(&history, tenant).len();
        ensure!(u64::try_from(admitted)? == free.executions_per_day, "{admitted} were admitted in a day");
    }
    ensure!(history.ended(Outcome::Lost) == 0, "an execution was lost");
    Ok(())
}
