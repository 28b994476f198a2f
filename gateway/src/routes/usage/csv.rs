//! Usage as a table for spreadsheets: RFC 4180, with a header row.

use crate::views::UsageSum;

/// What it is sent as.
pub(super) const MEDIA_TYPE: &str = "text/csv; charset=utf-8; header=present";

/// The columns, in their order. Only ever added to, at the end.
const HEADER: [&str; 22] = [
    "bucket",
    "executions",
    "succeeded",
    "exited",
    "trapped",
    "deadline_exceeded",
    "out_of_fuel",
    "out_of_memory",
    "cancelled",
    "failed",
    "lost",
    "fuel",
    "cpu_ms",
    "wall_ms",
    "wall_ms_p50",
    "wall_ms_p95",
    "wall_ms_p99",
    "peak_memory_bytes",
    "stdin_bytes",
    "stdout_bytes",
    "stderr_bytes",
    "transcript_bytes",
];

/// Writes a page of usage.
pub(super) fn table(items: &[UsageSum]) -> String {
    let mut text = line(HEADER.map(str::to_owned));
    items.iter().for_each(|item| text.push_str(&line(cells(item))));
    text
}

fn cells(item: &UsageSum) -> [String; 22] {
    let optional = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
    let outcomes = &item.outcomes;
    [
        field(&item.bucket),
        item.executions.to_string(),
        outcomes.succeeded.to_string(),
        outcomes.exited.to_string(),
        outcomes.trapped.to_string(),
        outcomes.deadline_exceeded.to_string(),
        outcomes.out_of_fuel.to_string(),
        outcomes.out_of_memory.to_string(),
        outcomes.cancelled.to_string(),
        outcomes.failed.to_string(),
        outcomes.lost.to_string(),
        item.fuel.to_string(),
        item.cpu_ms.to_string(),
        item.wall_ms.to_string(),
        optional(item.wall_ms_p50),
        optional(item.wall_ms_p95),
        optional(item.wall_ms_p99),
        item.peak_memory_bytes.to_string(),
        item.stdin_bytes.to_string(),
        item.stdout_bytes.to_string(),
        item.stderr_bytes.to_string(),
        item.transcript_bytes.to_string(),
    ]
}

fn line(cells: [String; 22]) -> String {
    cells.join(",") + "\r\n"
}

/// A text as one field. A spreadsheet takes a field that begins like a formula for one, and runs it: such a field gets an
/// apostrophe before it, which spreadsheets do not show.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{execution::Outcome, time::Millis};
    use wasmwiz_projections::usage::{UsageBucket, UsageRow};

    use super::*;

    fn item(bucket: &str) -> UsageSum {
        UsageSum::from(UsageRow {
            bucket: UsageBucket::Label(bucket.to_owned()),
            executions_by_outcome: [(Outcome::Trapped, 2), (Outcome::Lost, 1)].into(),
            fuel: 9,
            cpu: Millis::from_micros(1_500),
            wall: Millis::from_micros(2_000_000),
            wall_percentiles: None,
            peak_memory_bytes: 65_536,
            stdin_bytes: 7,
            stdout_bytes: 3,
            stderr_bytes: 1,
            transcript_bytes: 48,
        })
    }

    #[test]
    fn a_page_is_a_header_and_a_line_for_each_bucket() {
        let text = table(&[item("hello")]);
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines[0], HEADER.join(","));
        assert_eq!(lines[1..], ["hello,3,0,0,2,0,0,0,0,0,1,9,1.5,2000,,,,65536,7,3,1,48", ""]);
    }

    #[test]
    fn a_field_is_quoted_where_it_must_be_and_never_a_formula() {
        for (text, written) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=HYPERLINK(\"http://x\",1)", "\"'=HYPERLINK(\"\"http://x\"\",1)\""),
            ("-1+2", "'-1+2"),
            ("+1", "'+1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("＝1+2", "'＝1+2"),
        ] {
            assert_eq!(field(text), written, "{text:?}");
        }
    }
}
