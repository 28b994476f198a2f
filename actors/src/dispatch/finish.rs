//! The end of an execution, recorded before anybody hears of it.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use wasmwiz_events::{
    envelope::Envelope,
    event::Event,
    execution::{Accepted, Finished, Outcome, Output},
    id::{ExecutionId, TenantId},
    log::ReadLimit,
    payload::Payload,
    reproducibility::Reproducibility,
    revision::Revision,
    time::{Millis, Timestamp},
    transcript::readings,
};

use super::{DispatchError, Done, End, Shared, keeping::LARGE_OUTPUTS_BYTES};
use crate::{
    aggregate::Authority,
    executor::{Profile, Ran, Stream},
    handle::{Ask, AskError, Decided, Origin},
    region::unavailable,
    tenant::{Command, Refusal},
};

/// How often the end of an execution is offered to its entity. The pauses below add up to about eight seconds, and an
/// offer may wait for its answer as long again as the region allows. Should the execution be declared lost meanwhile, the
/// offer is refused and the caller is told what the log says.
const FINISH_ATTEMPTS: u32 = 8;

/// The first pause between those; each further one is twice as long.
const FINISH_PAUSE_MS: u64 = 60;

/// What there is to say of an end that nobody has taken yet.
pub(super) const IS_UNKNOWN: &str =
    "its guest has run, and it is not known whether its end was recorded; its record tells, once it has ended";

/// Since when the end of a guest is offered, if it has run. Another attempt has a guest of its own.
pub(super) type OfferedSince = Option<Instant>;

