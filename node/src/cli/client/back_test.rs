//! `wasmwiz module back-test`: what recorded executions of a module give with another version of it.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;
use wasmwiz_actors::ids::Ids;

use super::{
    Format,
    failure::Failure,
    http::{Answer, Api, EXECUTION_BYTES},
    outputs, patient, render,
};
use crate::cli::output;

/// The most executions of one call, unless it says otherwise: each of them costs what an execution costs.
const LIMIT: u32 = 1_000;

/// How long one may take: the longest that a guest may run, and what it may wait for.
const DEADLINE: Duration = Duration::from_secs(420);

/// How often it says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Differences that are printed in a table; the others are counted.
const SHOWN: usize = 10;

/// Characters of an output that are printed from where it differs.
const SHOWN_CHARS: usize = 40;

/// How many times the recorded processor time is slower.
const SLOWER_TIMES: f64 = 2.0;

/// And by how many milliseconds at least: less is the machine's doing.
const SLOWER_MS: f64 = 5.0;

/// Run recorded executions of a module with another version of it, and compare how they end. The guests see the recorded input,
/// arguments, time and random numbers, under the tenant's present limits. Each counts as an execution, and names in rerun_of the one
/// it was made of. Those that say nothing of the version, such as one that the host failed, or that now read the host's clocks, are left
/// out and counted. Each takes one of the tenant's idempotency keys for a day. Exit code 1: one ended otherwise, or none could be compared.
#[derive(Debug, Args)]
pub(super) struct BackTest {
    /// The module.
    name: String,
    /// The version to run.
    #[arg(long, value_name = "VERSION")]
    version: u32,
    /// Only executions accepted at this time or later, as in RFC 3339.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// How many at most, the newest first.
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT, value_parser = limit())]
    limit: u32,
    /// How many to run at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    at_once: u8,
}

fn limit() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=10_000)
}

/// How one compares.
#[derive(Debug)]
struct Compared {
    recorded: String,
    rerun: String,
    differences: Vec<Difference>,
    cpu_ms: (f64, f64),
}

/// What came of one, or why it says nothing.
type Tried = Result<Compared, String>;

/// One thing that is not the same.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    what: &'static str,
    recorded: String,
    found: String,
}

impl Compared {
    fn is_slower(&self) -> bool {
        let (recorded, found) = self.cpu_ms;
        found > recorded * SLOWER_TIMES && found - recorded >= SLOWER_MS
    }

    fn json(&self) -> Value {
        let differences: Vec<_> = self
            .differences
            .iter()
            .map(|one| json!({"what": one.what, "recorded": one.recorded, "found": one.found}))
            .collect();
        json!({
            "execution_id": self.recorded,
            "rerun_id": self.rerun,
            "differences": differences,
            "recorded_cpu_ms": self.cpu_ms.0,
            "found_cpu_ms": self.cpu_ms.1,
        })
    }
}

/// What came of all.
#[derive(Debug, Default)]
struct Summary {
    equal: u64,
    different: Vec<Compared>,
    slower: Vec<Compared>,
    cpu_ms: (f64, f64),
    /// Not run, by why.
    left: BTreeMap<String, u64>,
}

