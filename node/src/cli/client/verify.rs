//! `wasmwiz exec verify`: executions run again from their records by a node, and compared.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Format, failure::Failure, http::Api, patient, render};
use crate::cli::output;

/// The most executions of one call: what a list is read up to.
const ALL_MAX: usize = 200_000;

/// How long one may take: the longest that a guest may run, and what it may wait for.
const DEADLINE: Duration = Duration::from_secs(420);

/// How often it says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const ANSWER_BYTES: usize = 1 << 20;

/// Run executions again from their records, and compare how they end with what is recorded. The node records what came of each, and
/// counts each as an execution. Exit code 1: one did not give what is recorded.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Which.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All that are listed. Those whose end does not follow from their record are left out and counted.
    #[arg(long)]
    all: bool,
    /// With --all: only those accepted at this time or later, as in RFC 3339.
    #[arg(long, value_name = "TIME", requires = "all")]
    since: Option<String>,
    /// With --all: only of this module.
    #[arg(long, requires = "all")]
    module: Option<String>,
    /// How many to ask for at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    at_once: u8,
}

/// What came of all.
#[derive(Debug, Default)]
struct Summary {
    reproduced: u64,
    /// As the node answered.
    not_reproduced: Vec<Value>,
    /// Not run again, by why.
    left: BTreeMap<String, u64>,
}

impl Verify {
    /// True: all that could be run again gave what is recorded.
    pub(super) async fn run(self, api: &Api, format: Format) -> anyhow::Result<bool> {
        let (mut summary, begun) = (Summary::default(), Instant::now());
        let ids = if self.all { self.listed(api, &mut summary).await? } else { self.ids.clone() };
        let (count, mut said) = (ids.len(), begun);
        let mut asked = stream::iter(ids).map(|id| one(api, id)).buffer_unordered(self.at_once.into());
        let mut broken = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) if answer.get("reproduced") == Some(&Value::Bool(true)) => summary.reproduced += 1,
                Ok(answer) => summary.not_reproduced.push(answer),
                // One that was asked for by name is to be told of; of all, those are counted.
                Err(failure) if self.all && is_left(&failure) => {
                    *summary.left.entry(failure.kind().unwrap_or_default()).or_default() += 1;
                }
                // What was found until then is told all the same.
                Err(failure) => {
                    broken = Some(failure);
                    break;
                }
            }
            if said.elapsed() >= PROGRESS_EVERY {
                let (done, differ) = (summary.done(), summary.not_reproduced.len());
                output::progress(format_args!("{done} of {count} verified, {differ} of them not reproduced, so far"));
                said = Instant::now();
            }
        }
        if broken.is_none() || summary.done() > 0 {
            summary.show(format, broken.is_none(), begun.elapsed())?;
        }
        if let Some(failure) = broken {
            return Err(failure.into());
        }
        Ok(summary.not_reproduced.is_empty())
    }

    /// The ids of all that may be reproduced; the others are counted.
    async fn listed(&self, api: &Api, summary: &mut Summary) -> anyhow::Result<Vec<String>> {
        let filter = [("from", self.since.clone()), ("module", self.module.clone())];
        let query: Vec<_> = filter.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let (items, more) = api.list(&["v1", "executions"], &query, ALL_MAX).await?;
        if more {
            output::progress(format_args!("there are more than these {}; --since leaves some out", items.len()));
        }
        let mut ids = Vec::with_capacity(items.len());
        for item in &items {
            match item.get("reproducibility").and_then(Value::as_str) {
                Some("pure" | "virtual-time" | "transcript") => ids.push(render::at(item, "/id")),
                class => *summary.left.entry(class.unwrap_or("still running").to_owned()).or_default() += 1,
            }
        }
        Ok(ids)
    }
}

/// Has one verified. A verification may be asked for twice without harm.
async fn one(api: &Api, id: String) -> Result<Value, Failure> {
    let request = || api.request(Method::POST, api.at(&["v1", "executions", &id, "verify"], &[]));
    patient::send(api, request, (DEADLINE, ANSWER_BYTES)).await?.json()
}

/// Is it about the execution, and not about the node or whoever asks?
fn is_left(failure: &Failure) -> bool {
    ["not-verifiable", "execution-running", "payload-gone", "execution-not-found"]
        .iter()
        .any(|slug| failure.is_about(slug))
}

impl Summary {
    fn done(&self) -> u64 {
        self.reproduced + self.not_reproduced.len() as u64
    }

    fn show(&self, format: Format, is_complete: bool, took: Duration) -> anyhow::Result<()> {
        let (done, differ, seconds) = (self.done(), self.not_reproduced.len(), took.as_secs_f64());
        if format != Format::Table {
            let whole = json!({
                "complete": is_complete,
                "verified": done,
                "reproduced": self.reproduced,
                "not_reproduced": self.not_reproduced,
                "left": self.left,
                "seconds": seconds,
            });
            return render::show_one(format, &whole);
        }
        for answer in &self.not_reproduced {
            for difference in answer.get("differences").and_then(Value::as_array).into_iter().flatten() {
                let at = |pointer| render::at(difference, pointer);
                output::line(format_args!(
                    "{}: {} is recorded as {}, and was {}",
                    render::at(answer, "/execution_id"),
                    at("/what"),
                    at("/recorded"),
                    at("/found")
                ));
            }
        }
        for (why, count) in &self.left {
            output::line(format_args!("{count} left out: {why}"));
        }
        let rate = done as f64 / seconds.max(0.001);
        let verdict = if differ == 0 { "each gave what is recorded".to_owned() } else { format!("{differ} DID NOT") };
        output::line(format_args!("{done} run again, {rate:.0} a second: {verdict}"));
        Ok(())
    }
}
