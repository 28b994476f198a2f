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
