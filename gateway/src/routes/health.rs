//! Probes: is the process alive, does it want requests, and how is each part?

use std::{collections::BTreeSet, time::Duration};

use futures_util::FutureExt as _;
use http::StatusCode;
use poem::Request;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use wasmwiz_actors::disk_space::{DiskSpace, Level};
use wasmwiz_projections::State;

use super::uncounted;
use crate::{
    gateway::Gateway,
    openapi::Operation,
    problem::{Kind, Problem},
    router::Answer,
    views::{Check, Checks, Health, Probe},
};

/// The last result of the executor's check: it runs a module, and probes must not keep the executors busy.
#[derive(Debug, Default)]
pub(crate) struct CheckCache(Mutex<Option<(Instant, Result<(), String>)>>);

impl CheckCache {
    async fn result(&self, gateway: &Gateway) -> Result<(), String> {
        let config = gateway.config();
        // Held while the check runs: those who ask meanwhile get its result.
        let mut last = self.0.lock().await;
        if let Some((at, result)) = &*last
            && at.elapsed() < Duration::from_millis(config.check_every_ms)
        {
            return result.clone();
        }
        let limit = Duration::from_millis(config.check_timeout_ms);
        let result = timeout(limit, gateway.deps().dispatch.check()).await;
        let result = result.unwrap_or_else(|_| Err("a module did not run in time".to_owned()));
        if let Err(reason) = &result {
            tracing::warn!(reason, "the executors do not run the module of the health check");
        }
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

async fn event_log(gateway: &Gateway) -> Result<String, String> {
    let limit = Duration::from_millis(gateway.config().check_timeout_ms);
    // A log that has stopped may still be read.
    if let Some(reason) = gateway.deps().log.poisoned().now_or_never() {
        tracing::warn!(%reason, "the log has stopped");
        return Err("the log has stopped after an I/O error".to_owned());
    }
    let tail = match timeout(limit, gateway.deps().log.tail()).await {
        Ok(Ok(tail)) => tail,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the log does not answer the health check");
            return Err("the log cannot be read".to_owned());
        }
        Err(_) => return Err("the log did not answer in time".to_owned()),
    };
    // The log's own lines say it too, and loudly.
    let durability = gateway.deps().log.durability().map_err(|why| why.to_string())?;
    let durability = durability.map(|how| format!("; {how}")).unwrap_or_default();
    let room = room(gateway.deps().dispatch.space());
    Ok(format!("at position {tail}{durability}{room}"))
}

/// What is said of a node without room for everything.
fn room(space: &DiskSpace) -> String {
    let what = if space.of_log() > space.of_disk() { "the log, by its bound," } else { "the disk" };
    match space.level() {
        Level::Plenty => String::new(),
        Level::Low => format!("; {what} is nearly full: no modules are taken, and no executions begun"),
        Level::Least => format!("; {what} is full but for what ends something"),
    }
}

fn projections(gateway: &Gateway) -> Result<String, String> {
    let (mut lag, mut set_aside) = (0, BTreeSet::new());
    for view in gateway.deps().views.status() {
        lag = view.lag_commits.max(lag);
        set_aside.extend(view.set_aside.into_iter().map(|aside| aside.tenant));
        if view.trouble.is_some() {
            return Err(format!("view {} cannot go on at the moment; it tries again", view.name));
        }
        match view.state {
            State::Live => {}
            State::CatchingUp => return Err(format!("view {} is catching up with the log", view.name)),
            State::Stopped { .. } => return Err(format!("view {} has stopped", view.name)),
        }
    }
    // Neither of these is a reason to send requests elsewhere; the node's own log lines name each.
    let mut how = format!("at most {lag} commits behind");
    match gateway.deps().views.keys().refused().len() {
        0 => {}
        refused => how.push_str(&format!("; {refused} keys were issued under ids that are taken")),
    }
    match set_aside.len() {
        0 => {}
        streams => how.push_str(&format!("; {streams} streams are set aside, as they cannot be folded")),
    }
    Ok(how)
}

/// Nothing when there is no bus to feed.
fn feed(gateway: &Gateway) -> Option<Result<String, String>> {
    gateway.deps().feed.as_ref().map(|status| status.standing().check())
}

fn check(result: Result<String, String>) -> Check {
    let (status, message) = result.map_or_else(|bad| ("failing", bad), |good| ("ok", good));
    Check { status: status.to_owned(), message }
}

fn disabled() -> Check {
    Check { status: "disabled".to_owned(), message: "no bus is configured".to_owned() }
}

/// GET /livez
pub(crate) async fn livez(_: Gateway, _: Request) -> Answer {
    uncounted(StatusCode::OK, &Probe { status: "ok".to_owned(), not_ready: Vec::new() })
}

/// GET /readyz
pub(crate) async fn readyz(gateway: Gateway, _: Request) -> Answer {
    let mut not_ready = Vec::new();
    if gateway.deps().readiness.is_draining() {
        // At once: what a node that stops has closed already is not asked.
        return Err(unready("the node is draining"));
    }
    not_ready.extend(event_log(&gateway).await.err());
    not_ready.extend(projections(&gateway).err());
    not_ready.extend(gateway.executor_check().result(&gateway).await.err());
    if gateway.deps().feed_in_readiness {
        not_ready.extend(feed(&gateway).and_then(Result::err));
    }
    if not_ready.is_empty() {
        return uncounted(StatusCode::OK, &Probe { status: "ok".to_owned(), not_ready });
    }
    Err(unready(&not_ready.join("; ")))
}

fn unready(why: &str) -> Problem {
    let detail = format!("Not ready: {why}. Send requests to another node.");
    Problem::new(Kind::Unavailable, detail).retry_after_ms(1_000)
}

/// GET /health
pub(crate) async fn health(gateway: Gateway, _: Request) -> Answer {
    let executor = gateway
        .executor_check()
        .result(&gateway)
        .await
        .map(|()| format!("a module ran; {}", gateway.deps().dispatch.memory_reset()));
    let checks = Checks {
        event_log: check(event_log(&gateway).await),
        projections: check(projections(&gateway)),
        executor: check(executor),
        feed: feed(&gateway).map_or_else(disabled, check),
    };
    let failing = [&checks.event_log, &checks.projections, &checks.executor, &checks.feed];
    let failing = failing.iter().any(|check| check.status == "failing");
    let (status, word) = if failing { (StatusCode::SERVICE_UNAVAILABLE, "failing") } else { (StatusCode::OK, "ok") };
    uncounted(status, &Health { status: word.to_owned(), checks })
}

pub(crate) fn livez_doc() -> Operation {
    Operation::new("livez", "health", "Is the process alive?").answers::<Probe>(200, "It is")
}

pub(crate) fn metrics_doc() -> Operation {
    Operation::new("metrics", "health", "Metrics for Prometheus").answers_bytes(200, "text/plain", "The metrics")
}

pub(crate) fn readyz_doc() -> Operation {
    Operation::new("readyz", "health", "Does the node want requests?")
        .answers::<Probe>(200, "It does")
        .problem(&[Kind::Unavailable])
}

pub(crate) fn health_doc() -> Operation {
    Operation::new("health", "health", "How is each part of the node?")
        .describe("The executor's check runs a real module. Its result is kept for some seconds.")
        .answers::<Health>(200, "Every part is well, or switched off")
        .answers::<Health>(503, "Some part is failing")
}