impl BackTest {
    /// True: each ended as it is recorded.
    pub(super) async fn run(self, api: &Api, format: Format) -> anyhow::Result<bool> {
        let (mut summary, begun) = (Summary::default(), Instant::now());
        let ids = self.listed(api, &mut summary).await?;
        if ids.is_empty() {
            output::progress(format_args!(
                "no execution of {} can be compared; run the module first, or look further back with --since",
                render::plain(&self.name)
            ));
        }
        let (count, mut said, series) = (ids.len(), begun, Ids.command().as_uuid());
        let asked = stream::iter(ids).map(|id| one(api, id, self.version, series));
        let mut asked = asked.buffer_unordered(self.at_once.into());
        let (mut broken, mut last) = (None, None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok((tried, answer)) => {
                    match tried {
                        Ok(compared) => summary.add(compared),
                        Err(why) => *summary.left.entry(why).or_default() += 1,
                    }
                    last = Some(answer);
                }
                Err(failure) if is_left(&failure) => {
                    *summary.left.entry(failure.kind().unwrap_or_default()).or_default() += 1;
                }
                // What was found until then is told all the same.
                Err(failure) => {
                    broken = Some(failure);
                    break;
                }
            }
            if said.elapsed() >= PROGRESS_EVERY {
                let (done, differ) = (summary.done(), summary.different.len());
                output::progress(format_args!("{done} of {count} run, {differ} of them different, so far"));
                said = Instant::now();
            }
        }
        if let Some(answer) = last {
            // Lists show it: the next command sees it.
            api.settle(&answer, &["v1", "executions"]).await;
        }
        if broken.is_none() || summary.done() > 0 {
            summary.show(format, broken.is_none(), begun.elapsed())?;
        }
        match broken {
            Some(failure) => Err(failure.into()),
            // That nothing could be compared is no sign that all is well.
            None => Ok(summary.different.is_empty() && summary.done() > 0),
        }
    }

    /// The ids of the executions whose end follows from their record; the others are counted.
    async fn listed(&self, api: &Api, summary: &mut Summary) -> anyhow::Result<Vec<String>> {
        let filter = [("from", self.since.clone()), ("module", Some(self.name.clone()))];
        let query: Vec<_> = filter.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let left = &mut summary.left;
        let is_wanted = |item: &Value| {
            let why = match item.get("reproducibility").and_then(Value::as_str) {
                // Those of an earlier back-test say nothing new.
                _ if item.get("rerun_of").is_some_and(Value::is_string) => "rerun",
                // Another version stops elsewhere with as much, and that says nothing.
                _ if item.get("outcome").is_some_and(|outcome| outcome == "out_of_fuel") => "out of fuel",
                Some("pure" | "virtual-time") => return true,
                class => class.unwrap_or("still running"),
            };
            *left.entry(why.to_owned()).or_default() += 1;
            false
        };
        let limit = usize::try_from(self.limit)?;
        let (items, more) = api.list_where(&["v1", "executions"], &query, limit, is_wanted).await?;
        if more {
            output::progress(format_args!("there may be more than these {}; --limit takes in more", items.len()));
        }
        Ok(items.iter().map(|item| render::at(item, "/id")).collect())
    }
}

/// Runs one with the other version. Asked for again it is not run again: `series` names this back-test.
async fn one(api: &Api, id: String, version: u32, series: Uuid) -> Result<(Tried, Answer), Failure> {
    let recorded = || api.request(Method::GET, api.at(&["v1", "executions", &id], &[]));
    let mut recorded = patient::send(api, recorded, (DEADLINE, EXECUTION_BYTES)).await?.json()?;
    outputs::complete(api, &mut recorded).await?;
    let wish = json!({"version": version, "as_recorded": true});
    let rerun = || {
        let request = api.request(Method::POST, api.at(&["v1", "executions", &id, "rerun"], &[]));
        request.header("idempotency-key", format!("{series}-{id}")).json(&wish)
    };
    let answer = patient::send(api, rerun, (DEADLINE, EXECUTION_BYTES)).await?;
    let mut found = answer.json()?;
    if outputs::is_cut(&found, "stdout") || outputs::is_cut(&found, "stderr") {
        // It is read where lists are.
        api.settle(&answer, &["v1", "executions"]).await;
        outputs::complete(api, &mut found).await?;
    }
    Ok((tried(&recorded, &found), answer))
}

/// Is it about the execution, and not about the node or whoever asks?
fn is_left(failure: &Failure) -> bool {
    ["payload-gone", "execution-not-found", "body-too-large"].iter().any(|slug| failure.is_about(slug))
}