/// Returns once an end has been offered for so long. Never, where whoever offers it has gone.
pub(super) async fn is_late(mut offered: watch::Receiver<OfferedSince>, within: Duration) {
    loop {
        let since = *offered.borrow_and_update();
        let changed = match since {
            None => offered.changed().await,
            Some(since) => match timeout_at(since + within, offered.changed()).await {
                Err(_) => return,
                Ok(changed) => changed,
            },
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
    }
}

impl Shared {
    /// Keeps what the guest has written and has its end recorded; `offer` is called once it does not wait for its turn any more.
    pub(super) async fn finish(&self, began: Began, mut ran: Ran, offer: impl FnOnce()) -> Result<Done, DispatchError> {
        // One that waited for its turn while its node got another engine: its record names the one that did not run it.
        if began.accepted.engine != self.deps.executors.fingerprint(Profile::of(began.accepted.fuel)) {
            ran.reproducibility = Reproducibility::Unverifiable;
        }
        let written = ran.written();
        let turn = if written.is_large() { self.turn_of_outputs(&began.tenant).await } else { None };
        offer();
        let (mut outputs, mut transcript) = written.named().await?;
        let all: Vec<_> = outputs.iter().chain(&transcript).cloned().collect();
        let payloads = match self.keep(all).await {
            Ok(payloads) => payloads,
            Err(error) => {
                tracing::error!(execution.id = %began.accepted.execution_id, %error, "an output cannot be kept");
                ran = Ran::failed("the host could not keep the output".into());
                (outputs, transcript) = ran.written().named().await?;
                self.keep(outputs.to_vec()).await?
            }
        };
        drop(turn);
        let finished = finished(&began.accepted, &ran, &outputs, transcript.as_ref());
        let mut pause_ms = FINISH_PAUSE_MS;
        for attempt in 1..=FINISH_ATTEMPTS {
            match self.record_end(&began, &finished, payloads.clone()).await {
                Ok(decided) => {
                    let [stdout, stderr] = outputs.map(|output| output.bytes().clone());
                    let (end, finished_at) = (End::Finished(Box::new(finished)), decided.time);
                    let (accepted, accepted_at, position) = (began.accepted, began.at, decided.position);
                    return Ok(Done { accepted, accepted_at, end, finished_at, stdout, stderr, position });
                }
                Err(AskError::Refused(Refusal::ExecutionNotOpen)) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(done) = self.ended_already(&began, &outputs).await? {
                return Ok(done);
            }
            // The log has its admission and no end: whoever refused had read the stream before the admission was in it, as an
            // owner may that took over meanwhile. It finds out with its next commit.
            if attempt < FINISH_ATTEMPTS {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms *= 2;
            }
        }
        Err(DispatchError::Host("the owner of its tenant knows of no such execution, and the log of no end".into()))
    }

    async fn record_end(
        &self,
        began: &Began,
        finished: &Finished,
        payloads: Vec<Payload>,
    ) -> Result<Decided, AskError> {
        let mut pause_ms = FINISH_PAUSE_MS;
        for attempt in 1.. {
            let command = Command::Finish(Box::new(finished.clone()));
            let origin = Origin { command: self.ids.command(), once: None, expected: None, ..began.origin.clone() };
            let ask = Ask { command, by: Authority::System, origin, payloads: payloads.clone() };
            match self.deps.bus.ask(&began.tenant, ask).await {
                Err(AskError::Busy { .. } | AskError::Unavailable { .. }) if attempt < FINISH_ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms *= 2;
                }
                // "Busy" would say that nothing was done, and its guest has run.
                Err(AskError::Busy { .. }) => break,
                answered => return answered,
            }
        }
        Err(unavailable(IS_UNKNOWN))
    }

    /// The execution has its end in the log: it was declared lost, or an earlier report of ours was recorded and only
    /// its answer got lost. Whoever asks is told what the log says, and nothing else. `None`: the log has no end of it.
    async fn ended_already(&self, began: &Began, outputs: &[Payload; 2]) -> Result<Option<Done>, DispatchError> {
        let unreadable =
            |error: &dyn std::fmt::Display| DispatchError::Host(format!("its end cannot be read: {error}"));
        let mut from = began.revision.next();
        loop {
            let read = self.deps.log.read_stream(&began.tenant, from, ReadLimit::default()).await;
            let commits = read.map_err(|error| unreadable(&error))?;
            let Some(last) = commits.last() else { return Ok(None) };
            from = last.commit.last_revision().next();
            for recorded in &commits {
                let events = recorded.commit.events().map_err(|error| unreadable(&error))?;
                let id = began.accepted.execution_id;
                let Some((end, finished_at)) = events.iter().find_map(|envelope| end_of(id, envelope)) else {
                    continue;
                };
                let kept = matches!(end, End::Finished(_));
                let [stdout, stderr] =
                    outputs.each_ref().map(|output| if kept { output.bytes().clone() } else { Bytes::new() });
                let (accepted, accepted_at, position) = (began.accepted.clone(), began.at, recorded.position);
                return Ok(Some(Done { accepted, accepted_at, end, finished_at, stdout, stderr, position }));
            }
        }
    }
}

/// What is known of an execution once it is admitted.
pub(super) struct Began {
    pub(super) tenant: TenantId,
    pub(super) origin: Origin,
    pub(super) accepted: Box<Accepted>,
    pub(super) at: Timestamp,
    /// The stream's revision when the admission was durable: its end comes after it.
    pub(super) revision: Revision,
}

/// How the execution ended, if this says so.
pub(super) fn end_of(id: ExecutionId, envelope: &Envelope) -> Option<(End, Timestamp)> {
    match &envelope.event {
        Event::ExecutionFinished(finished) if finished.execution_id == id => {
            Some((End::Finished(finished.clone()), envelope.time))
        }
        Event::ExecutionLost(lost) if lost.execution_id == id => Some((End::Lost(lost.clone()), envelope.time)),
        _ => None,
    }
}

fn finished(accepted: &Accepted, ran: &Ran, [stdout, stderr]: &[Payload; 2], transcript: Option<&Payload>) -> Finished {
    let output = |payload: &Payload, truncated| Output {
        digest: payload.digest(),
        size_bytes: payload.bytes().len() as u64,
        truncated,
    };
    Finished {
        execution_id: accepted.execution_id,
        attempt: accepted.attempt,
        outcome: ran.outcome,
        exit_code: ran.exit_code,
        stdout: output(stdout, ran.stdout.truncated),
        stderr: output(stderr, ran.stderr.truncated),
        fuel: ran.fuel,
        cpu_ms: ran.cpu,
        wall_ms: ran.wall,
        peak_memory_bytes: ran.peak_memory_bytes,
        trace_digest: transcript.map(Payload::digest),
        trace_readings: transcript.map(|transcript| readings(transcript.bytes().len())),
        deterministic: ran.reproducibility.is_deterministic(),
        reproducibility: Some(ran.reproducibility),
        message: ran.message.clone(),
    }
}

impl Ran {
    /// The host could not run it: never the guest's fault.
    pub(super) fn failed(message: String) -> Self {
        let nothing = || Stream { bytes: Bytes::new(), truncated: false };
        Self {
            outcome: Outcome::Failed,
            exit_code: None,
            stdout: nothing(),
            stderr: nothing(),
            fuel: None,
            cpu: Millis::default(),
            wall: Millis::default(),
            peak_memory_bytes: 0,
            reproducibility: Reproducibility::Unverifiable,
            asked_for_more: false,
            transcript: Bytes::new(),
            message: Some(message),
        }
    }

    /// What is to be kept of it.
    fn written(&self) -> Written {
        let is_kept = self.reproducibility == Reproducibility::Transcript;
        let outputs = [&self.stdout, &self.stderr].map(|stream| stream.bytes.clone());
        Written { outputs, transcript: is_kept.then(|| self.transcript.clone()) }
    }
}

/// What is to be kept of a run.
struct Written {
    outputs: [Bytes; 2],
    /// What it was told by the host's clocks, if that is what its end depended on.
    transcript: Option<Bytes>,
}

impl Written {
    fn is_large(&self) -> bool {
        self.outputs.iter().chain(&self.transcript).map(Bytes::len).sum::<usize>() > LARGE_OUTPUTS_BYTES
    }

    /// Names each by its digest; what is large on a thread of its own, as that takes a while.
    async fn named(self) -> Result<([Payload; 2], Option<Payload>), DispatchError> {
        let is_large = self.is_large();
        let name = move || (self.outputs.map(Payload::new), self.transcript.map(Payload::new));
        if !is_large {
            return Ok(name());
        }
        let named = tokio::task::spawn_blocking(name).await;
        named.map_err(|error| DispatchError::Host(format!("its output cannot be hashed: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_end_is_late_once_it_was_offered_for_long_and_another_attempt_begins_anew() {
        let (offered, seen) = watch::channel(None);
        let late = |within| timeout(Duration::from_millis(50), is_late(seen.clone(), within));
        late(Duration::ZERO).await.expect_err("its guest runs");
        offered.send_replace(Some(Instant::now()));
        late(LONG).await.expect_err("it is offered since now");
        late(Duration::ZERO).await.expect("it was offered for so long");
        offered.send_replace(None);
        late(Duration::ZERO).await.expect_err("the guest of another attempt runs");
        offered.send_replace(Some(Instant::now() + LONG));
        late(Duration::ZERO).await.expect_err("what the attempt before has taken does not count");
        drop(offered);
        late(LONG).await.expect_err("nobody offers it");
    }

    #[tokio::test]
    async fn who_waits_already_waits_for_the_attempt_that_has_begun_meanwhile() {
        let (offered, seen) = watch::channel(Some(Instant::now()));
        let late = tokio::spawn(is_late(seen, Duration::from_millis(200)));
        tokio::task::yield_now().await;
        offered.send_replace(Some(Instant::now() + LONG));
        timeout(Duration::from_millis(400), late).await.expect_err("it is late by the attempt before");
    }
}
