//! Whether an execution can be run again from its record, and whether that gave the same. Pure: running it is the shell's.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wasmwiz_events::{
    digest::Digest,
    execution::{Accepted, Content, Finished, Outcome, Output},
    reproducibility::Reproducibility,
    settings::{Clock, Sleep},
    transcript::READING_BYTES,
    verification::{Aspect, Difference},
};

use crate::executor::{Clocks, Job, Ran, Stream};

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
        "the execution ended by something that its record does not hold ({0}): by the host's time, its load, whoever cancelled \
         it, or clocks of the host that were read more often than is kept; run it again instead"
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
        Some(Reproducibility::Transcript) if finished.transcript().is_some() => {}
        // A guest that was to read the host's clocks and read others: a node that did not know of them has run it.
        Some(Reproducibility::VirtualTime) if accepted.clock == Clock::Virtual => {}
        Some(Reproducibility::Pure) => {}
        Some(Reproducibility::Unverifiable | Reproducibility::Transcript | Reproducibility::VirtualTime) => {
            return Err(NotVerifiable::Class(finished.outcome));
        }
    }
    if accepted.engine != engine {
        return Err(NotVerifiable::Engine { recorded: accepted.engine.clone(), own: engine.to_owned() });
    }
    Ok(())
}

/// How much longer than its limit a second run may take, in milliseconds: the host may be slower now, which is not the guest's
/// doing, and no guest sees.
const PATIENCE_MS: u64 = 30_000;