/// What came of one, or why it says nothing of the version.
fn tried(recorded: &Value, found: &Value) -> Tried {
    let is_kept = |stream: &str| recorded.get(stream).is_some_and(Value::is_string);
    if !is_kept("stdout") || !is_kept("stderr") {
        return Err("its output is no longer kept".to_owned());
    }
    // By the host's failure, or its load. What was recorded was never cut off, so that it is now says much of the version.
    let outcome = render::plain(&render::at(found, "/outcome"));
    let is_short = found.get("reproducibility").and_then(Value::as_str) == Some("unverifiable");
    if is_short && outcome != "deadline_exceeded" || matches!(outcome.as_str(), "failed" | "lost" | "cancelled") {
        return Err(format!("inconclusive: {outcome}"));
    }
    // It was told another time than the recorded one: what differs may come of that.
    if found.get("reproducibility").and_then(Value::as_str) == Some("transcript") {
        return Err("it read the host's clocks".to_owned());
    }
    Ok(compared(recorded, found))
}

fn compared(recorded: &Value, found: &Value) -> Compared {
    let mut differences = Vec::new();
    for (what, pointers) in [
        ("outcome", &["/outcome"][..]),
        ("exit_code", &["/exit_code"]),
        ("stdout", &["/stdout", "/stdout_encoding", "/truncated/stdout"]),
        ("stderr", &["/stderr", "/stderr_encoding", "/truncated/stderr"]),
    ] {
        if pointers.iter().any(|pointer| recorded.pointer(pointer) != found.pointer(pointer)) {
            let pointer = pointers.first().copied().unwrap_or_default();
            let (recorded, found) = parting(&render::at(recorded, pointer), &render::at(found, pointer));
            differences.push(Difference { what, recorded, found });
        }
    }
    let cpu_ms = |execution: &Value| execution.pointer("/usage/cpu_ms").and_then(Value::as_f64).unwrap_or_default();
    Compared {
        recorded: render::at(recorded, "/id"),
        rerun: render::at(found, "/id"),
        differences,
        cpu_ms: (cpu_ms(recorded), cpu_ms(found)),
    }
}

/// Two texts from where they part, and where that is.
fn parting(one: &str, other: &str) -> (String, String) {
    let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let from = |text: &str| {
        let shown: String = text.chars().skip(same).take(SHOWN_CHARS).collect();
        let rest = if text.chars().count() > same + SHOWN_CHARS { "…" } else { "" };
        if same == 0 { format!("{shown:?}{rest}") } else { format!("{shown:?}{rest} after {same} characters") }
    };
    (from(one), from(other))
}

impl Summary {
    fn add(&mut self, compared: Compared) {
        self.cpu_ms = (self.cpu_ms.0 + compared.cpu_ms.0, self.cpu_ms.1 + compared.cpu_ms.1);
        if !compared.differences.is_empty() {
            self.different.push(compared);
        } else {
            self.equal += 1;
            if compared.is_slower() {
                self.slower.push(compared);
            }
        }
    }

    fn done(&self) -> u64 {
        self.equal + self.different.len() as u64
    }

