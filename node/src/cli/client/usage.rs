//! `wasmwiz usage`: what executions cost, as a table with bars.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Connect, Format, block_on, failure::EXIT_CODES, render};
use crate::cli::recompute::Recompute;

/// Show what your executions cost, or derive it from the log in a data folder.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz usage --by hour --from 2026-11-25T00:00:00Z\n  wasmwiz usage \
                  --by key --output json\n  wasmwiz usage recompute --data .wasmwiz --check")
)]
pub struct Usage {
    #[command(subcommand)]
    offline: Option<Offline>,
    #[command(flatten)]
    report: Report,
}

#[derive(Debug, Subcommand)]
enum Offline {
    /// Derive every figure from the log in a data folder; with --check, compare them with the view's.
    Recompute(Recompute),
}

#[derive(Debug, Args)]
struct Report {
    /// What to sum by: hour, day, key or module.
    #[arg(long, default_value = "day", value_parser = ["hour", "day", "key", "module"])]
    by: String,
    /// From this time on, as in RFC 3339; 30 days before `to` when absent.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to this time; now when absent.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How many rows at most.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

impl Usage {
    /// Runs it.
    ///
    /// # Errors
    /// When the node refuses, or does not answer; offline, when the folder cannot be read.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.offline {
            Some(Offline::Recompute(recompute)) => recompute.run(),
            None => self.report.run(),
        }
    }
}

impl Report {
    fn run(self) -> anyhow::Result<ExitCode> {
        let api = self.connect.api()?;
        let query: Vec<_> = [("by", Some(self.by)), ("from", self.from), ("to", self.to)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let found = block_on(async { Ok(api.list(&["v1", "usage"], &query, self.limit.into()).await?) })?;
        if self.output != Format::Table {
            render::show_list(self.output, found, &[], |_| Vec::new())?;
            return Ok(ExitCode::SUCCESS);
        }
        let most = found.0.iter().filter_map(executions).max().unwrap_or_default();
        let header =
            ["BUCKET", "RUNS", "FAILED", "CPU MS", "P50 MS", "P95 MS", "P99 MS", "PEAK KIB", "IN B", "OUT B", ""];
        render::show_list(Format::Table, found, &header, |item| row(item, most))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn executions(item: &Value) -> Option<u64> {
    item.get("executions")?.as_u64()
}

fn row(item: &Value, most: u64) -> Vec<String> {
    let at = |pointer| render::at(item, pointer);
    let number = |name| item.get(name).and_then(Value::as_u64).unwrap_or_default();
    let runs = executions(item).unwrap_or_default();
    let succeeded = item.pointer("/outcomes/succeeded").and_then(Value::as_u64).unwrap_or_default();
    vec![
        at("/bucket"),
        runs.to_string(),
        runs.saturating_sub(succeeded).to_string(),
        at("/cpu_ms"),
        at("/wall_ms_p50"),
        at("/wall_ms_p95"),
        at("/wall_ms_p99"),
        number("peak_memory_bytes").div_ceil(1_024).to_string(),
        at("/stdin_bytes"),
        number("stdout_bytes").saturating_add(number("stderr_bytes")).to_string(),
        bar(runs, most),
    ]
}

/// Letters of the longest bar.
const WIDTH: u64 = 20;

/// A bar in eighths of a letter. What is not nothing is seen.
fn bar(number: u64, most: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = u128::from(number) * u128::from(WIDTH * 8) / u128::from(most.max(1));
    let eighths = usize::try_from(eighths).unwrap_or_default().max(usize::from(number > 0));
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS.get(eighths % 8).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_most() {
        assert_eq!(bar(40, 40), "█".repeat(20));
        assert_eq!(bar(20, 40), "█".repeat(10));
        assert_eq!(bar(1, 40), "▌");
        assert_eq!((bar(1, u64::MAX), bar(0, 40), bar(0, 0)), ("▏".to_owned(), String::new(), String::new()));
    }
}
