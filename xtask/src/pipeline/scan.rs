//! Findings of the scanner of images, by their severity.

use anyhow::Context;
use serde_json::Value;

/// Severities, from the worst, as Grype names them.
pub(super) const SEVERITIES: [&str; 6] = ["Critical", "High", "Medium", "Low", "Negligible", "Unknown"];

/// How many there are of each severity: all that are known, and those that have a fix.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) all: [u64; SEVERITIES.len()],
    pub(super) fixed: [u64; SEVERITIES.len()],
}

impl Findings {
    /// Another image's, too.
    pub(super) fn add(&mut self, other: &Self) {
        let sum = |own: &mut [u64], others: &[u64]| own.iter_mut().zip(others).for_each(|(own, other)| *own += other);
        sum(&mut self.all, &other.all);
        sum(&mut self.fixed, &other.fixed);
    }
}

/// Reads Grype's JSON.
///
/// # Errors
/// When it is none.
pub(super) fn findings(text: &str) -> anyhow::Result<Findings> {
    let report: Value = serde_json::from_str(text).context("no JSON")?;
    let matches = report.get("matches").and_then(Value::as_array).context("no findings of Grype")?;
    let mut findings = Findings::default();
    for found in matches {
        let named = found.pointer("/vulnerability/severity").and_then(Value::as_str).unwrap_or_default();
        let place = SEVERITIES.iter().position(|severity| *severity == named).unwrap_or(SEVERITIES.len() - 1);
        let is_fixed = found.pointer("/vulnerability/fix/state").is_some_and(|state| state == "fixed");
        if let (Some(all), Some(fixed)) = (findings.all.get_mut(place), findings.fixed.get_mut(place)) {
            *all += 1;
            *fixed += u64::from(is_fixed);
        }
    }
    Ok(findings)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Three findings, of which one is of a severity that nobody named.
    pub(crate) const FOUND: &str = r#"{"matches": [
        {"vulnerability": {"id": "A", "severity": "High", "fix": {"state": "fixed"}}},
        {"vulnerability": {"id": "B", "severity": "High", "fix": {"state": "not-fixed"}}},
        {"vulnerability": {"id": "C", "fix": {"state": "unknown"}}}]}"#;

    #[test]
    fn findings_are_counted_by_severity_and_by_whether_there_is_a_fix() {
        let mut found = findings(FOUND).unwrap();
        assert_eq!((found.all, found.fixed), ([0, 2, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]));
        found.add(&found.clone());
        assert_eq!(found.all, [0, 4, 0, 0, 0, 2]);
        assert_eq!(findings(r#"{"matches": []}"#).unwrap(), Findings::default());
        assert!(findings("{}").is_err());
    }
}
