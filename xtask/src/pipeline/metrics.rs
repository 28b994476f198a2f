//! The metrics of the pipeline, in the text format of Prometheus. A gauge each: a run says how it was, and the next one says so anew.

use super::{
    gathered::{Gathered, Job},
    scan::SEVERITIES,
};

/// When this was written, in seconds since 1970. Label `of`: `run`, or `deployments`, which are files of their own.
pub(crate) const WRITTEN: &str = "wasmwiz_pipeline_written_timestamp_seconds";
/// 1 for each job that succeeded, 0 for one that failed or was cancelled; none for one that was skipped. Label `job`.
pub(crate) const JOB_SUCCESS: &str = "wasmwiz_pipeline_job_success";
/// How many tests there were. Labels `suite`, `outcome`.
pub(crate) const TESTS: &str = "wasmwiz_pipeline_tests";
/// How long the tests of a suite took, put together. Label `suite`.
pub(crate) const TEST_SECONDS: &str = "wasmwiz_pipeline_test_seconds";
/// How long the slowest test of a suite took. Label `suite`.
pub(crate) const TEST_SLOWEST_SECONDS: &str = "wasmwiz_pipeline_test_slowest_seconds";
/// How long a check took. Label `check`.
pub(crate) const CHECK_SECONDS: &str = "wasmwiz_pipeline_check_seconds";
/// What the scanner found in images. Labels `severity`, `fix`.
pub(crate) const SCAN_FINDINGS: &str = "wasmwiz_pipeline_scan_findings";
/// Deployments and rollbacks of the last days. Labels `environment`, `kind`, `outcome`.
pub(crate) const DEPLOYMENTS: &str = "wasmwiz_pipeline_deployments";
/// How many days they are counted back.
pub(crate) const DEPLOYMENTS_DAYS: &str = "wasmwiz_pipeline_deployments_days";
/// When the last that succeeded ended, in seconds since 1970. Label `environment`.
pub(crate) const DEPLOYED: &str = "wasmwiz_pipeline_deployed_timestamp_seconds";
/// How long its steps took. Label `environment`.
pub(crate) const DEPLOYMENT_SECONDS: &str = "wasmwiz_pipeline_deployment_seconds";

/// The text, with a line that says what each metric is.
pub(super) fn text(gathered: &Gathered) -> String {
    let mut text = String::new();
    let mut say = |name: &str, help: &str, samples: Vec<(Vec<(&str, &str)>, f64)>| {
        if samples.is_empty() {
            return;
        }
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for (labels, value) in samples {
            let labels: Vec<_> =
                labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            text.push_str(&format!("{name}{labels} {value}\n"));
        }
    };
    let written = [("run", gathered.has_run()), ("deployments", gathered.deployments.is_some())];
    let written = written.iter().filter(|(_, has)| *has).map(|(of, _)| (vec![("of", *of)], gathered.at as f64));
    say(WRITTEN, "When this was written", written.collect());
    let ran = gathered.jobs.iter().filter(|job| job.result != "skipped");
    let success = |job: &Job| f64::from(u8::from(job.result == "success"));
    say(JOB_SUCCESS, "Did the job succeed", ran.map(|job| (vec![("job", &*job.name)], success(job))).collect());

    let suites = &gathered.suites;
    let outcomes = suites.iter().flat_map(|suite| {
        let (failed, all) = (suite.failed(), suite.tests.len());
        let of = |outcome, count: usize| (vec![("suite", &*suite.name), ("outcome", outcome)], count as f64);
        [of("passed", all - failed), of("failed", failed)]
    });
    say(TESTS, "Tests that ran", outcomes.collect());
    let seconds = suites.iter().map(|suite| (vec![("suite", &*suite.name)], suite.seconds()));
    say(TEST_SECONDS, "Seconds that the tests of a suite took together", seconds.collect());
    let slowest = suites.iter().map(|suite| {
        let slowest = suite.tests.iter().map(|test| test.seconds).fold(0.0, f64::max);
        (vec![("suite", &*suite.name)], slowest)
    });
    say(TEST_SLOWEST_SECONDS, "Seconds of the slowest test of a suite", slowest.collect());
    let steps = gathered.steps.iter().map(|step| (vec![("check", &*step.name)], step.seconds));
    say(CHECK_SECONDS, "Seconds that a check took", steps.collect());

    let scans = gathered.scans.iter().flat_map(|found| {
        let rows = SEVERITIES.iter().zip(found.all).zip(found.fixed);
        rows.flat_map(|((severity, all), fixed)| {
            let of = |fix, count: u64| (vec![("severity", *severity), ("fix", fix)], count as f64);
            [of("none", all.saturating_sub(fixed)), of("there", fixed)]
        })
    });
    say(SCAN_FINDINGS, "Known vulnerabilities of images", scans.collect());

    let Some(deployments) = &gathered.deployments else { return text };
    let counted = deployments.counted.iter().map(|((environment, kind, outcome), count)| {
        (vec![("environment", &**environment), ("kind", &**kind), ("outcome", &**outcome)], *count as f64)
    });
    say(DEPLOYMENTS, "Deployments and rollbacks of the last days", counted.collect());
    say(DEPLOYMENTS_DAYS, "Days that deployments are counted back", vec![(vec![], f64::from(gathered.days))]);
    let last = || deployments.last.iter().map(|(environment, last)| (vec![("environment", &**environment)], last));
    say(DEPLOYED, "When was deployed last", last().map(|(labels, last)| (labels, last.at as f64)).collect());
    let took = last().map(|(labels, last)| (labels, last.seconds));
    say(DEPLOYMENT_SECONDS, "Seconds that the last deployment took", took.collect());
    text
}

/// A label's value in quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{junit, scan};

    fn gathered() -> Gathered {
        let job = |name: &str, result: &str| Job { name: name.to_owned(), result: result.to_owned() };
        Gathered {
            at: 1_764_500_000,
            days: 30,
            jobs: vec![job("image", "failure"), job("release", "skipped"), job("a \"b\"", "success")],
            suites: junit::suites(junit::tests::RESULTS).unwrap(),
            scans: Some(scan::findings(scan::tests::FOUND).unwrap()),
            ..Gathered::default()
        }
    }

    #[test]
    fn every_number_is_a_line_and_what_is_not_known_is_none() {
        let text = text(&gathered());
        for line in [
            "wasmwiz_pipeline_written_timestamp_seconds{of=\"run\"} 1764500000",
            "wasmwiz_pipeline_job_success{job=\"image\"} 0",
            "wasmwiz_pipeline_job_success{job=\"a \\\"b\\\"\"} 1",
            "wasmwiz_pipeline_tests{suite=\"wasmwiz-events\",outcome=\"failed\"} 1",
            "wasmwiz_pipeline_test_seconds{suite=\"wasmwiz-events\"} 1.75",
            "wasmwiz_pipeline_test_slowest_seconds{suite=\"wasmwiz-events\"} 1.5",
            "wasmwiz_pipeline_scan_findings{severity=\"High\",fix=\"there\"} 1",
            "wasmwiz_pipeline_scan_findings{severity=\"Critical\",fix=\"there\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        assert!(!text.contains("release") && !text.contains("deployments") && !text.contains("check"), "{text}");
    }
}
