//! What nodes show of what was done, held against what callers were told.

use std::{collections::BTreeMap, net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{
    load::now,
    stage::{node, numbers},
};
use crate::k8s::{http::get, trial::Tenant};

/// What is asked, with as many of each page as there can be.
const LIST: &str = "/v1/executions?limit=200";
const EVENTS: &str = "/v1/audit?limit=200";

/// The most pages of one question: more than a trial makes.
const PAGES_MAX: usize = 2_000;

/// How long the views of nodes may take until they show all that was answered, and how long is waited between two
/// looks.
const SHOWN_WITHIN: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_secs(1);

/// How many faults are shown.
const FAULTS: usize = 10;

/// What one node shows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Shown {
    /// The outcomes under which each execution is listed; an empty one where it has not ended.
    listed: BTreeMap<String, Vec<String>>,
    /// What the events say of each execution.
    audited: BTreeMap<String, Audited>,
    /// The revisions and the ids of the events of each tenant, the newest first.
    events: Vec<Vec<(u64, String)>>,
}

/// How often an execution was accepted, and how often it ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Audited {
    accepted: usize,
    ended: usize,
}

/// What all nodes show alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) executions: usize,
    pub(super) events: usize,
    pub(super) lost: usize,
}

/// Waits until every node shows what was answered, each execution with one end, and nothing else; and all the same
/// events.
///
/// # Errors
/// Says what is missing, what is there twice, and where.
pub(super) fn recorded(
    nodes: &[SocketAddr],
    tenants: &[Tenant],
    told: &BTreeMap<String, String>,
) -> anyhow::Result<Recorded> {
    let begun = now();
    loop {
        let shown = nodes.iter().map(|at| Shown::read(*at, tenants)).collect::<anyhow::Result<Vec<_>>>();
        let faults = match &shown {
            Ok(shown) => judged(told, shown),
            Err(error) => vec![format!("{error:#}")],
        };
        if let (Ok(shown), true) = (&shown, faults.is_empty()) {
            let first = shown.first().context("there is no node to ask")?;
            return Ok(Recorded {
                executions: first.listed.len(),
                events: first.events.iter().map(Vec::len).sum(),
                lost: first.listed.values().flatten().filter(|outcome| *outcome == "lost").count(),
            });
        }
        ensure!(
            begun.elapsed() < SHOWN_WITHIN,
            "nodes do not show what was answered, {} s after it: {} faults, the first of them: {:#?}",
            SHOWN_WITHIN.as_secs(),
            faults.len(),
            faults.iter().take(FAULTS).collect::<Vec<_>>()
        );
        sleep(BETWEEN);
    }
}

impl Shown {
    fn read(at: SocketAddr, tenants: &[Tenant]) -> anyhow::Result<Self> {
        let mut shown = Self::default();
        for Tenant { key } in tenants {
            each(at, key, LIST, |item| shown.list(item))?;
            let mut events = Vec::new();
            each(at, key, EVENTS, |event| {
                events.push(shown.audit(event)?);
                Ok(())
            })?;
            shown.events.push(events);
        }
        Ok(shown)
    }

    fn list(&mut self, item: &Value) -> anyhow::Result<()> {
        let outcome = item.get("outcome").and_then(Value::as_str).unwrap_or_default();
        self.listed.entry(text(item, "id")?.to_owned()).or_default().push(outcome.to_owned());
        Ok(())
    }

    /// Counts it, and gives its revision and its id.
    fn audit(&mut self, event: &Value) -> anyhow::Result<(u64, String)> {
        let is_of = |kind: &str, execution: &str| kind.starts_with(&format!("dev.wasmwiz.execution.{execution}.v"));
        let kind = text(event, "type")?;
        if let Some(execution) = text(event, "subject")?.strip_prefix("executions/") {
            let counted = self.audited.entry(execution.to_owned()).or_default();
            counted.accepted += usize::from(is_of(kind, "accepted"));
            counted.ended += usize::from(is_of(kind, "finished") || is_of(kind, "lost"));
        }
        let revision = event.get("revision").and_then(Value::as_u64);
        let revision = revision.with_context(|| format!("an event without a revision: {event}"))?;
        Ok((revision, text(event, "id")?.to_owned()))
    }
}

fn text<'v>(value: &'v Value, field: &str) -> anyhow::Result<&'v str> {
    value.get(field).and_then(Value::as_str).with_context(|| format!("what a node shows has no {field}: {value}"))
}

/// Every item of all pages of a question.
fn each(
    at: SocketAddr,
    key: &str,
    path: &str,
    mut take: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut next = path.to_owned();
    for _ in 0..PAGES_MAX {
        let page = get(&next, key).json(at, 200)?;
        for item in page.pointer("/items").and_then(Value::as_array).into_iter().flatten() {
            take(item)?;
        }
        let Some(cursor) = page.get("next_cursor").and_then(Value::as_str) else { return Ok(()) };
        next = format!("{path}&cursor={cursor}");
    }
    bail!("{at}{path} has more than {PAGES_MAX} pages")
}

/// What is wrong: of each node with what callers were told, and of the nodes among themselves.
fn judged(told: &BTreeMap<String, String>, shown: &[Shown]) -> Vec<String> {
    let mut all = Vec::new();
    for (number, one) in numbers().zip(shown) {
        let name = node(number);
        all.extend(faults(told, one).into_iter().map(|fault| format!("{name}: {fault}")));
        if shown.first().is_some_and(|first| first != one) {
            all.push(format!("{name} shows another history than {}", node(1)));
        }
    }
    all
}

