//! Whether an execution can be run again from its record, and whether that gave the same. Pure: running it is the shell's.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    digest::Digest,
    execution::{Accepted, Finished, Outcome, Output},
    reproducibility::Reproducibility,
    verification::{Aspect, Difference},
};

use crate::executor::{Job, Ran, Stream};

/// Why a record is not run again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotVerifiable {
    /// It has no end yet.
    #[error("the execution still runs; verify it once it has an outcome")]
    Running,
    /// It was lost: nothing was recorded of its end.
    #[error("the execution was lost with its node: there is no end to compare with; run it again instead")]
    Lost,
    /// Its end depended on something that is not recorded.
    #[error(
        "the execution ended by something that its record does not hold ({0}): by the host's time, its load, or whoever \
         cancelled it; run it again instead"
    )]
    Class(Outcome),
    /// It was made before guests saw virtual time.
    #[error("the record was made by a version whose guests read the host's clocks; run it again instead")]
    TooOld,
    /// Another engine recorded it.
    #[error(
        "the execution was recorded by engine {recorded}, and this is {own}; verify it with the version of wasmwiz, its settings and \
         the kind of processor that recorded it: `wasmwiz audit re-run` does so without a node"
    )]
    Engine {
        /// Fingerprint in the record.
        recorded: String,
        /// Fingerprint here.
        own: String,
    },
    /// What it ran, or read, is not kept any more.
    #[error("the bytes of its {0} are no longer kept; their digest stays in the record")]
    Gone(&'static str),
}

impl NotVerifiable {
    /// A stable name, for programs.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Lost => "lost",
            Self::Class(_) => "unverifiable",
            Self::TooOld => "too-old",
            Self::Engine { .. } => "other-engine",
            Self::Gone(_) => "gone",
        }
    }
}

/// Can an engine of this fingerprint give the recorded end again?
///
/// # Errors
/// [`NotVerifiable`] says why not.
pub fn check(accepted: &Accepted, finished: &Finished, engine: &str) -> Result<(), NotVerifiable> {
    match finished.reproducibility {
        None => return Err(NotVerifiable::TooOld),
        Some(Reproducibility::Unverifiable | Reproducibility::Transcript) => {
            return Err(NotVerifiable::Class(finished.outcome));
        }
        Some(Reproducibility::Pure | Reproducibility::VirtualTime) => {}
    }
    if accepted.engine != engine {
        return Err(NotVerifiable::Engine { recorded: accepted.engine.clone(), own: engine.to_owned() });
    }
    Ok(())
}

/// How much longer than its limit a second run may take, in milliseconds: the host may be slower now, which is not the guest's
/// doing, and no guest sees.
const PATIENCE_MS: u64 = 30_000;

/// The guest of a record, to be run once more. It is not made to wait where it sleeps: what it sees is the same.
pub fn job(accepted: &Accepted, stdin: Bytes, cancel: CancellationToken) -> Job {
    let mut job = Job::of(accepted, stdin, cancel);
    job.limits.wall_ms = job.limits.wall_ms.saturating_add(PATIENCE_MS);
    job.skips_sleep = true;
    job
}

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What was looked at.
    pub checked: Vec<Aspect>,
    /// What was not the same.
    pub differences: Vec<Difference>,
}

/// The host could not run it to an end that says something: it was too busy, or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host could not run the guest to an end that says something ({0}); try again when it has less to do")]
pub struct Inconclusive(pub Outcome);

/// Compares a second run with the record.
///
/// # Errors
/// [`Inconclusive`] when the second run ended by the host's doing.
pub fn compare(accepted: &Accepted, finished: &Finished, ran: &Ran) -> Result<Comparison, Inconclusive> {
    if matches!(ran.outcome, Outcome::DeadlineExceeded | Outcome::Cancelled | Outcome::Failed | Outcome::Lost)
        || ran.reproducibility == Reproducibility::Unverifiable
    {
        return Err(Inconclusive(ran.outcome));
    }
    let mut compared = Comparison { checked: Vec::new(), differences: Vec::new() };
    let mut one = |what: Aspect, recorded: String, found: String| {
        compared.checked.push(what);
        if recorded != found {
            compared.differences.push(Difference { what, recorded, found });
        }
    };
    one(Aspect::Outcome, finished.outcome.to_string(), ran.outcome.to_string());
    one(Aspect::ExitCode, code(finished.exit_code), code(ran.exit_code));
    one(Aspect::Stdout, output(&finished.stdout), stream(&ran.stdout));
    one(Aspect::Stderr, output(&finished.stderr), stream(&ran.stderr));
    if finished.outcome == Outcome::Trapped || ran.outcome == Outcome::Trapped {
        // The engine's own words. Others are the platform's, which may find better ones.
        one(Aspect::Trap, finished.message.clone().unwrap_or_default(), ran.message.clone().unwrap_or_default());
    }
    one(Aspect::PeakMemory, bytes(finished.peak_memory_bytes), bytes(ran.peak_memory_bytes));
    one(Aspect::Reproducibility, finished.class().to_string(), ran.reproducibility.to_string());
    if accepted.fuel.is_some() {
        one(Aspect::Fuel, fuel(finished.fuel), fuel(ran.fuel));
    }
    Ok(compared)
}

fn code(code: Option<i32>) -> String {
    code.map_or_else(|| "none".to_owned(), |code| code.to_string())
}

/// Of a guest that ended in the midst of something it is not known.
fn fuel(used: Option<u64>) -> String {
    used.map_or_else(|| "not counted".to_owned(), |used| used.to_string())
}

