//! What came of every scenario, for people or for programs.

use std::io::{self, Write as _};

use serde_json::{Value, json};
use wasmwiz_tests::promises::Broken;

use crate::{Output, judge::Judged};

/// Broken promises that a table shows of one scenario; the rest is counted.
const SHOWN: usize = 10;

/// What came of one scenario.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) scenario: &'static str,
    pub(crate) took_s: f64,
    pub(crate) verdict: Verdict,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Every promise was kept.
    Held(Judged),
    /// Some were not.
    Broken(Judged),
    /// This machine cannot do it.
    Skipped { why: &'static str },
    /// It could not be done or judged, or disturbed nothing.
    Failed { why: String },
}

impl Verdict {
    /// Of what was found.
    pub(crate) fn of(judged: Judged) -> Self {
        if judged.broken.is_empty() { Self::Held(judged) } else { Self::Broken(judged) }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::Broken(_) => "BROKEN",
            Self::Skipped { .. } => "skipped",
            Self::Failed { .. } => "FAILED",
        }
    }

    const fn judged(&self) -> Option<&Judged> {
        match self {
            Self::Held(judged) | Self::Broken(judged) => Some(judged),
            Self::Skipped { .. } | Self::Failed { .. } => None,
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Held(_) | Self::Broken(_) => None,
            Self::Skipped { why } => Some(why),
            Self::Failed { why } => Some(why),
        }
    }

    fn broken(&self) -> &[Broken] {
        self.judged().map(|judged| judged.broken.as_slice()).unwrap_or_default()
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Report {
    seed: u64,
    trials: Vec<Trial>,
}

impl Report {
    /// Of a run with this seed, in which nothing was done yet.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, trials: Vec::new() }
    }

    /// One more.
    pub(crate) fn add(&mut self, trial: Trial) {
        self.trials.push(trial);
    }

    /// Was no promise broken, and nothing failed? What was skipped is no failure.
    pub(crate) fn all_held(&self) -> bool {
        self.trials.iter().all(|trial| matches!(trial.verdict, Verdict::Held(_) | Verdict::Skipped { .. }))
    }

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
            format!("seed {}", self.seed),
            format!(
                "{:<10} {:<8} {:>7} {:>9} {:>9} {:>6} {:>6} {:>8} {:>11}  disturbance",
                "scenario", "promises", "took s", "accepted", "answered", "failed", "lost", "refused", "unanswered"
            ),
        ];
        for trial in &self.trials {
            let begin = format!("{:<10} {:<8} {:>7.1}", trial.scenario, trial.verdict.word(), trial.took_s);
            lines.push(match trial.verdict.judged() {
                Some(Judged { disturbance, accepted, lost, evidence, .. }) => format!(
                    "{begin} {accepted:>9} {:>9} {:>6} {lost:>6} {:>8} {:>11}  {disturbance}",
                    evidence.answered.len(),
                    evidence.failed,
                    evidence.refused,
                    evidence.unanswered
                ),
                None => format!("{begin}  {}", trial.verdict.why().unwrap_or_default()),
            });
            let broken = trial.verdict.broken();
            lines.extend(broken.iter().take(SHOWN).map(|broken| format!("  {broken}")));
            if broken.len() > SHOWN {
                lines.push(format!("  and {} more", broken.len() - SHOWN));
            }
        }
        lines.push(if self.all_held() { "all promises held".into() } else { "NOT all promises held".into() });
        lines.join("\n") + "\n"
    }

    fn json(&self) -> Value {
        let trials = self.trials.iter().map(|trial| {
            let judged = trial.verdict.judged();
            json!({
                "scenario": trial.scenario,
                "verdict": trial.verdict.word().to_lowercase(),
                "took_s": trial.took_s,
                "why": trial.verdict.why(),
                "disturbance": judged.map(|judged| &judged.disturbance),
                "accepted": judged.map(|judged| judged.accepted),
                "answered": judged.map(|judged| judged.evidence.answered.len()),
                "failed": judged.map(|judged| judged.evidence.failed),
                "lost": judged.map(|judged| judged.lost),
                "refused": judged.map(|judged| judged.evidence.refused),
                "unanswered": judged.map(|judged| judged.evidence.unanswered),
                "broken": trial.verdict.broken().iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        });
        json!({"seed": self.seed, "held": self.all_held(), "scenarios": trials.collect::<Vec<_>>()})
    }
}
