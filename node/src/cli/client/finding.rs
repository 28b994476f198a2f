//! What a look at a node has found, and what to do about it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use super::{render, table::Table};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// Something is not served, or is about not to be.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    /// How it is.
    pub(super) grade: Grade,
    /// In words.
    pub(super) message: String,
    /// What to do, where there is something to do.
    pub(super) remedy: Option<Cow<'static, str>>,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, message: message.into(), remedy: None }
    }

    /// Somebody should know.
    pub(super) fn warning(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { check, grade: Grade::Warning, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// Something has to be done.
    pub(super) fn bad(check: &'static str, message: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { check, grade: Grade::Bad, message: message.into(), remedy: Some(remedy.into()) }
    }
}

/// The worst grade of these.
pub(super) fn worst(findings: &[Finding]) -> Grade {
    findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok)
}

/// For programs: the worst grade, and each finding.
pub(super) fn document(findings: &[Finding]) -> Value {
    json!({"grade": worst(findings), "findings": findings})
}

/// For people: a row a finding, and under it what to do.
pub(super) fn table(document: &Value) -> Table {
    let mut table = Table::new(&["CHECK", "GRADE", "FOUND"]);
    for finding in document.get("findings").and_then(Value::as_array).into_iter().flatten() {
        let at = |pointer| render::at(finding, pointer);
        table.row([at("/check"), at("/grade"), at("/message")]);
        if let Some(remedy) = finding.get("remedy").and_then(Value::as_str) {
            table.row([String::new(), "do".to_owned(), remedy.to_owned()]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::render::Paint;

    #[test]
    fn the_worst_counts_and_each_remedy_stands_under_what_it_is_for() {
        assert_eq!(worst(&[]), Grade::Ok);
        let findings = [
            Finding::ok("nodes", "three"),
            Finding::bad("shards", "shard 7 has no owner", "look"),
            Finding::warning("clock", "2 s off", "set it"),
        ];
        let document = document(&findings);
        assert_eq!((worst(&findings), &document["grade"]), (Grade::Bad, &json!("bad")));
        assert_eq!(
            document["findings"][0],
            json!({"check": "nodes", "grade": "ok", "message": "three", "remedy": null})
        );
        let lines = [
            "CHECK   GRADE    FOUND",
            "nodes   ok       three",
            "shards  bad      shard 7 has no owner",
            "        do       look",
            "clock   warning  2 s off",
            "        do       set it",
        ];
        assert_eq!(table(&document).lines(Paint::OFF), lines);
    }
}
