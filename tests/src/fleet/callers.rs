//! Callers that go on through everything: each request has an idempotency key, and is sent again, to one node after the
//! other, until it is answered.

use std::{
    collections::BTreeSet,
    fmt, iter,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use reqwest::{Method, StatusCode};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use wasmwiz_events::id::ExecutionId;

use crate::{client::Client, harness::NodeProcess, history::History, tenants::Tenant, wait};

/// After this a test that waits for answers has failed. Longer than anything that a test does to a cluster.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// After this a request that nobody answered is given up; a test that waits for it says more before.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(90);

/// How long one node is given for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// How long a caller rests between two requests: what is asked is what becomes of each, not how many there can be.
const REST: Duration = Duration::from_millis(25);

/// How long before it is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// How many of the first refusals of a request are shown, beside the last.
const SHOWN: usize = 6;

/// One request, from its first sending to its answer.
#[derive(Debug, Clone)]
pub struct Call {
    /// The tenant's id.
    pub tenant: String,
    /// When it was sent first.
    pub sent: Instant,
    /// How long it took.
    pub took: Duration,
    /// How often it was sent.
    pub tries: u32,
    /// What was said of those that failed.
    pub failed: Vec<String>,
    /// What was said in the end.
    pub said: Said,
}

/// What was said of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// This execution came of it, with this outcome.
    Ran(ExecutionId, String),
    /// Nobody knew in time, or it was refused: the last that was said.
    Nothing(String),
}

/// What a caller waits for.
struct Waiting {
    key: String,
    sent: Instant,
    /// What it was told at first and last, while that is no answer.
    told: Vec<String>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, sent, told } = self;
        write!(f, "{key} waits since {:?}; it was told {told:?}", sent.elapsed())
    }
}

/// Callers at work.
pub struct Callers {
    urls: Arc<RwLock<Vec<String>>>,
    stop: Arc<AtomicBool>,
    /// How many requests of each caller were answered.
    answered: Arc<[AtomicU64]>,
    /// What each waits for.
    waits: Arc<[Mutex<Waiting>]>,
    tasks: Vec<JoinHandle<Vec<Call>>>,
}