/// What is wrong with what one node shows.
fn faults(told: &BTreeMap<String, String>, shown: &Shown) -> Vec<String> {
    let mut faults = Vec::new();
    for (id, outcome) in told {
        match shown.listed.get(id).map(Vec::as_slice) {
            None => faults.push(format!("execution {id} was answered, and is not listed")),
            Some([listed]) if listed == outcome => {}
            Some(listed) => {
                faults.push(format!("execution {id} was answered as {outcome}, and is listed as {listed:?}"))
            }
        }
        let Audited { accepted, ended } = shown.audited.get(id).copied().unwrap_or_default();
        if (accepted, ended) != (1, 1) {
            faults.push(format!("execution {id} was accepted {accepted} times and ended {ended} times"));
        }
    }
    let known = shown.listed.keys().chain(shown.audited.keys().filter(|id| !shown.listed.contains_key(*id)));
    let more = known.filter(|id| !told.contains_key(*id));
    faults.extend(more.map(|id| format!("execution {id} is recorded, and nobody was told of it")));
    for events in &shown.events {
        let revisions = events.iter().rev().map(|(revision, _)| *revision);
        if !revisions.eq((1_u64..).take(events.len())) {
            faults.push(format!("of {} events of a tenant, some are missing or there twice", events.len()));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(revision: u64, kind: &str, execution: &str) -> Value {
        json!({
            "id": format!("event-{revision}"),
            "revision": revision,
            "type": format!("dev.wasmwiz.{kind}.v1"),
            "subject": format!("executions/{execution}"),
        })
    }

    /// A tenant that was told of two executions, of which one was lost.
    fn told() -> BTreeMap<String, String> {
        [("a", "succeeded"), ("b", "lost")].map(|(id, outcome)| (id.to_owned(), outcome.to_owned())).into()
    }

    /// A node that shows both, and these events besides.
    fn shown(more: &[Value]) -> Shown {
        let mut shown = Shown::default();
        for (id, outcome) in told() {
            shown.list(&json!({ "id": id, "outcome": outcome })).unwrap();
        }
        let mut events = vec![
            event(1, "execution.accepted", "a"),
            event(2, "execution.accepted", "b"),
            event(3, "execution.finished", "a"),
            event(4, "execution.lost", "b"),
            event(5, "execution.verified", "a"),
        ];
        events.extend_from_slice(more);
        let mut read = events.iter().map(|event| shown.audit(event).unwrap()).collect::<Vec<_>>();
        read.reverse();
        shown.events.push(read);
        shown
    }

    fn only_fault(told: &BTreeMap<String, String>, shown: &Shown) -> String {
        let faults = faults(told, shown);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.concat()
    }

    #[test]
    fn what_was_answered_and_ended_once_is_no_fault() {
        assert_eq!(judged(&told(), &[shown(&[]), shown(&[]), shown(&[])]), [""; 0]);
    }

    #[test]
    fn an_execution_that_is_missing_is_a_fault() {
        let mut missing = shown(&[]);
        missing.listed.remove("a");
        assert!(only_fault(&told(), &missing).contains("a was answered, and is not listed"));
        let mut more = told();
        more.insert("c".to_owned(), "succeeded".to_owned());
        // Neither in the list nor in the events.
        assert_eq!(faults(&more, &shown(&[])).len(), 2);
    }

    #[test]
    fn a_second_end_a_second_acceptance_and_a_missing_end_are_faults() {
        for kind in ["finished", "lost"] {
            let twice = shown(&[event(6, &format!("execution.{kind}"), "a")]);
            assert!(only_fault(&told(), &twice).contains("a was accepted 1 times and ended 2 times"));
        }
        let again = shown(&[event(6, "execution.accepted", "b")]);
        assert!(only_fault(&told(), &again).contains("b was accepted 2 times and ended 1 times"));
        let mut open = shown(&[]);
        open.audited.get_mut("a").unwrap().ended = 0;
        assert!(only_fault(&told(), &open).contains("a was accepted 1 times and ended 0 times"));
    }

    #[test]
    fn another_outcome_a_second_line_and_what_nobody_was_told_of_are_faults() {
        let mut other = shown(&[]);
        other.listed.insert("a".to_owned(), vec!["lost".to_owned()]);
        assert!(only_fault(&told(), &other).contains("answered as succeeded, and is listed as"));
        let mut twice = shown(&[]);
        twice.list(&json!({ "id": "a", "outcome": "succeeded" })).unwrap();
        assert!(only_fault(&told(), &twice).contains("is listed as"));
        let more = shown(&[event(6, "execution.accepted", "c")]);
        assert!(only_fault(&told(), &more).contains("c is recorded, and nobody was told of it"));
    }

    #[test]
    fn an_event_that_is_missing_and_one_that_is_there_twice_are_faults() {
        let gap = shown(&[event(7, "key.issued", "a")]);
        assert!(only_fault(&told(), &gap).contains("missing"));
        let twice = shown(&[event(5, "key.issued", "a")]);
        assert!(only_fault(&told(), &twice).contains("there twice"));
    }

    #[test]
    fn nodes_that_show_different_histories_are_a_fault() {
        let mut other = shown(&[]);
        for (_, id) in other.events.iter_mut().flatten().take(1) {
            id.push('x');
        }
        assert_eq!(judged(&told(), &[shown(&[]), other]), ["node-2 shows another history than node-1"]);
    }

    #[test]
    fn an_item_without_what_it_must_have_is_an_error() {
        let mut shown = Shown::default();
        assert!(shown.list(&json!({ "outcome": "succeeded" })).is_err());
        assert!(shown.audit(&json!({ "type": "a", "subject": "b", "id": "c" })).is_err());
    }
}
