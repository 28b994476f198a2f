//! Callers that go on through everything: each request has an idempotency key, and is sent again until it is answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use serde_json::Value;

use crate::k8s::{
    http::{Kept, Request},
    trial::Tenant,
};

/// Of a thousand requests that are sent, at most one may fail.
const FAILED_MAX_PER_MILLE: u64 = 1;

/// After this a request is given up. Longer than anything that is done to the nodes.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(120);

/// How long a caller rests between two requests, and before it sends one again.
const REST: Duration = Duration::from_millis(25);
const PAUSE: Duration = Duration::from_millis(100);

/// How long another answer to every caller may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(150);

/// How many failures are kept to be shown.
const SHOWN: usize = 20;

/// What all callers of a tenant were told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The outcome of each execution that was answered.
    pub(super) outcomes: BTreeMap<String, String>,
    /// How many requests were sent, and how many of them got no answer.
    pub(super) sent: u64,
    pub(super) failed: u64,
    /// The longest that a request waited for its answer.
    pub(super) longest: Duration,
    /// What was said of the first that failed.
    pub(super) said: Vec<String>,
    /// What was never answered.
    given_up: Vec<String>,
}

/// Callers at work.
pub(super) struct Callers {
    stop: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Told>>,
}

impl Callers {
    /// Sends callers to work, each as one of these tenants.
    pub(super) fn begin(service: SocketAddr, tenants: &[Tenant], count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut answered, mut threads) = (Vec::new(), Vec::new());
        for (number, tenant) in (0..count).zip(tenants.iter().cycle()) {
            let counted = Arc::new(AtomicU64::new(0));
            let caller = Caller {
                number,
                service,
                key: tenant.key.clone(),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&counted),
            };
            answered.push(counted);
            threads.push(thread::spawn(move || caller.work()));
        }
        Self { stop, answered, threads }
    }

    /// Waits until each caller was answered so many more times.
    pub(super) fn each_answered(&self, more: u64) -> anyhow::Result<()> {
        let count = || self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let (before, begun) = (count(), now());
        while count().iter().zip(&before).any(|(now, then)| *now < then + more) {
            ensure!(
                begun.elapsed() < ANSWERED_WITHIN,
                "callers wait: they had {before:?} answers, and now {:?}",
                count()
            );
            sleep(REST);
        }
        Ok(())
    }

    /// Lets every caller finish, and gives what all were told.
    pub(super) fn end(self) -> anyhow::Result<Told> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for thread in self.threads {
            let told = thread.join().map_err(|_| anyhow!("a caller panicked"))?;
            for (id, outcome) in told.outcomes {
                ensure!(
                    all.outcomes.insert(id.clone(), outcome).is_none(),
                    "two requests were answered with execution {id}"
                );
            }
            all.sent += told.sent;
            all.failed += told.failed;
            all.longest = all.longest.max(told.longest);
            all.said.extend(told.said);
            all.given_up.extend(told.given_up);
        }
        Ok(all)
    }
}

impl Told {
    /// For people.
    pub(super) fn line(&self) -> String {
        let Self { outcomes, sent, failed, longest, .. } = self;
        let percent = *failed as f64 * 100.0 / (*sent).max(1) as f64;
        format!(
            "{} executions were answered; {failed} of {sent} requests failed ({percent:.3} %); the longest answer took {:.1} s",
            outcomes.len(),
            longest.as_secs_f64()
        )
    }

    /// # Errors
    /// When too many requests failed, one was never answered, or an execution did not succeed.
    pub(super) fn is_well(&self) -> anyhow::Result<()> {
        let Self { sent, failed, said, given_up, outcomes, .. } = self;
        ensure!(given_up.is_empty(), "requests were never answered: {given_up:?}");
        ensure!(failed * 1_000 <= sent * FAILED_MAX_PER_MILLE, "{failed} of {sent} requests failed: {said:#?}");
        let other = outcomes.iter().find(|(_, outcome)| *outcome != "succeeded");
        ensure!(other.is_none(), "an execution of a guest that always succeeds ended otherwise: {other:?}");
        Ok(())
    }
}

struct Caller {
    number: usize,
    service: SocketAddr,
    key: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Caller {
    fn work(&self) -> Told {
        let (mut told, mut turn) = (Told::default(), 0_u64);
        let mut kept = Kept::default();
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let (name, begun) = (format!("caller-{}-{turn}", self.number), now());
            loop {
                told.sent += 1;
                match self.ask(&name, &mut kept) {
                    Ok((id, outcome)) => {
                        told.longest = told.longest.max(begun.elapsed());
                        told.outcomes.insert(id, outcome);
                        self.answered.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Err(error) => {
                        told.failed += 1;
                        if told.said.len() < SHOWN {
                            told.said.push(format!("{name}, after {:.1} s: {error:#}", begun.elapsed().as_secs_f64()));
                        }
                    }
                }
                if begun.elapsed() > GIVEN_UP_AFTER {
                    told.given_up.push(name);
                    break;
                }
                sleep(PAUSE);
            }
            sleep(REST);
        }
        told
    }

    /// Runs the echo once. Gives the execution and its outcome. Every other caller keeps its connection, as a proxy does, and so stays
    /// with its node until that closes it.
    fn ask(&self, name: &str, kept: &mut Kept) -> anyhow::Result<(String, String)> {
        let headers = [("Idempotency-Key", name), ("Content-Type", "text/plain")];
        let path = "/v1/modules/echo/executions";
        let answer = Request { method: "POST", path, key: &self.key, headers: &headers, body: name.as_bytes() };
        let answer = match self.number % 2 {
            0 => answer.send(self.service),
            _ => answer.send_over(kept, self.service),
        };
        let answer = answer?.json(path, 200)?;
        let text = |field: &str| answer.get(field).and_then(Value::as_str).map(str::to_owned);
        let (Some(id), Some(outcome)) = (text("id"), text("outcome")) else {
            return Err(anyhow!("no execution: {answer}"));
        };
        // A guest that ran gives back what it was given.
        ensure!(outcome != "succeeded" || text("stdout").as_deref() == Some(name), "another's echo: {answer}");
        Ok((id, outcome))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a chore measures how long answers take; nothing of the product is decided by it"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sent: u64, failed: u64) -> Told {
        Told { sent, failed, outcomes: BTreeMap::from([("a".to_owned(), "succeeded".to_owned())]), ..Told::default() }
    }

    #[test]
    fn one_failure_in_a_thousand_is_the_most() {
        told(1_000, 1).is_well().unwrap();
        assert!(told(999, 1).is_well().is_err() && told(1_000, 2).is_well().is_err());
    }

    #[test]
    fn what_was_never_answered_and_what_was_lost_are_faults_whatever_the_rate() {
        assert!(Told { given_up: vec!["b".to_owned()], ..told(1_000, 0) }.is_well().is_err());
        let mut lost = told(1_000, 0);
        lost.outcomes.insert("b".to_owned(), "lost".to_owned());
        assert!(lost.is_well().unwrap_err().to_string().contains("lost"));
    }
}
