//! A steady load: one caller a tenant, each of whose requests has an idempotency key and is sent again, to one node
//! after the other, until it is answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;

use crate::k8s::{http::Request, trial::Tenant};

/// Fewer than one in so many requests may fail while nodes are replaced: 0.1 %.
const ONE_IN: u64 = 1_000;

/// How long a caller rests between two requests: with all callers some tens of requests a second, which two processors
/// serve.
const REST: Duration = Duration::from_millis(300);

/// How long before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// After this a request is given up. Longer than anything that is done to the nodes.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(120);

/// How long another answer to every caller may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(150);

/// How often it is looked whether they have it.
const LOOKED_EVERY: Duration = Duration::from_millis(25);

/// How many failures of each caller are kept to be shown.
const SHOWN: usize = 5;

/// By which a read names what it has to have seen.
pub(super) const MIN_POSITION: &str = "Wasmwiz-Min-Position";

/// An execution that was answered.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    pub(super) id: String,
    pub(super) outcome: String,
    /// Where it was written, if that was said.
    pub(super) position: Option<String>,
}

/// One request, from its first sending to its answer.
#[derive(Debug, Clone)]
struct Call {
    sent: Instant,
    answered: Instant,
    id: String,
    outcome: String,
}

/// What callers were told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What was answered, by the time of the answer.
    calls: Vec<Call>,
    /// How many requests were sent, and how many of them got no answer.
    sent: u64,
    failed: u64,
    /// What was said of the first that failed.
    said: Vec<String>,
    /// What was never answered.
    given_up: Vec<String>,
}

/// What became of callers because of something that was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outage {
    /// How long until each caller had an answer to a request that it sent after that.
    pub(super) served_after: Duration,
    /// The longest that one waited, from then or from the sending of its request.
    pub(super) longest: Duration,
}

/// Callers at work. They stop when this goes.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    nodes: Mutex<Vec<SocketAddr>>,
    /// By caller.
    told: Vec<Mutex<Told>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Sends a caller of each tenant to work. The label is in all its idempotency keys.
    pub(super) fn begin(label: &str, nodes: Vec<SocketAddr>, tenants: &[Tenant]) -> Self {
        let told = tenants.iter().map(|_| Mutex::new(Told::default())).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), nodes: Mutex::new(nodes), told });
        let mut threads = Vec::new();
        for (number, tenant) in tenants.iter().enumerate() {
            let name = format!("{label}-{number}");
            let caller = Caller { name, number, key: tenant.key.clone(), shared: Arc::clone(&shared) };
            threads.push(thread::spawn(move || caller.work()));
        }
        Self { shared, threads }
    }

    /// The nodes that are asked from now on.
    pub(super) fn nodes_are(&self, nodes: Vec<SocketAddr>) {
        *locked(&self.shared.nodes) = nodes;
    }

    /// Waits until each caller was answered so many more times.
    ///
    /// # Errors
    /// When one is not in time; says what it was told.
    pub(super) fn each_answered(&self, more: usize) -> anyhow::Result<()> {
        let count = || self.shared.told.iter().map(|told| locked(told).calls.len()).collect::<Vec<_>>();
        let (before, begun) = (count(), now());
        while count().iter().zip(&before).any(|(now, then)| *now < then + more) {
            ensure!(
                begun.elapsed() < ANSWERED_WITHIN,
                "callers wait for more than {} s: they had {before:?} answers, and now {:?}; the first failures: {:#?}",
                ANSWERED_WITHIN.as_secs(),
                count(),
                self.shared.told.iter().flat_map(|told| locked(told).said.clone()).collect::<Vec<_>>()
            );
            sleep(LOOKED_EVERY);
        }
        Ok(())
    }

    /// What became of callers because of what was done then; nothing while one has no answer yet to what it sent after
    /// that.
    pub(super) fn outage(&self, then: Instant) -> Option<Outage> {
        let calls: Vec<_> = self.shared.told.iter().map(|told| locked(told).calls.clone()).collect();
        outage(&calls, then)
    }

    /// Lets every caller finish, and gives what all were told.
    ///
    /// # Errors
    /// When a caller panicked.
    pub(super) fn end(mut self) -> anyhow::Result<Told> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().map_err(|_| anyhow!("a caller panicked"))?;
        }
        let mut all = Told::default();
        for told in &self.shared.told {
            let told = std::mem::take(&mut *locked(told));
            all.calls.extend(told.calls);
            all.sent += told.sent;
            all.failed += told.failed;
            all.said.extend(told.said);
            all.given_up.extend(told.given_up);
        }
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The calls of each caller, and when something was done.
fn outage(callers: &[Vec<Call>], then: Instant) -> Option<Outage> {
    let mut outage = Outage::default();
    for calls in callers {
        let first = calls.iter().find(|call| call.sent >= then)?;
        outage.served_after = outage.served_after.max(first.answered.saturating_duration_since(then));
        let touched = calls.iter().filter(|call| call.answered > then);
        let waits = touched.map(|call| call.answered.saturating_duration_since(call.sent.max(then)));
        outage.longest = outage.longest.max(waits.max().unwrap_or_default());
    }
    Some(outage)
}

