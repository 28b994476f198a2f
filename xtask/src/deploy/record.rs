//! What was deployed, by whom, over what, and what came of it: one file for machines, one paragraph for people.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Deployment, cluster::Running, plan};
use crate::{
    k8s::policy::Environment,
    process::{command, read},
};

/// Which way it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// To a version that was chosen for what it is.
    Deployment,
    /// Back from one that did not do.
    Rollback,
}

impl Kind {
    /// Its name in a sentence.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Rollback => "rollback",
        }
    }
}

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    kind: Kind,
    environment: String,
    namespace: String,
    /// Repository and digest.
    image: String,
    revision: String,
    reason: String,
    by: String,
    run: String,
    /// What ran there before.
    pub(crate) previous: Option<Previous>,
    /// Did it get so far that anything was changed?
    pub(crate) changed: bool,
    began_at: String,
    ended_at: String,
    outcome: String,
    error: Option<String>,
    /// What else is to be known.
    #[serde(default)]
    notes: Vec<String>,
    steps: Vec<Step>,
    /// Where it is kept.
    #[serde(skip)]
    file: Option<PathBuf>,
}

/// What ran before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    /// Repository and digest.
    pub(crate) image: String,
    /// The commit; nothing where what ran did not say it.
    pub(crate) revision: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    name: String,
    seconds: f64,
    outcome: String,
}

impl Record {
    pub(crate) fn begun(
        environment: &Environment,
        deployment: &Deployment,
        by: &str,
        run: &str,
        file: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let record = Self {
            kind: deployment.kind,
            environment: environment.name.to_owned(),
            namespace: environment.namespace.to_owned(),
            image: plan::reference(deployment),
            revision: deployment.revision.clone(),
            reason: deployment.reason.clone(),
            by: by.to_owned(),
            run: run.to_owned(),
            previous: None,
            changed: false,
            began_at: time()?,
            ended_at: String::new(),
            outcome: "under way".to_owned(),
            error: None,
            notes: Vec::new(),
            steps: Vec::new(),
            file,
        };
        record.keep()?;
        Ok(record)
    }

    /// Writes it to its file: before the first change and after each step, so that whatever ends this program leaves it there.
    fn keep(&self) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let whole = file.with_extension("json.new");
        let written = fs::write(&whole, self.to_json()? + "\n").and_then(|()| fs::rename(&whole, file));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    /// From here on the environment may be another.
    pub(crate) fn changes(&mut self) -> anyhow::Result<()> {
        self.changed = true;
        self.keep()
    }

    pub(super) fn note(&mut self, note: String) {
        eprintln!("deploy: {note}");
        self.notes.push(note);
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text).context("this is no record of a deployment")
    }

    /// Does a step, and writes down how it went.
    pub(crate) fn step<T>(&mut self, name: &str, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        eprintln!("deploy: {name}");
        let begun = now();
        let done = act();
        let outcome = if done.is_ok() { "done" } else { "failed" }.to_owned();
        self.steps.push(Step { name: name.to_owned(), seconds: begun.elapsed().as_secs_f64(), outcome });
        let kept = self.keep();
        let done = done?;
        kept.map(|()| done)
    }

    pub(super) fn before(&mut self, running: Option<&Running>) {
        self.previous =
            running.map(|running| Previous { image: running.image.clone(), revision: running.revision.clone() });
    }

    pub(crate) fn end(&mut self, outcome: &anyhow::Result<()>) -> anyhow::Result<()> {
        self.ended_at = time()?;
        self.outcome = if outcome.is_ok() { "succeeded" } else { "failed" }.to_owned();
        self.error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        self.keep()
    }

    /// Which way it went.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it went.
    pub(crate) fn environment(&self) -> &str {
        &self.environment
    }

    /// Repository and digest.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// When it began, in RFC 3339.
    pub(crate) fn began_at(&self) -> &str {
        &self.began_at
    }

    /// When it ended, in RFC 3339; empty while it is under way, and where it was killed.
    pub(crate) fn ended_at(&self) -> &str {
        &self.ended_at
    }

    /// `succeeded`, `failed`, or `under way`.
    pub(crate) fn outcome(&self) -> &str {
        &self.outcome
    }

    /// How long its steps took together.
    pub(crate) fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.seconds).sum()
    }

    fn to_json(&self) -> anyhow::Result<String> {
        serde_json::to_string_pretty(self).context("the record cannot be written")
    }

    pub(crate) fn to_markdown(&self) -> String {
        let Self { environment, image, revision, outcome, began_at, ended_at, .. } = self;
        let noun = self.kind.noun();
        let mut text = format!("### The {noun} to {environment} {outcome}\n\n| | |\n|---|---|\n");
        let previous = self.previous.as_ref().map_or("nothing", |previous| previous.image.as_str());
        let rows = [
            ("image", image.as_str()),
            ("commit", revision),
            ("before it", previous),
            ("reason", &self.reason),
            ("by", &self.by),
            ("began", began_at),
            ("ended", ended_at),
        ];
        for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("| {name} | `{}` |\n", one_line(value)));
        }
        for note in &self.notes {
            text.push_str(&format!("| note | {} |\n", one_line(note)));
        }
        for Step { name, seconds, outcome } in &self.steps {
            text.push_str(&format!("| {name} | {outcome} in {seconds:.1} s |\n"));
        }
        if let Some(error) = &self.error {
            text.push_str(&format!("\n```text\n{}\n```\n", error.replace("```", "'''")));
        }
        text
    }
}

/// What somebody typed stays in its cell.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '|', '`'], " ")
}

/// The time of the machine, in RFC 3339.
fn time() -> anyhow::Result<String> {
    read(command("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))
}

#[expect(clippy::disallowed_methods, reason = "a chore tells people how long it took; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}
