//! The same with the real binary, whose wall clock is set by libfaketime while its monotonic clock goes on.

use anyhow::{Context as _, ensure};
use reqwest::StatusCode;
use tokio::time::Instant;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    harness::Launch,
    tenants::register,
    wait,
    wall_clock::{self, WallClock},
};

const NODE: &str = "
    node.data_dir = \"{data}\"
    listen.api = \"127.0.0.1:0\"
    listen.admin = \"127.0.0.1:0\"
    shutdown.announce_ms = 0
";

/// What the free tier's bucket takes to fill: 5 at 10 a minute.
const FILL_S: u64 = 30;

/// Steps of the wall clock as the library writes them.
const STEPS: [&str; 6] = ["-1s", "+10m", "-10m", "+1d", "-1d", "+30d"];

/// Runs until the tier refuses; says how often it did not.
async fn run_until_refused(client: &Client) -> anyhow::Result<usize> {
    for count in 0..20 {
        let answer = client.post_bytes("/v1/modules/echo/executions", "x").await?;
        if answer.status == StatusCode::OK {
            continue;
        }
        answer.refuses(429, "rate-limited")?;
        let wait: u64 = answer.header("retry-after").context("no Retry-After")?.parse()?;
        ensure!(wait <= FILL_S, "told to come back in {wait} s");
        return Ok(count);
    }
    anyhow::bail!("the tier has no limit")
}

async fn listed(client: &Client) -> anyhow::Result<usize> {
    let all = client.get("/v1/executions?limit=200").await?.is(200)?;
    Ok(all["items"].as_array().context("no items")?.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_wall_clock_steps_keeps_its_limits_its_guests_and_its_lists() -> anyhow::Result<()> {
    let Some(library) = wall_clock::library() else {
        eprintln!("skipped: libfaketime is not installed on this machine");
        return Ok(());
    };
    let clock = WallClock::right(&library)?;
    let mut node = clock.shown_to(Launch::node(NODE)?).start().await?;
    let operator = node.operator()?;
    let (free, large) = (register(&operator, "Free", "free").await?, register(&operator, "Large", "enterprise").await?);
    free.client.put_module("echo", guests::ECHO.wasm()?).await?.expect(StatusCode::CREATED)?;
    large.client.put_module("endless-sleep", guests::ENDLESS_SLEEP.wasm()?).await?.expect(StatusCode::CREATED)?;
    let begun = Instant::now();
    let mut ran = run_until_refused(&free.client).await?;
    // Five at once, one token every six seconds, and what came while it was asked.
    ensure!(ran as u64 <= 5 + begun.elapsed().as_secs() / 6 + 1, "{ran} ran at once");
    let mut refused = Instant::now();

    for step in STEPS {
        // A guest that is running when the clock steps ends by its own deadline, and is not taken for lost.
        let sleeping = tokio::spawn({
            let client = large.client.clone();
            async move { client.post_bytes("/v1/modules/endless-sleep/executions?timeout_ms=6000", "").await }
        });
        wait::until("the guest", wait::SOON, async || {
            ensure!(!sleeping.is_finished(), "the guest has ended before it was seen");
            let running = large.client.get("/v1/executions?limit=1").await?.is(200)?;
            Ok((running["items"][0]["status"] == "running").then_some(()))
        })
        .await?;
        clock.step_to(step)?;
        let more = run_until_refused(&free.client).await.with_context(|| format!("after a step to {step}"))?;
        // One token every six seconds, by the clock on the wall of this test; and what came while it was asked.
        let earned = refused.elapsed().as_secs() / 6 + 1;
        ensure!(more as u64 <= earned, "{more} ran at once after a step to {step}, {earned} may");
        (ran, refused) = (ran + more, Instant::now());
        let ended: Answer = sleeping.await??;
        ensure!(ended.is(200)?["outcome"] == "deadline_exceeded", "{step}: {}", ended.text());
        wait::until("every execution in the list", wait::SOON, async || {
            Ok((listed(&free.client).await? == ran).then_some(()))
        })
        .await
        .with_context(|| format!("after a step to {step}"))?;
    }

    // Started again while the clock is a month ahead, and then right: nobody is locked out.
    node.restart().await?;
    clock.step_to("+0")?;
    let client = free.client.at(&node.ready().url);
    run_until_refused(&client).await?;
    node.restart().await?;
    run_until_refused(&free.client.at(&node.ready().url)).await?;
    Ok(())
}