fn bytes(count: u64) -> String {
    format!("{count} bytes")
}

fn output(output: &Output) -> String {
    described(&output.digest, output.size_bytes, output.truncated)
}

fn stream(stream: &Stream) -> String {
    described(&Digest::of(&stream.bytes), stream.bytes.len() as u64, stream.truncated)
}

fn described(digest: &Digest, size_bytes: u64, truncated: bool) -> String {
    format!("{digest}, {size_bytes} bytes{}", if truncated { ", cut off" } else { "" })
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{event::Event, time::Millis};

    use super::*;
    use crate::tenant::{Command, scenario};

    fn accepted() -> Accepted {
        let Event::ExecutionAccepted(accepted) = scenario::accepted(1) else { unreachable!() };
        *accepted
    }

    fn finished(class: Option<Reproducibility>) -> Finished {
        let Command::Finish(finished) = scenario::finish(1) else { unreachable!() };
        Finished { reproducibility: class, ..*finished }
    }

    /// A run that gives what [`finished`] has.
    fn same() -> Ran {
        let of = |bytes: &'static [u8]| Stream { bytes: Bytes::from_static(bytes), truncated: false };
        Ran {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            stdout: of(b"out"),
            stderr: of(b""),
            fuel: None,
            cpu: Millis::default(),
            wall: Millis::default(),
            peak_memory_bytes: 65_536,
            reproducibility: Reproducibility::Pure,
            message: Some("said otherwise".into()),
        }
    }

    #[test]
    fn only_what_its_record_decides_is_run_again_and_by_the_same_engine_alone() {
        let accepted = accepted();
        let check = |class, engine: &str| check(&accepted, &finished(class), engine);
        for class in [Reproducibility::Pure, Reproducibility::VirtualTime] {
            assert_eq!(check(Some(class), &accepted.engine), Ok(()));
            assert!(matches!(check(Some(class), "another"), Err(NotVerifiable::Engine { .. })));
        }
        assert_eq!(check(None, &accepted.engine), Err(NotVerifiable::TooOld));
        let class = NotVerifiable::Class(Outcome::Succeeded);
        assert_eq!(check(Some(Reproducibility::Unverifiable), &accepted.engine), Err(class));
    }

    #[test]
    fn the_same_has_no_difference() {
        let compared = compare(&accepted(), &finished(Some(Reproducibility::Pure)), &same()).unwrap();
        assert_eq!(compared.differences, []);
        let checked = [
            Aspect::Outcome,
            Aspect::ExitCode,
            Aspect::Stdout,
            Aspect::Stderr,
            Aspect::PeakMemory,
            Aspect::Reproducibility,
        ];
        assert_eq!(compared.checked, checked);
    }

    #[test]
    fn each_thing_that_differs_is_named() {
        let recorded = finished(Some(Reproducibility::Pure));
        let other = || Stream { bytes: Bytes::from_static(b"tuo"), truncated: false };
        let cut = || Stream { bytes: Bytes::from_static(b"out"), truncated: true };
        for (what, ran) in [
            (Aspect::Outcome, Ran { outcome: Outcome::Exited, ..same() }),
            (Aspect::ExitCode, Ran { exit_code: Some(1), ..same() }),
            (Aspect::Stdout, Ran { stdout: other(), ..same() }),
            (Aspect::Stdout, Ran { stdout: cut(), ..same() }),
            (Aspect::Stderr, Ran { stderr: other(), ..same() }),
            (Aspect::PeakMemory, Ran { peak_memory_bytes: 1, ..same() }),
            (Aspect::Reproducibility, Ran { reproducibility: Reproducibility::VirtualTime, ..same() }),
        ] {
            let compared = compare(&accepted(), &recorded, &ran).unwrap();
            let named: Vec<_> = compared.differences.iter().map(|difference| difference.what).collect();
            assert_eq!(named, [what]);
        }
        let (metered, counted) =
            (Accepted { fuel: Some(9), ..accepted() }, Finished { fuel: Some(7), ..recorded.clone() });
        let compared = compare(&metered, &counted, &Ran { fuel: Some(8), ..same() }).unwrap();
        let [Difference { what: Aspect::Fuel, recorded: seven, found: eight }] = &compared.differences[..] else {
            panic!("{compared:?}")
        };
        assert_eq!((&**seven, &**eight), ("7", "8"));
        let concealed = compare(&metered, &recorded, &Ran { fuel: Some(8), ..same() }).unwrap();
        assert_eq!(concealed.differences.len(), 1, "fuel that a record does not tell is a difference: {concealed:?}");
        let trapped = |message: &str| Some(message.to_owned());
        let recorded = Finished { outcome: Outcome::Trapped, message: trapped("unreachable"), ..recorded };
        let ran = Ran { outcome: Outcome::Trapped, message: trapped("out of bounds"), ..same() };
        let compared = compare(&accepted(), &recorded, &ran).unwrap();
        assert_eq!(compared.differences.len(), 1, "{compared:?}");
    }

    #[test]
    fn a_run_that_the_host_ended_says_nothing() {
        for outcome in [Outcome::DeadlineExceeded, Outcome::Cancelled, Outcome::Failed] {
            let ran = Ran { outcome, reproducibility: Reproducibility::Unverifiable, ..same() };
            assert_eq!(compare(&accepted(), &finished(Some(Reproducibility::Pure)), &ran), Err(Inconclusive(outcome)));
        }
        let short = Ran { reproducibility: Reproducibility::Unverifiable, ..same() };
        assert!(compare(&accepted(), &finished(Some(Reproducibility::Pure)), &short).is_err());
    }
}
