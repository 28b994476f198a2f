//! Deployments and rollbacks, from their records.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;

use crate::{
    checks::files_below,
    deploy::record::Record,
    process::{command, read},
};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// How many there were, and how the last of each environment was.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Deployments {
    /// By environment, kind and outcome.
    pub(super) counted: BTreeMap<(String, String, String), u64>,
    /// By environment.
    pub(super) last: BTreeMap<String, Last>,
}

/// The last that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Last {
    /// When it ended, in seconds since 1970.
    pub(super) at: i64,
    /// How long its steps took.
    pub(super) seconds: f64,
    pub(super) image: String,
}

impl Deployments {
    /// Reads the records in a folder and below it; a file that is none is passed over, with a word.
    pub(super) fn read(folder: &Path, now: i64, days: u32) -> anyhow::Result<Self> {
        let mut deployments = Self::default();
        let mut files = files_below(folder).with_context(|| format!("cannot look into {}", folder.display()))?;
        files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            match Record::parse(&text) {
                Ok(record) => deployments.add(&record, now, days)?,
                Err(error) => eprintln!("pipeline: {}: {error:#}", file.display()),
            }
        }
        Ok(deployments)
    }

    fn add(&mut self, record: &Record, now: i64, days: u32) -> anyhow::Result<()> {
        let began = seconds(record.began_at())?;
        // What was refused before it changed anything is none.
        if !record.changed || began < now - i64::from(days) * DAY {
            return Ok(());
        }
        let (environment, outcome) = (record.environment().to_owned(), record.outcome().to_owned());
        let kind = record.kind().noun().to_owned();
        if outcome == "succeeded" {
            let last =
                Last { at: seconds(record.ended_at())?, seconds: record.seconds(), image: record.image().to_owned() };
            let newest = self.last.entry(environment.clone()).or_insert_with(|| last.clone());
            if newest.at < last.at {
                *newest = last;
            }
        }
        *self.counted.entry((environment, kind, outcome)).or_default() += 1;
        Ok(())
    }
}

/// A time in RFC 3339, in seconds since 1970.
fn seconds(time: &str) -> anyhow::Result<i64> {
    let read = read(command("date").args(["--utc", "--date", time, "+%s"])).context("a record has no time")?;
    read.parse().with_context(|| format!("{time} is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, changed: bool, outcome: &str, day: u32) -> String {
        format!(
            r#"{{"kind": "{kind}", "environment": "staging", "namespace": "a", "image": "b@c", "revision": "d", "reason": "", "by": "",
                "run": "", "previous": null, "changed": {changed}, "began_at": "2026-11-{day:02}T10:00:00Z",
                "ended_at": "2026-11-{day:02}T10:05:00Z", "outcome": "{outcome}", "error": null,
                "steps": [{{"name": "x", "seconds": 1.5, "outcome": "done"}}, {{"name": "y", "seconds": 2, "outcome": "done"}}]}}"#
        )
    }

    #[test]
    fn what_changed_something_in_the_last_days_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("deployment-staging");
        fs::create_dir(&below).unwrap();
        for (name, text) in [
            ("1", record("deployment", true, "succeeded", 20)),
            ("2", record("deployment", true, "succeeded", 21)),
            ("3", record("deployment", true, "failed", 22)),
            ("4", record("rollback", true, "succeeded", 22)),
            ("5", record("deployment", false, "failed", 23)),
            ("6", record("deployment", true, "succeeded", 1)),
            ("7", "{}".to_owned()),
        ] {
            fs::write(below.join(format!("{name}.json")), text).unwrap();
        }
        let now = seconds("2026-11-30T00:00:00Z").unwrap();
        let deployments = Deployments::read(folder.path(), now, 14).unwrap();
        let counted: Vec<_> =
            deployments.counted.iter().map(|((_, kind, outcome), count)| (&**kind, &**outcome, *count)).collect();
        let expected = [("deployment", "failed", 1), ("deployment", "succeeded", 2), ("rollback", "succeeded", 1)];
        assert_eq!(counted, expected);
        let last = &deployments.last["staging"];
        assert_eq!((last.at, last.seconds), (seconds("2026-11-22T10:05:00Z").unwrap(), 3.5));
        assert!(Deployments::read(&folder.path().join("none"), now, 14).is_err());
    }
}
