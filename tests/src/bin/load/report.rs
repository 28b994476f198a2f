//! What was measured and what of it is too slow, for people or for programs.

use std::io::{self, Write as _};

use serde_json::json;

use crate::{Output, baseline::Slower, measure::Step};

/// Of one run.
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
        let text = match output {
            Output::Table => self.table(),
            Output::Json => format!("{:#}\n", self.json()),
        };
        io::stdout().lock().write_all(text.as_bytes())
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
