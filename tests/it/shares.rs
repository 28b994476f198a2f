//! One tenant's trouble stays its own: what others want of a node's pools leaves something for those who want little.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use wasmwiz_tests::{
    client::{Client, send},
    guests,
    harness::Launch,
    tenants::register,
    wait::{self, SOON},
};

/// Places for guests on the node.
const PLACES: usize = 40;

/// Guests that each of the greedy tenants asks for: together more than there are places.
const WANTED: usize = 60;

/// How many of the places the two of them have, at least, when they have all they get: from 4/9 each to 4/5 and 4/25, by who came when.
const GREEDY_HAVE: u64 = 34;

/// How long a request waits for a place, in milliseconds.
const WAIT_MS: u64 = 100;

/// Asks for guests that sleep until they are ended, and counts those that are refused.
fn sleepers(client: &Client, refused: &Arc<AtomicUsize>) -> impl Future<Output = ()> + use<> {
    let (client, refused) = (client.clone(), Arc::clone(refused));
    stream::iter(0..WANTED).for_each_concurrent(WANTED, move |_| {
        let request = client.request(Method::POST, "/v1/modules/endless-sleep/executions?timeout_ms=60000");
        let refused = Arc::clone(&refused);
        async move {
            if send(request).await.is_ok_and(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_whose_guests_sleep_leave_places_for_one_that_wants_little() -> anyhow::Result<()> {
    let node = Launch::dev()?
        .variable("WASMWIZ_EXECUTOR__GUESTS_MAX", PLACES.to_string())
        .variable("WASMWIZ_EXECUTOR__WAIT_MS", WAIT_MS.to_string())
        .start()
        .await?;
    let operator = node.operator()?;
    let mut greedy = Vec::new();
    for name in ["Greedy", "Greedier"] {
        let tenant = register(&operator, name, "enterprise").await?;
        tenant.client.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.is(201)?;
        greedy.push(tenant);
    }
    let light = register(&operator, "Light", "enterprise").await?;
    light.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;

    let refused = Arc::new(AtomicUsize::new(0));
    let asked: Vec<_> = greedy.iter().map(|tenant| tokio::spawn(sleepers(&tenant.client, &refused))).collect();
    let running = || async {
        let metrics = node.admin()?.get("/metrics").await?.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("wasmwiz_executions_running "));
        anyhow::Ok(line.context("no such metric")?.trim().parse::<f64>()? as u64)
    };
    wait::until("the greedy have all they get", SOON, async || Ok((running().await? >= GREEDY_HAVE).then_some(())))
        .await?;
    // None is refused, and the greedy do not get what the light one leaves between two of its own.
    for number in 0..120 {
        let echoed = light.client.execute("echo", format!("{number}")).await?;
        ensure!(echoed.stdout == number.to_string() && echoed.outcome.as_deref() == Some("succeeded"), "{echoed:?}");
    }
    let at_the_end = running().await?;
    ensure!((GREEDY_HAVE..=PLACES as u64).contains(&at_the_end), "{at_the_end} of {PLACES} places");

    // What did not run was told to come back.
    wait::until("those without a place are told", SOON, async || {
        Ok((refused.load(Ordering::Relaxed) >= 2 * WANTED - PLACES).then_some(()))
    })
    .await?;
    drop(node);
    for asked in asked {
        asked.await?;
    }
    Ok(())
}

/// Memory for all guests of the node, in bytes. One guest of a tenant has 40 MiB of it at most.
const MEMORY_BYTES: u64 = 64 << 20;

/// Guests that the tenant asks for which want all memory they can get.
const HOARDERS: usize = 12;

/// How long they may wait for it, in milliseconds: longer than one of them takes to get it, also on a machine that is
/// busy. One that is older when it lacks some would go on without, and sleep with less.
const MEMORY_WAIT_MS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_guests_take_all_memory_leaves_some_for_others_and_for_the_health_check() -> anyhow::Result<()> {
    let node = Launch::dev()?
        .variable("WASMWIZ_EXECUTOR__MEMORY_BUDGET_BYTES", MEMORY_BYTES.to_string())
        .variable("WASMWIZ_EXECUTOR__MEMORY_WAIT_MS", MEMORY_WAIT_MS.to_string())
        .start()
        .await?;
    let operator = node.operator()?;
    let greedy = register(&operator, "Greedy", "enterprise").await?;
    greedy.client.put_module("hoard", guests::HOARD.wasm()?).await?.is(201)?;
    let light = register(&operator, "Light", "enterprise").await?;
    light.client.put_module("echo", guests::ECHO.wasm()?).await?.is(201)?;

    let told = Arc::new(AtomicUsize::new(0));
    let asked: Vec<_> = (0..HOARDERS)
        .map(|_| {
            let request = greedy.client.request(Method::POST, "/v1/modules/hoard/executions?timeout_ms=60000");
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let Ok(answer) = send(request).await else { return };
                let is_own = answer.text().contains("the guests of this tenant hold the memory");
                if answer.status == StatusCode::SERVICE_UNAVAILABLE || is_own {
                    told.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let held = || async {
        let metrics = node.admin()?.get("/metrics").await?.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("wasmwiz_guest_memory_bytes "));
        anyhow::Ok(line.context("no such metric")?.trim().parse::<f64>()? as u64)
    };
    // All but one are told that it is their own tenant whose guests hold it.
    wait::until("the greedy one has all it gets", SOON, async || {
        Ok((held().await? >= 39 << 20 && told.load(Ordering::Relaxed) == HOARDERS - 1).then_some(()))
    })
    .await?;
    for number in 0..120 {
        let echoed = light.client.execute("echo", format!("{number}")).await?;
        ensure!(echoed.stdout == number.to_string() && echoed.outcome.as_deref() == Some("succeeded"), "{echoed:?}");
    }
    operator.anonymous().get("/readyz").await?.expect(StatusCode::OK)?;
    let at_the_end = held().await?;
    ensure!(at_the_end <= 41 << 20, "{at_the_end} of {MEMORY_BYTES} bytes");
    drop(node);
    for asked in asked {
        asked.await?;
    }
    Ok(())
}
