//! Results of tests in JUnit's format, as cargo-nextest writes them: as much of XML as that is.

use anyhow::{Context, ensure};

use super::gathered::{Suite, Test};

/// The suites of a file.
///
/// # Errors
/// When it is no file of results, or a test has no name or time.
pub(super) fn suites(text: &str) -> anyhow::Result<Vec<Suite>> {
    ensure!(text.contains("<testsuites"), "these are no results of tests in JUnit's format");
    let mut suites: Vec<Suite> = Vec::new();
    for tag in text.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        if tag.starts_with("testsuite ") {
            let name = attribute(tag, "name").context("a suite of tests has no name")?;
            suites.push(Suite { name, tests: Vec::new() });
        } else if tag.starts_with("testcase ") {
            let suite = suites.last_mut().context("a test is in no suite")?;
            let name = attribute(tag, "name").context("a test has no name")?;
            let seconds = attribute(tag, "time").and_then(|time| time.parse().ok());
            let seconds = seconds.with_context(|| format!("the test {name} has no time"))?;
            suite.tests.push(Test { name, seconds, failed: false });
        } else if ["failure", "error"].iter().any(|fault| tag.split([' ', '/']).next() == Some(fault)) {
            let test = suites.last_mut().and_then(|suite| suite.tests.last_mut());
            test.context("a failure is of no test")?.failed = true;
        }
    }
    Ok(suites)
}

/// The value of an attribute.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let value = rest.split('"').next()?;
    let escapes = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(escapes.iter().fold(value.to_owned(), |value, (escape, letter)| value.replace(escape, letter)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As cargo-nextest writes them.
    pub(crate) const RESULTS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="1" errors="0" uuid="4d5c" timestamp="2026-11-30T10:00:00.000+00:00" time="3.5">
    <testsuite name="wasmwiz-events" tests="2" disabled="0" errors="0" failures="1">
        <testcase name="id::tests::a_&lt;name&gt;" classname="wasmwiz-events" timestamp="2026-11-30T10:00:00.000+00:00" time="0.25">
        </testcase>
        <testcase name="log::fails" classname="wasmwiz-events" timestamp="2026-11-30T10:00:00.000+00:00" time="1.5">
            <failure type="test failure with exit code 101">thread &apos;log&apos; panicked</failure>
        </testcase>
    </testsuite>
    <testsuite name="wasmwiz-tests::it" tests="1" disabled="0" errors="0" failures="0">
        <testcase name="cli::runs" classname="wasmwiz-tests::it" timestamp="2026-11-30T10:00:00.000+00:00" time="2"/>
    </testsuite>
</testsuites>
"#;

    #[test]
    fn suites_and_their_tests_are_read_with_times_and_failures() {
        let suites = suites(RESULTS).unwrap();
        let of: Vec<_> = suites.iter().map(|suite| (suite.name.as_str(), suite.tests.len(), suite.failed())).collect();
        assert_eq!(of, [("wasmwiz-events", 2, 1), ("wasmwiz-tests::it", 1, 0)]);
        assert_eq!((suites[0].seconds(), suites[0].tests[0].name.as_str()), (1.75, "id::tests::a_<name>"));
        assert!(suites[0].tests[1].failed && !suites[0].tests[0].failed);
    }

    #[test]
    fn what_is_no_file_of_results_is_refused() {
        assert!(super::suites("test result: ok").is_err());
        assert!(
            super::suites("<testsuites><testsuite name=\"a\"><testcase name=\"b\"/></testsuite></testsuites>").is_err()
        );
    }
}