impl Told {
    /// For people.
    pub(super) fn line(&self) -> String {
        let Self { calls, sent, failed, .. } = self;
        let percent = *failed as f64 * 100.0 / (*sent).max(1) as f64;
        let lost = calls.iter().filter(|call| call.outcome == "lost").count();
        format!(
            "{} executions were answered, {lost} of them as lost; {failed} of {sent} requests failed ({percent:.3} %)",
            calls.len()
        )
    }

    /// The outcome of each execution that was answered. Nodes may have died: what ran there may be lost, if that was
    /// said.
    ///
    /// # Errors
    /// When a request was never answered, two were answered with one execution, or one ended as its guest cannot.
    pub(super) fn outcomes(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let Self { calls, said, given_up, .. } = self;
        ensure!(given_up.is_empty(), "requests were never answered: {given_up:?}; the first failures: {said:#?}");
        let mut outcomes = BTreeMap::new();
        for Call { id, outcome, .. } in calls {
            ensure!(["succeeded", "lost"].contains(&outcome.as_str()), "execution {id} of an echo ended as {outcome}");
            let before = outcomes.insert(id.clone(), outcome.clone());
            ensure!(before.is_none(), "two requests were answered with execution {id}");
        }
        Ok(outcomes)
    }

    /// As [`Self::outcomes`], of nodes that were replaced in order.
    ///
    /// # Errors
    /// Also when an execution was lost, or 0.1 % of the requests or more failed.
    pub(super) fn undisturbed(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let Self { sent, failed, said, .. } = self;
        let outcomes = self.outcomes()?;
        let lost: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome == "lost").map(|(id, _)| id).collect();
        ensure!(lost.is_empty(), "{} executions were lost although no node was killed: {lost:?}", lost.len());
        let few = *failed == 0 || failed.saturating_mul(ONE_IN) < *sent;
        ensure!(few, "{failed} of {sent} requests failed, and less than one in {ONE_IN} may: {said:#?}");
        Ok(outcomes)
    }
}

struct Caller {
    /// How its idempotency keys begin.
    name: String,
    number: usize,
    key: String,
    shared: Arc<Shared>,
}

impl Caller {
    fn work(&self) {
        let mut turn = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.call(turn);
            turn += 1;
            sleep(REST);
        }
    }

    /// One request, until it is answered or given up.
    fn call(&self, turn: usize) {
        let Some(own) = self.shared.told.get(self.number) else { return };
        let (name, sent) = (format!("{}-{turn}", self.name), now());
        let mut attempt = 0;
        loop {
            let asked = self.ask(&name, self.number + turn + attempt);
            let answered = now();
            {
                let mut told = locked(own);
                told.sent += 1;
                match asked {
                    Ok(Ran { id, outcome, .. }) => {
                        told.calls.push(Call { sent, answered, id, outcome });
                        return;
                    }
                    Err(error) => {
                        told.failed += 1;
                        if told.said.len() < SHOWN {
                            let after = sent.elapsed().as_secs_f64();
                            told.said.push(format!("{name}, after {after:.1} s: {error:#}"));
                        }
                    }
                }
                if sent.elapsed() > GIVEN_UP_AFTER {
                    told.given_up.push(name);
                    return;
                }
            }
            attempt += 1;
            sleep(PAUSE);
        }
    }

    fn ask(&self, name: &str, turn: usize) -> anyhow::Result<Ran> {
        let at = {
            let nodes = locked(&self.shared.nodes);
            nodes.get(turn % nodes.len().max(1)).copied().context("there is no node to ask")?
        };
        execute(at, &self.key, name, None)
    }
}

