//! What came of running an execution again, on the wire.

use poem_openapi::Object;
use serde::Serialize;
use wasmwiz_actors::dispatch;
use wasmwiz_events::verification::Aspect;

/// What came of running an execution again from its record.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Verification {
    /// The execution.
    pub(crate) execution_id: String,
    /// Was everything the same?
    pub(crate) reproduced: bool,
    /// What was compared, and whether it was the same.
    pub(crate) checked: Checked,
    /// What was not the same.
    pub(crate) differences: Vec<Difference>,
    /// What the end of the execution depended on: pure, virtual-time or transcript.
    pub(crate) reproducibility: String,
    /// Version and settings of the engine that ran it both times, as a short fingerprint.
    pub(crate) engine: String,
    /// CPU time of the second run, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// When this was recorded.
    pub(crate) verified_at: String,
}

/// What was compared, and whether it was the same; null where there was nothing to compare.
#[derive(Debug, Default, Serialize, Object)]
pub(crate) struct Checked {
    /// How it ended.
    pub(crate) outcome: Option<bool>,
    /// The guest's exit code.
    pub(crate) exit_code: Option<bool>,
    /// Standard output, as far as it was kept.
    pub(crate) stdout: Option<bool>,
    /// Standard error, as far as it was kept.
    pub(crate) stderr: Option<bool>,
    /// What the engine stopped; of a guest that trapped.
    pub(crate) trap: Option<bool>,
    /// The most memory it held.
    pub(crate) peak_memory: Option<bool>,
    /// What its end depended on.
    pub(crate) reproducibility: Option<bool>,
    /// Instructions, where they were counted.
    pub(crate) fuel: Option<bool>,
}

/// Something that is not as it is recorded.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Difference {
    /// outcome, exit_code, stdout, stderr, trap, peak_memory, reproducibility or fuel.
    pub(crate) what: String,
    /// As the record has it.
    pub(crate) recorded: String,
    /// As it was now.
    pub(crate) found: String,
}

impl From<&dispatch::Verification> for Verification {
    fn from(verification: &dispatch::Verification) -> Self {
        let verified = &verification.verified;
        let mut checked = Checked::default();
        for aspect in &verification.checked {
            let is_same = verified.differences.iter().all(|difference| difference.what != *aspect);
            let place = match aspect {
                Aspect::Outcome => &mut checked.outcome,
                Aspect::ExitCode => &mut checked.exit_code,
                Aspect::Stdout => &mut checked.stdout,
                Aspect::Stderr => &mut checked.stderr,
                Aspect::Trap => &mut checked.trap,
                Aspect::PeakMemory => &mut checked.peak_memory,
                Aspect::Reproducibility => &mut checked.reproducibility,
                Aspect::Fuel => &mut checked.fuel,
            };
            *place = Some(is_same);
        }
        let differences = verified.differences.iter().map(|difference| Difference {
            what: difference.what.as_str().to_owned(),
            recorded: difference.recorded.clone(),
            found: difference.found.clone(),
        });
        Self {
            execution_id: verified.execution_id.to_string(),
            reproduced: verified.reproduced,
            checked,
            differences: differences.collect(),
            reproducibility: verification.reproducibility.to_string(),
            engine: verified.engine.clone(),
            cpu_ms: verified.cpu_ms.as_ms(),
            verified_at: verification.at.to_string(),
        }
    }
}
