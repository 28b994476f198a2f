//! `cargo xtask pipeline`: what the pipeline did, as a summary for people and as metrics for the dashboard.

mod deployments;
mod gathered;
mod junit;
mod metrics;
mod page;
mod scan;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::Value;

pub(crate) use self::gathered::Step as Kept;
use self::{
    deployments::Deployments,
    gathered::{Gathered, Job, Step},
};
use crate::{
    checks::files_below,
    process::{command, read},
};

/// Write what a run of the pipeline did: its jobs, tests, checks and scans, and how often was deployed
///
/// Reads what the jobs have left: the results of nextest, the times that `cargo xtask ci --times` has kept, the findings of Grype, the
/// records of deployments. Each is left out where it is not given. The file is in the text format of Prometheus: an exporter's textfile
/// collector serves it, and docs/observability/pipeline.json shows it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The outcomes of the jobs, as the workflow's `needs` has them: JSON
    #[arg(long, value_name = "JSON")]
    jobs: Option<String>,
    /// A folder with what jobs have left: results of nextest in JUnit's format (`*.xml`), times of checks (`*.jsonl`), findings of Grype
    /// (`scan-*.json`)
    #[arg(long, value_name = "FOLDER")]
    left: Option<PathBuf>,
    /// A folder with records of deployments and rollbacks, in it or below it
    #[arg(long, value_name = "FOLDER")]
    records: Option<PathBuf>,
    /// How many days back deployments are counted
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u32,
    /// Where to write the metrics
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A file to which the summary is added
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let now = read(command("date").args(["--utc", "+%s"]))?.parse().context("the machine has no clock")?;
    let gathered = arguments.gather(now)?;
    if let Some(file) = &arguments.output {
        // Whoever collects it never sees half of it.
        let whole = file.with_extension("prom.new");
        let written = fs::write(&whole, metrics::text(&gathered)).and_then(|()| fs::rename(&whole, file));
        written.with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("pipeline: metrics are in {}", file.display());
    }
    let page = page::markdown(&gathered);
    match &arguments.summary {
        Some(file) => {
            let opened = fs::OpenOptions::new().create(true).append(true).open(file);
            let written = opened.and_then(|mut opened| opened.write_all(page.as_bytes()));
            written.with_context(|| format!("cannot write {}", file.display()))?;
        }
        None => eprintln!("{page}"),
    }
    Ok(())
}

impl Arguments {
    fn gather(&self, now: i64) -> anyhow::Result<Gathered> {
        let mut gathered = Gathered { at: now, days: self.days, ..Gathered::default() };
        if let Some(jobs) = &self.jobs {
            gathered.jobs = jobs_of(jobs)?;
        }
        if let Some(folder) = &self.left {
            for file in files_below(folder)? {
                gathered.add(&file).with_context(|| file.display().to_string())?;
            }
        }
        if let Some(folder) = &self.records {
            gathered.deployments = Some(Deployments::read(folder, now, self.days)?);
        }
        Ok(gathered)
    }
}

impl Gathered {
    /// What a file says, by what it is called; another one says nothing.
    fn add(&mut self, file: &Path) -> anyhow::Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let text = || fs::read_to_string(file).context("it cannot be read");
        match name.rsplit_once('.') {
            Some((_, "xml")) => self.suites.extend(junit::suites(&text()?)?),
            Some((_, "jsonl")) => self.steps.extend(steps_of(&text()?)?),
            Some((stem, "json")) if stem.starts_with("scan-") => {
                self.scans.get_or_insert_default().add(&scan::findings(&text()?)?);
            }
            _ => eprintln!("pipeline: {name} is passed over"),
        }
        Ok(())
    }
}

/// Jobs by their names, with what became of them.
fn jobs_of(needs: &str) -> anyhow::Result<Vec<Job>> {
    let needs: Value = serde_json::from_str(needs).context("--jobs is no JSON")?;
    let Some(needs) = needs.as_object() else { bail!("--jobs has no jobs by their names") };
    let result = |job: &Value| job.get("result").and_then(Value::as_str).map(str::to_owned);
    let job = |(name, job): (&String, &Value)| {
        let result = result(job).with_context(|| format!("the job {name} has no result"))?;
        Ok(Job { name: name.clone(), result })
    };
    needs.iter().map(job).collect()
}

/// What `cargo xtask ci --times` has kept.
fn steps_of(lines: &str) -> anyhow::Result<Vec<Step>> {
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("no time of a check: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_steps_are_read_and_what_is_neither_is_refused() {
        let jobs =
            jobs_of(r#"{"test": {"result": "success", "outputs": {}}, "image": {"result": "failure"}}"#).unwrap();
        let jobs: Vec<_> = jobs.iter().map(|job| (job.name.as_str(), job.result.as_str())).collect();
        assert_eq!(jobs, [("image", "failure"), ("test", "success")]);
        assert!(jobs_of("[]").is_err() && jobs_of(r#"{"a": {}}"#).is_err());
        let steps = steps_of("{\"name\": \"lints\", \"seconds\": 1.5, \"outcome\": \"passed\"}\n\n").unwrap();
        assert_eq!((steps[0].name.as_str(), steps[0].seconds), ("lints", 1.5));
        assert!(steps_of("lints 1.5").is_err());
    }

    #[test]
    fn a_run_is_gathered_and_written_as_metrics_and_for_people() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("left/deeper");
        fs::create_dir_all(&left).unwrap();
        for (name, text) in [
            ("junit.xml", junit::tests::RESULTS),
            ("times.jsonl", "{\"name\": \"lints\", \"seconds\": 2, \"outcome\": \"passed\"}\n"),
            ("scan-amd64.json", scan::tests::FOUND),
            ("other.json", "{}"),
        ] {
            fs::write(left.join(name), text).unwrap();
        }
        let (output, summary) = (folder.path().join("pipeline.prom"), folder.path().join("summary.md"));
        let arguments = Arguments {
            jobs: Some(r#"{"test": {"result": "success"}}"#.to_owned()),
            left: Some(folder.path().join("left")),
            records: Some(folder.path().join("records")),
            days: 30,
            output: Some(output.clone()),
            summary: Some(summary.clone()),
        };
        fs::create_dir(folder.path().join("records")).unwrap();
        run(&arguments).unwrap();
        let (metrics, page) = (fs::read_to_string(&output).unwrap(), fs::read_to_string(&summary).unwrap());
        for line in
            ["wasmwiz_pipeline_job_success{job=\"test\"} 1", "wasmwiz_pipeline_check_seconds{check=\"lints\"} 2"]
        {
            assert!(metrics.lines().any(|found| found == line), "{metrics}");
        }
        assert!(page.contains("| lints | passed |") && page.contains("test"), "{page}");
        fs::write(left.join("broken.xml"), "no results").unwrap();
        assert!(format!("{:#}", run(&arguments).unwrap_err()).contains("broken.xml"));
    }
}