/// Runs the echo once, with a name that is its idempotency key and its input. The node has to have seen that position
/// before.
///
/// # Errors
/// When it is not answered, or with another's output.
pub(super) fn execute(at: SocketAddr, key: &str, name: &str, after: Option<&str>) -> anyhow::Result<Ran> {
    let mut headers = vec![("Idempotency-Key", name), ("Content-Type", "text/plain")];
    headers.extend(after.map(|position| (MIN_POSITION, position)));
    let path = "/v1/modules/echo/executions";
    let request = Request { method: "POST", path, key, headers: &headers, body: name.as_bytes() };
    let (answer, position) = positioned(&request, at, 200)?;
    let text = |field: &str| answer.get(field).and_then(Value::as_str).map(str::to_owned);
    let id = text("id").with_context(|| format!("no execution: {answer}"))?;
    let outcome = text("outcome").with_context(|| format!("an execution without an outcome: {answer}"))?;
    // A guest that ran gives back what it was given.
    ensure!(outcome != "succeeded" || text("stdout").as_deref() == Some(name), "another's echo: {answer}");
    Ok(Ran { id, outcome, position })
}

/// An answer's JSON, and where it says that something was written.
///
/// # Errors
/// When the status is another.
pub(super) fn positioned(
    request: &Request<'_>,
    at: SocketAddr,
    status: u16,
) -> anyhow::Result<(Value, Option<String>)> {
    let asked = format!("{} {at}{}", request.method, request.path);
    let answer = request.send(at).with_context(|| asked.clone())?;
    let value = answer.json(&asked, status)?;
    Ok((value, answer.header("Wasmwiz-Position").map(str::to_owned)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a chore measures how long answers take and waits for bounded times; it decides nothing of the product"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of one caller: when each was sent and answered, in milliseconds from a moment.
    fn calls(from: Instant, times: &[(u64, u64)]) -> Vec<Call> {
        let at = |ms: u64| from + Duration::from_millis(ms);
        let call = |(number, (sent, answered)): (usize, &(u64, u64))| Call {
            sent: at(*sent),
            answered: at(*answered),
            id: number.to_string(),
            outcome: "succeeded".to_owned(),
        };
        times.iter().enumerate().map(call).collect()
    }

    fn told(sent: u64, failed: u64) -> Told {
        Told { calls: calls(now(), &[(0, 1), (2, 3)]), sent, failed, ..Told::default() }
    }

    #[test]
    fn an_outage_ends_when_everybody_is_answered_who_asked_after_it_began() {
        let begun = now();
        let then = begun + Duration::from_millis(1_000);
        let quick = calls(begun, &[(0, 10), (990, 1_010), (1_310, 1_330)]);
        let slow = calls(begun, &[(900, 4_000), (4_300, 4_350)]);
        let found = outage(&[quick.clone(), slow.clone()], then).unwrap();
        let expected = Outage { served_after: Duration::from_millis(3_350), longest: Duration::from_millis(3_000) };
        assert_eq!(found, expected);
        // One who has no answer yet to what was sent after it.
        assert_eq!(outage(&[quick, slow[..1].to_vec()], then), None);
    }

    #[test]
    fn less_than_one_in_a_thousand_may_fail_where_nodes_are_replaced() {
        told(10, 0).undisturbed().unwrap();
        told(1_001, 1).undisturbed().unwrap();
        for (sent, failed) in [(1_000, 1), (10, 1), (2_000, 2)] {
            let error = told(sent, failed).undisturbed().unwrap_err().to_string();
            assert!(error.contains("requests failed"), "{error}");
            told(sent, failed).outcomes().unwrap();
        }
    }

    #[test]
    fn what_was_lost_is_a_fault_only_where_no_node_was_killed() {
        let mut told = told(1_000, 0);
        told.calls[1].outcome = "lost".to_owned();
        assert_eq!(told.outcomes().unwrap()["1"], "lost");
        assert!(told.undisturbed().unwrap_err().to_string().contains("lost"));
    }

    #[test]
    fn what_was_never_answered_answered_twice_or_ended_otherwise_is_a_fault_everywhere() {
        let given_up = Told { given_up: vec!["a".to_owned()], ..told(1_000, 0) };
        let (mut twice, mut otherwise) = (told(1_000, 0), told(1_000, 0));
        twice.calls[1].id = "0".to_owned();
        otherwise.calls[1].outcome = "failed".to_owned();
        for (told, said) in [(given_up, "never answered"), (twice, "two requests"), (otherwise, "ended as failed")] {
            let error = told.outcomes().unwrap_err().to_string();
            assert!(error.contains(said) && told.undisturbed().is_err(), "{error}");
        }
    }
}