/// The guest of a record, to be run once more. It is not made to wait where it sleeps, and where it read the host's clocks it reads what
/// was kept of them, its `transcript`: what it sees is the same.
pub fn job(accepted: &Accepted, stdin: Bytes, transcript: Bytes, cancel: CancellationToken) -> Job {
    let mut job = Job::of(accepted, stdin, cancel);
    if job.clocks == Clocks::Host {
        job.clocks = Clocks::Recorded(transcript);
    }
    job.limits.wall_ms = job.limits.wall_ms.saturating_add(PATIENCE_MS);
    job.sleep = Sleep::Skip;
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
/// One that asked for more readings than its record has differs from it whatever became of it: where it was stopped for that it looks like
/// a guest that was stopped for something else, and a record may be made to say so.
///
/// # Errors
/// [`Inconclusive`] when the second run ended by the host's doing.
pub fn compare(accepted: &Accepted, finished: &Finished, ran: &Ran) -> Result<Comparison, Inconclusive> {
    let is_by_host =
        matches!(ran.outcome, Outcome::DeadlineExceeded | Outcome::Cancelled | Outcome::Failed | Outcome::Lost)
            || ran.reproducibility == Reproducibility::Unverifiable;
    if is_by_host && !ran.asked_for_more {
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
    let readings = finished.transcript().map(|Content { digest, size_bytes }| (digest, size_bytes));
    let found = if ran.asked_for_more {
        let kept = readings.map_or(0, |(_, bytes)| bytes / READING_BYTES as u64);
        format!("asked for more than the {kept} readings of its record")
    } else {
        class(ran.reproducibility, Some((Digest::of(&ran.transcript), ran.transcript.len() as u64)))
    };
    one(Aspect::Reproducibility, class(finished.class(), readings), found);
    if accepted.fuel.is_some() {
        one(Aspect::Fuel, fuel(finished.fuel), fuel(ran.fuel));
    }
    Ok(compared)
}

/// What it depended on; of a transcript also which: a guest that asks for less of it is not the recorded one.
fn class(class: Reproducibility, transcript: Option<(Digest, u64)>) -> String {
    match (class, transcript) {
        (Reproducibility::Transcript, Some((digest, bytes))) => {
            format!("{class} of {} readings, {digest}", bytes / READING_BYTES as u64)
        }
        (class, _) => class.to_string(),
    }
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
            asked_for_more: false,
            transcript: Bytes::new(),
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
        for left in [Reproducibility::Unverifiable, Reproducibility::Transcript] {
            assert_eq!(check(Some(left), &accepted.engine), Err(class.clone()), "without a transcript");
        }
    }

    /// A record of a guest that read the host's clocks three times, and those readings.
    fn transcribed() -> (Accepted, Finished, Bytes) {
        let kept = Bytes::from(vec![7; 3 * READING_BYTES]);
        let finished = Finished {
            trace_digest: Some(Digest::of(&kept)),
            trace_readings: Some(3),
            ..finished(Some(Reproducibility::Transcript))
        };
        (Accepted { clock: Clock::Host, ..accepted() }, finished, kept)
    }

    #[test]
    fn a_transcript_is_read_instead_of_the_clock_and_all_of_it() {
        let (accepted, finished, kept) = transcribed();
        assert_eq!(check(&accepted, &finished, &accepted.engine), Ok(()));
        let job = job(&accepted, Bytes::new(), kept.clone(), CancellationToken::new());
        assert_eq!((job.clocks, job.sleep), (Clocks::Recorded(kept.clone()), Sleep::Skip));
        let ran = |transcript| Ran { reproducibility: Reproducibility::Transcript, transcript, ..same() };
        assert_eq!(compare(&accepted, &finished, &ran(kept.clone())).unwrap().differences, []);
        for other in [ran(kept.slice(..32)), same()] {
            let compared = compare(&accepted, &finished, &other).unwrap();
            let [Difference { what: Aspect::Reproducibility, recorded, .. }] = &compared.differences[..] else {
                panic!("{compared:?}")
            };
            assert!(recorded.starts_with("transcript of 3 readings"), "{recorded}");
        }
        // One that was run by a node that did not know of the host's clocks.
        let by_rule = Finished { reproducibility: Some(Reproducibility::VirtualTime), ..finished };
        let class = NotVerifiable::Class(Outcome::Succeeded);
        assert_eq!(check(&accepted, &by_rule, &accepted.engine), Err(class));
    }

    #[test]
    fn one_that_asks_for_more_than_its_record_has_differs_however_the_record_says_that_it_ended() {
        let (accepted, finished, kept) = transcribed();
        let said = "the guest made a system call that cannot be answered: it read the clocks more often than its record has it";
        for (outcome, class, message) in [
            // As it is stopped, and what becomes of that after a denial of memory, and before it began.
            (Outcome::Trapped, Reproducibility::Transcript, said),
            (Outcome::OutOfMemory, Reproducibility::Transcript, "the guest wanted much"),
            (Outcome::Failed, Reproducibility::Unverifiable, "the host could not make room for the guest"),
        ] {
            // All that there is to see of the second run is in the record.
            let recorded = Finished { outcome, exit_code: None, message: Some(message.to_owned()), ..finished.clone() };
            let ran = Ran {
                outcome,
                exit_code: None,
                message: Some(message.to_owned()),
                reproducibility: class,
                transcript: kept.clone(),
                asked_for_more: true,
                ..same()
            };
            let compared = compare(&accepted, &recorded, &ran).unwrap();
            let [Difference { what: Aspect::Reproducibility, found, .. }] = &compared.differences[..] else {
                panic!("{outcome}: {compared:?}")
            };
            assert_eq!(found, "asked for more than the 3 readings of its record");
            let enough = compare(&accepted, &recorded, &Ran { asked_for_more: false, ..ran });
            assert_eq!(enough.is_err(), outcome == Outcome::Failed, "{enough:?}");
        }
        // A record that says that nothing was read has nothing to be told.
        let pure = Finished {
            trace_digest: None,
            trace_readings: None,
            reproducibility: Some(Reproducibility::Pure),
            ..finished
        };
        let compared = compare(&accepted, &pure, &Ran { asked_for_more: true, ..same() }).unwrap();
        assert!(compared.differences.iter().any(|one| one.found.contains("the 0 readings")), "{compared:?}");
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
