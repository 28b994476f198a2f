//! What was measured and what of it is too slow, for people or for programs.

use std::io::{self, Write as _};

use serde_json::json;
use wasmwiz_tests::turns::Interval;

use crate::{
    Output,
    baseline::Slower,
    comparison::{Compared, Figure, Worse},
    measure::Step,
};

/// Of one run beside the bare server.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) steps: &'a [Step],
    /// What is too slow; nothing where it was not asked, because the baseline is written.
    pub(crate) slower: Option<&'a [Slower]>,
}

impl Report<'_> {
    /// Writes it to standard output.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn print(&self, output: Output) -> io::Result<()> {
        print(match output {
            Output::Table => self.table(),
            Output::Json => format!("{:#}\n", self.json()),
        })
    }

    fn table(&self) -> String {
        let mut lines = vec![
            "1 KiB echo, open loop; ms from when a request was due; ratio = node / (bare + 2 syncs); medians of all rounds"
                .to_owned(),
            format!(
                "{:>8} {:>6} | {:>9} {:>9} {:>9} {:>7} | {:>9} {:>9} {:>9} {:>7}",
                "offered", "served", "bare p50", "sync p50", "node p50", "ratio", "bare p99", "sync p99", "node p99", "ratio"
            ),
        ];
        lines.extend(self.steps.iter().map(|Step { per_second, p50, p99, node_served, .. }| {
            format!(
                "{:>8} {:>6.3} | {:>9.2} {:>9.2} {:>9.2} {:>7.2} | {:>9.2} {:>9.2} {:>9.2} {:>7.2}",
                format!("{per_second}/s"),
                node_served,
                p50.bare_ms,
                p50.sync_ms,
                p50.node_ms,
                p50.ratio,
                p99.bare_ms,
                p99.sync_ms,
                p99.node_ms,
                p99.ratio
            )
        }));
        lines.extend(self.slower.unwrap_or_default().iter().map(|slower| format!("SLOWER {slower}")));
        lines.push(match self.slower {
            None => "the baseline is written".to_owned(),
            Some([]) => "as fast as the baseline allows".to_owned(),
            Some(_) => "SLOWER than the baseline allows".to_owned(),
        });
        lines.join("\n") + "\n"
    }

    fn json(&self) -> serde_json::Value {
        let slower: Option<Vec<_>> = self.slower.map(|all| all.iter().map(ToString::to_string).collect());
        let passed = slower.as_ref().map(Vec::is_empty);
        json!({"steps": self.steps, "slower": slower, "passed": passed})
    }
}

/// Of one run in turns.
#[derive(Debug)]
pub(crate) struct Alternation<'a> {
    pub(crate) compared: &'a [Compared],
    /// What is surely worse.
    pub(crate) worse: &'a [Worse],
}

impl Alternation<'_> {
    /// Writes it to standard output.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn print(&self, output: Output) -> io::Result<()> {
        print(match output {
            Output::Table => self.table(),
            Output::Json => format!("{:#}\n", self.json()),
        })
    }

    fn table(&self) -> String {
        let mut lines = vec![
            "1 KiB echo, open loop; ms from when a request was due; medians of all rounds; ratio = this / other within a round, \
             with its 95 % interval"
                .to_owned(),
            format!(
                "{:>8} {:>6} {:>6} | {:>9} {:>9} {:>6} {:<16} | {:>9} {:>9} {:>6} {:<16}",
                "offered",
                "other",
                "this",
                "other p50",
                "this p50",
                "ratio",
                "interval",
                "other p99",
                "this p99",
                "ratio",
                "interval"
            ),
        ];
        lines.extend(self.compared.iter().map(|Compared { per_second, p50_ms, p99_ms, served }| {
            let offered = format!("{per_second}/s");
            let served = format!("{:>6.3} {:>6.3}", served.medians.other, served.medians.this);
            format!("{offered:>8} {served} | {} | {}", latency(p50_ms), latency(p99_ms)).trim_end().to_owned()
        }));
        lines.extend(self.worse.iter().map(|worse| format!("SLOWER {worse}")));
        lines.push(match self.worse {
            [] => "not slower than the other program, as far as this can tell".to_owned(),
            [..] => "SLOWER than the other program".to_owned(),
        });
        lines.join("\n") + "\n"
    }

    fn json(&self) -> serde_json::Value {
        let slower: Vec<_> = self.worse.iter().map(ToString::to_string).collect();
        let passed = slower.is_empty();
        json!({"against": self.compared, "slower": slower, "passed": passed})
    }
}

fn latency(Figure { medians, ratio: Interval { begin, median, end } }: &Figure) -> String {
    let interval = format!("{begin:.2} to {end:.2}");
    format!("{:>9.2} {:>9.2} {median:>6.2} {interval:<16}", medians.other, medians.this)
}

fn print(text: String) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Pair;

    fn compared() -> Compared {
        let figure = |other: f64, this: f64| {
            let median = this / other;
            Figure {
                medians: Pair { other, this },
                ratio: Interval { begin: median - 0.25, median, end: median + 0.25 },
            }
        };
        Compared { per_second: 400, p50_ms: figure(2.0, 3.0), p99_ms: figure(8.0, 10.0), served: figure(1.0, 1.0) }
    }

    #[test]
    fn a_table_shows_both_programs_the_ratio_and_its_interval() {
        let (compared, worse) = ([compared()], compared().worse());
        let table = Alternation { compared: &compared, worse: &worse }.table();
        let lines: Vec<_> = table.lines().collect();
        let words: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(words.join(" "), "400/s 1.000 1.000 | 2.00 3.00 1.50 1.25 to 1.75 | 8.00 10.00 1.25 1.00 to 1.50");
        assert_eq!(
            lines[3..],
            [
                "SLOWER 400/s: p50 is 1.25 times the other program's or more, and may be 1.10 times",
                "SLOWER than the other program",
            ]
        );
    }

    #[test]
    fn an_object_holds_the_same_for_programs() {
        let said = Alternation { compared: &[compared()], worse: &[] }.json();
        assert_eq!(said["passed"], true);
        assert_eq!(
            said["against"][0]["p50_ms"],
            json!({"other": 2.0, "this": 3.0, "ratio": {"begin": 1.25, "median": 1.5, "end": 1.75}})
        );
    }
}
