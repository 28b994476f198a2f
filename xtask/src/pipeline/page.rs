//! The same for people: a section of the run's summary.

use super::{
    gathered::{Gathered, Step, Test},
    scan::SEVERITIES,
};

/// How many of the slowest tests are shown.
const SLOWEST: usize = 10;

pub(super) fn markdown(gathered: &Gathered) -> String {
    let mut text = "### The pipeline\n".to_owned();
    let mut table = |head: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text.push_str(&format!("\n{}", line(head.iter().map(|cell| (*cell).to_owned()).collect())));
        text.push_str(&line(head.iter().map(|_| "---".to_owned()).collect()));
        rows.into_iter().for_each(|row| text.push_str(&line(row.iter().map(|cell| one_line(cell)).collect())));
    };
    let jobs = gathered.jobs.iter().map(|job| vec![job.name.clone(), job.result.clone()]);
    table(&["job", "result"], jobs.collect());
    let suites = gathered.suites.iter().map(|suite| {
        vec![suite.name.clone(), suite.tests.len().to_string(), suite.failed().to_string(), seconds(suite.seconds())]
    });
    table(&["tests", "ran", "failed", "took together"], suites.collect());
    let mut tests: Vec<&Test> = gathered.suites.iter().flat_map(|suite| &suite.tests).collect();
    tests.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let slowest = tests.iter().take(SLOWEST).map(|test| vec![test.name.clone(), seconds(test.seconds)]);
    table(&["slowest tests", "took"], slowest.collect());
    let steps = gathered
        .steps
        .iter()
        .map(|Step { name, seconds: took, outcome }| vec![name.clone(), outcome.clone(), seconds(*took)]);
    table(&["check", "outcome", "took"], steps.collect());
    let scans = gathered.scans.iter().flat_map(|found| {
        let rows = SEVERITIES.iter().zip(found.all).zip(found.fixed);
        rows.map(|((severity, all), fixed)| vec![(*severity).to_owned(), all.to_string(), fixed.to_string()])
    });
    table(&["found in images", "all", "with a fix"], scans.collect());
    if let Some(deployments) = &gathered.deployments {
        let head = format!("in the last {} days", gathered.days);
        let counted = deployments.counted.iter().map(|((environment, kind, outcome), count)| {
            let weeks = f64::from(gathered.days) / 7.0;
            vec![
                format!("{kind} to {environment}"),
                outcome.clone(),
                count.to_string(),
                format!("{:.1}", *count as f64 / weeks),
            ]
        });
        table(&[&head, "outcome", "count", "a week"], counted.collect());
        let last = deployments.last.iter();
        let last = last.map(|(environment, last)| vec![environment.clone(), last.image.clone(), seconds(last.seconds)]);
        table(&["runs in", "image", "deployed in"], last.collect());
    }
    text
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

/// What a job or a test is called stays in its cell.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '|', '`'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{gathered::Job, junit};

    #[test]
    fn a_table_is_there_where_there_is_something_to_say() {
        let jobs = vec![Job { name: "a|b".to_owned(), result: "success".to_owned() }];
        let suites = junit::suites(junit::tests::RESULTS).unwrap();
        let text = markdown(&Gathered { jobs, suites, ..Gathered::default() });
        assert!(text.contains("| a b | success |") && text.contains("| wasmwiz-events | 2 | 1 | 1.8 s |"), "{text}");
        let slowest = text.split("slowest").nth(1).unwrap();
        assert!(slowest.find("cli::runs").unwrap() < slowest.find("log::fails").unwrap(), "{text}");
        assert!(!text.contains("found in images") && !text.contains("deployment"), "{text}");
    }
}