    fn show(&self, format: Format, is_complete: bool, took: Duration) -> anyhow::Result<()> {
        if format != Format::Table {
            let all = |compared: &[Compared]| compared.iter().map(Compared::json).collect::<Vec<_>>();
            let whole = json!({
                "complete": is_complete,
                "run": self.done(),
                "equal": self.equal,
                "different": all(&self.different),
                "slower": all(&self.slower),
                "recorded_cpu_ms": self.cpu_ms.0,
                "found_cpu_ms": self.cpu_ms.1,
                "left": self.left,
                "seconds": took.as_secs_f64(),
            });
            return render::show_one(format, &whole);
        }
        for Compared { recorded, rerun, differences, .. } in self.different.iter().take(SHOWN) {
            for Difference { what, recorded: before, found } in differences {
                output::line(format_args!("{recorded}: {what} was {before}, and is {found} in {rerun}"));
            }
        }
        if self.different.len() > SHOWN {
            output::line(format_args!("and {} more that differ; --output json has all", self.different.len() - SHOWN));
        }
        for Compared { recorded, cpu_ms: (before, after), .. } in self.slower.iter().take(SHOWN) {
            output::line(format_args!("{recorded}: slower, {after:.1} ms of processor time instead of {before:.1}"));
        }
        for (why, count) in &self.left {
            output::line(format_args!("{count} left out: {why}"));
        }
        let (different, slower, (before, after)) = (self.different.len(), self.slower.len(), self.cpu_ms);
        let (run, equal) = (self.done(), self.equal);
        output::line(format_args!(
            "{run} run: {equal} equal, {different} different, {slower} slower; {after:.1} ms of processor time in all, \
             {before:.1} recorded"
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(id: &str, stdout: &str, cpu_ms: f64) -> Value {
        json!({
            "id": id, "outcome": "succeeded", "exit_code": 0, "stdout": stdout, "stdout_encoding": "utf-8", "stderr": "",
            "stderr_encoding": "utf-8", "truncated": {"stdout": false, "stderr": false}, "usage": {"cpu_ms": cpu_ms},
        })
    }

    #[test]
    fn what_is_the_same_has_no_difference_and_what_differs_is_shown_from_there() {
        assert_eq!(compared(&execution("a", "out", 1.0), &execution("b", "out", 1.0)).differences, []);
        let one = compared(&execution("a", "total 7 of 9", 1.0), &execution("b", "total 8 of 9", 1.0));
        let [Difference { what: "stdout", recorded, found }] = &one.differences[..] else { panic!("{one:?}") };
        assert_eq!((&**recorded, &**found), ("\"7 of 9\" after 6 characters", "\"8 of 9\" after 6 characters"));
        let exited = json!({"id": "c", "outcome": "exited", "exit_code": 3, "stdout": "out", "stdout_encoding": "utf-8",
            "stderr": "", "stderr_encoding": "utf-8", "truncated": {"stdout": true, "stderr": false}});
        let what: Vec<_> =
            compared(&execution("a", "out", 1.0), &exited).differences.iter().map(|one| one.what).collect();
        assert_eq!(what, ["outcome", "exit_code", "stdout"]);
    }

    #[test]
    fn slower_is_twice_the_time_and_more_than_the_machines_doing() {
        for (before, after, slower) in [(1.0, 5.0, false), (10.0, 19.0, false), (10.0, 21.0, true), (0.0, 5.0, true)] {
            let one = compared(&execution("a", "", before), &execution("b", "", after));
            assert_eq!(one.is_slower(), slower, "{before} {after}");
        }
    }

    #[test]
    fn what_the_host_ended_or_no_longer_keeps_says_nothing() {
        let recorded = execution("a", "out", 1.0);
        let ended = |outcome: &str| {
            let mut ended = execution("b", "out", 1.0);
            ended["outcome"] = outcome.into();
            ended
        };
        assert_eq!(tried(&recorded, &ended("failed")).unwrap_err(), "inconclusive: failed");
        let late = tried(&recorded, &ended("deadline_exceeded")).unwrap();
        assert!(matches!(&late.differences[..], [Difference { what: "outcome", .. }]), "{late:?}");
        let mut told = execution("b", "another time", 1.0);
        told["reproducibility"] = "transcript".into();
        assert_eq!(tried(&recorded, &told).unwrap_err(), "it read the host's clocks");
        let mut gone = recorded.clone();
        gone["stdout"] = Value::Null;
        assert!(tried(&gone, &recorded).is_err() && tried(&recorded, &recorded).is_ok());
    }

    #[test]
    fn what_is_slower_is_equal_all_the_same() {
        let mut summary = Summary::default();
        summary.add(compared(&execution("a", "x", 1.0), &execution("b", "x", 100.0)));
        summary.add(compared(&execution("a", "x", 1.0), &execution("b", "y", 100.0)));
        assert_eq!((summary.equal, summary.slower.len(), summary.different.len(), summary.done()), (1, 1, 1, 2));
    }
}