impl Callers {
    /// Sends `each` callers of every tenant to work.
    pub fn begin(nodes: &[NodeProcess], tenants: &[Tenant], each: usize) -> Self {
        let urls = Arc::new(RwLock::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let all = tenants.len() * each;
        let answered = (0..all).map(|_| AtomicU64::new(0)).collect();
        let nothing = || Waiting { key: String::new(), sent: Instant::now(), told: Vec::new() };
        let waits = (0..all).map(|_| Mutex::new(nothing())).collect();
        let mut callers = Self { urls, stop, answered, waits, tasks: Vec::new() };
        callers.nodes_are(nodes);
        for (number, tenant) in tenants.iter().flat_map(|tenant| iter::repeat_n(tenant, each)).enumerate() {
            let caller = Caller {
                number,
                urls: Arc::clone(&callers.urls),
                stop: Arc::clone(&callers.stop),
                answered: Arc::clone(&callers.answered),
                waits: Arc::clone(&callers.waits),
                tenant: tenant.id.clone(),
                client: tenant.client.clone(),
            };
            callers.tasks.push(tokio::spawn(caller.work()));
        }
        callers
    }

    /// The nodes are here now.
    pub fn nodes_are(&self, nodes: &[NodeProcess]) {
        self.nodes_are_but(nodes, usize::MAX);
    }

    /// The same, and nothing more is sent to one of them.
    pub fn nodes_are_but(&self, nodes: &[NodeProcess], but: usize) {
        let others = nodes.iter().enumerate().filter(|(number, _)| *number != but);
        let all = others.map(|(_, node)| node.ready().url.clone()).collect();
        *self.urls.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Waits until each caller was answered so many more times.
    ///
    /// # Errors
    /// When one is not within a minute.
    pub async fn each_answered(&self, more: u64) -> anyhow::Result<()> {
        let count = || self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = count();
        let seen = wait::until("an answer to every caller", ANSWERED_WITHIN, async || {
            Ok(count().iter().zip(&before).all(|(now, then)| *now >= then + more).then_some(()))
        });
        seen.await.with_context(|| {
            let now = count();
            let waits = now.iter().zip(&before).zip(self.waits.iter()).filter(|((now, then), _)| **now < *then + more);
            let told = waits.map(|(_, waits)| waits.lock().unwrap_or_else(PoisonError::into_inner).to_string());
            format!("there were {before:?}, now {now:?}; {:#?}", told.collect::<Vec<_>>())
        })
    }

    /// Lets every caller finish, and gives what all of them were told, by the time of their sending.
    ///
    /// # Errors
    /// When a caller panicked.
    pub async fn end(self) -> anyhow::Result<Vec<Call>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for task in self.tasks {
            calls.extend(task.await.context("a caller panicked")?);
        }
        calls.sort_by_key(|call| call.sent);
        Ok(calls)
    }
}

/// One of them.
struct Caller {
    number: usize,
    urls: Arc<RwLock<Vec<String>>>,
    stop: Arc<AtomicBool>,
    answered: Arc<[AtomicU64]>,
    waits: Arc<[Mutex<Waiting>]>,
    tenant: String,
    client: Client,
}

impl Caller {
    async fn work(self) -> Vec<Call> {
        let (mut calls, mut turn) = (Vec::new(), self.number);
        while !self.stop.load(Ordering::Relaxed) {
            let key = format!("caller-{}-{}", self.number, calls.len());
            let (sent, mut tries, mut failed) = (Instant::now(), 0, Vec::new());
            let said = loop {
                if sent.elapsed() > GIVEN_UP_AFTER {
                    break Said::Nothing(failed.last().cloned().unwrap_or_default());
                }
                tries += 1;
                if let Some(waits) = self.waits.get(self.number) {
                    let told = failed.iter().take(SHOWN).chain(failed.last()).cloned().collect();
                    *waits.lock().unwrap_or_else(PoisonError::into_inner) = Waiting { key: key.clone(), sent, told };
                }
                match self.try_once(turn, &key).await {
                    Ok(said) => break said,
                    // Another node may know more.
                    Err(why) => {
                        failed.push(format!("after {:?}: {why}", sent.elapsed()));
                        turn += 1;
                    }
                }
                sleep(PAUSE).await;
            };
            if let (Said::Ran(..), Some(answered)) = (&said, self.answered.get(self.number)) {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            let tenant = self.tenant.clone();
            calls.push(Call { tenant, sent, took: sent.elapsed(), tries, failed, said });
            turn += 1;
            sleep(REST).await;
        }
        calls
    }

    async fn try_once(&self, turn: usize, key: &str) -> Result<Said, String> {
        let url = {
            let urls = self.urls.read().unwrap_or_else(PoisonError::into_inner);
            urls.get(turn % urls.len().max(1)).cloned().ok_or("there is no node")?
        };
        let client = self.client.at(&url);
        let request = client.request(Method::POST, "/v1/modules/echo/executions").header("idempotency-key", key);
        let asked = tokio::time::timeout(ANSWER_WITHIN, client.send(request.body(key.to_owned())));
        let answer = asked.await.map_err(|_| format!("{url}: no answer in time"))?;
        let answer = answer.map_err(|error| format!("{url}: {error:#}"))?;
        if answer.status != StatusCode::OK {
            return Err(format!("{url}: {} {}", answer.status, answer.text()));
        }
        let ran: Ran = answer.json().map_err(|error| format!("{url}: {error:#}"))?;
        let id = ran.id.parse().map_err(|_| format!("{url}: {} is no id", ran.id))?;
        // A guest that ran gives back what it was given.
        if ran.outcome == "succeeded" && ran.stdout.as_deref() != Some(key) {
            return Err(format!("{url}: {:?} was answered to {key}", ran.stdout));
        }
        Ok(Said::Ran(id, ran.outcome))
    }
}

/// What an answer says.
#[derive(serde::Deserialize)]
struct Ran {
    id: String,
    outcome: String,
    /// Nothing, of one that was lost.
    stdout: Option<String>,
}

/// How long somebody waited because of what happened at `then`: the longest time from it, or from the sending of a request
/// after it, to the answer.
pub fn outage(calls: &[Call], then: Instant, until: Instant) -> Duration {
    let touched = calls.iter().filter(|call| call.sent < until && call.sent + call.took > then);
    touched.map(|call| (call.sent + call.took).duration_since(call.sent.max(then))).max().unwrap_or_default()
}

/// What was said is what is recorded: each answered execution has that one end, and no request gave two executions.
///
/// # Errors
/// Names the first that is not so.
pub fn said_what_is_recorded(calls: &[Call], history: &History) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for call in calls {
        let Said::Ran(id, outcome) = &call.said else { continue };
        ensure!(seen.insert(*id), "two requests were answered with execution {id}");
        let recorded = history.executions.get(id).with_context(|| format!("{id} was answered and is not recorded"))?;
        let ends: Vec<_> = recorded.ends.iter().map(|end| end.outcome().as_str()).collect();
        ensure!(ends == [outcome.as_str()], "{id} was answered as {outcome}, and is recorded as {ends:?}");
    }
    Ok(())
}
