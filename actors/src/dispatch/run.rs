//! Admission and the run itself.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Accepted, Content, Outcome},
    id::TenantId,
    payload::{MAX_INLINE_BYTES, Payload},
    revision::Position,
    settings::Settings,
};

use super::{
    Code, DispatchError, Done, Request, Shared, again,
    finish::{Began, OfferedSince},
    keeping::{self, Kept},
    once::Turn,
    patience::Patience,
    runs::Run,
    unended::Unended,
};
use crate::{
    aggregate::Authority,
    ahead::Early,
    executor::{Asker, CodeId, Job, PrepareError, Prepared, Profile, Ran, Slot},
    handle::{Ask, AskError, Decided, Full, Origin},
    queue::Entering,
    region::{ENTITIES_TRIED, contended},
    tenant::{Command, Execute, ModuleChoice, Refusal, admission::granted, idempotency::Came},
    trace,
    verify::NotVerifiable,
};

/// What is said of a guest that a stopping node has ended.
const CUT_OFF: &str = "the node stopped before the guest had ended; run it again";

/// When to try again while the queue is full, in milliseconds.
const QUEUE_RETRY_MS: u64 = 1_000;

/// When to try again what a node that stops does not begin, in milliseconds: then another one answers.
const STOPPING_RETRY_MS: u64 = 1_000;

/// Does somebody wait for the end?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The caller does: there must be a slot before the admission.
    Awaited,
    /// Nobody does: it may wait for its turn.
    Queued,
}

/// An execution that is accepted.
pub(super) struct Admitted {
    pub(super) began: Began,
    /// The commit that accepted it.
    pub(super) position: Position,
    /// How it is stopped, and how its end is told.
    pub(super) run: Arc<Run>,
}

/// A request with everything that has to be there before its admission is asked for.
struct Ready {
    tenant: TenantId,
    ask: Ask,
    run: Arc<Run>,
    slot: Option<Slot>,
    prepared: Option<Prepared>,
    stdin: Bytes,
    /// What is kept for it.
    kept: Kept,
    /// Until it is decided nothing more of its tenant is kept in its stead.
    keeping: Option<keeping::Turn>,
    /// Until it is admitted it has its room in the queue.
    _entering: Option<Entering>,
    /// Until it is admitted nobody begins the same request.
    _turn: Option<Turn>,
}

impl Shared {
    /// `offered` says since when the end of its guest is.
    pub(super) async fn execute(
        self: &Arc<Self>,
        mut request: Request,
        offered: watch::Sender<OfferedSince>,
    ) -> Result<Done, DispatchError> {
        // Until the end is recorded.
        let _hold = std::mem::take(&mut request.hold);
        let mut patience = Patience::default();
        for _ in 0..ENTITIES_TRIED {
            // It is another guest than the one whose admission came to nothing.
            offered.send_replace(None);
            let settings = self.known.of(&request.tenant, &request.code);
            match self.execute_once(request.again(), settings, &mut patience, &offered).await {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => {}
                // It is prepared for what its version says of itself.
                Err(error) if self.known.learns(&request.tenant, &request.code, &error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended().into())
    }

    /// Has an execution admitted and runs its guest, while the admission is being synced if it is decided here. `None`:
    /// the entity has moved, and nothing was stored. What the next one admits is another execution: it may decide otherwise, on another version of
    /// the module, and the end of a guest must never be recorded of an execution that it did not run.
    async fn execute_once(
        self: &Arc<Self>,
        request: Request,
        settings: Settings,
        patience: &mut Patience,
        offered: &watch::Sender<OfferedSince>,
    ) -> Result<Option<Done>, DispatchError> {
        let ready = self.make_ready(request, Manner::Awaited, settings, patience).await?;
        let Ready { tenant, ask, run, slot, prepared, stdin, kept, keeping, .. } = ready;
        let Some(slot) = slot else { return Err(DispatchError::Host("an admission had no slot".into())) };
        let (origin, run) = (ask.origin.clone(), &run);
        let unended = Unended::new(Arc::clone(self), tenant.clone(), run.id);
        let (ahead, told) = oneshot::channel();
        let asked = async {
            let asked = self.deps.bus.ask_ahead(&tenant, ask, ahead).await;
            // Where its entity has moved it is kept once more, and if that is admitted it was not in vain.
            if !matches!(asked, Ok(None)) {
                kept.is_answered(&asked);
            }
            match &asked {
                // It was decided twice, as a message may be that arrives twice, and the first answer went nowhere: nobody runs it.
                Ok(Some(Decided { replayed: Some(replayed), .. })) if replayed.came == Came::Execution(run.id) => {
                    unended.may_be_open();
                }
                Ok(Some(_)) => {}
                // It may be in the log all the same.
                Err(AskError::Unavailable { .. }) => unended.may_be_open(),
                Ok(None) | Err(AskError::Refused(_) | AskError::Busy { .. }) => unended.is_settled(),
            }
            asked
        };
        let ended = async {
            let Ok(Early { accepted, at, after }) = told.await else { return std::future::pending().await };
            drop(keeping);
            unended.may_be_open();
            let began = Began { tenant: tenant.clone(), origin, accepted, at, revision: after };
            let ran = self.run_guest(slot, prepared, &began, run, stdin).await;
            let offer = || {
                offered.send_replace(Some(Instant::now()));
            };
            let finishing = tracing::debug_span!(target: trace::TARGET, "finish");
            let done = self.finish(began, ran, offer).instrument(finishing).await?;
            unended.is_settled();
            kept.is_named();
            run.end(done.position);
            Ok(done)
        };
        tokio::pin!(asked, ended);
        tokio::select! {
            biased;
            done = &mut ended => match done {
                // Its end is durable, so its admission is.
                Ok(done) => Ok(Some(done)),
                // An end finds no place if the admission did not; then that is what there is to say.
                Err(error) => match asked.await? {
                    Some(_) => Err(error),
                    None => Ok(None),
                },
            },
            asked = &mut asked => match asked? {
                Some(decided) => {
                    admission(decided)?;
                    ended.await.map(Some)
                }
                None => Ok(None),
            },
        }
    }

    /// Accepts an execution that waits for its turn.
    pub(super) async fn admit(&self, mut request: Request) -> Result<Admitted, DispatchError> {
        let _hold = std::mem::take(&mut request.hold);
        for _ in 0..ENTITIES_TRIED {
            let settings = self.known.of(&request.tenant, &request.code);
            match self.admit_once(request.again(), settings).await {
                Err(error) if self.known.learns(&request.tenant, &request.code, &error) => {}
                admitted => return admitted,
            }
        }
        Err(contended().into())
    }

    async fn admit_once(&self, request: Request, settings: Settings) -> Result<Admitted, DispatchError> {
        // Nobody waits for it.
        let ready = self.make_ready(request, Manner::Queued, settings, &mut Patience::default()).await?;
        let (tenant, origin) = (ready.tenant.clone(), ready.ask.origin.clone());
        let asked = self.deps.bus.ask(&tenant, ready.ask).await;
        ready.kept.is_answered(&asked);
        let decided = asked?;
        let (at, position, revision) = (decided.time, decided.position, decided.revision);
        let began = Began { tenant, origin, accepted: admission(decided)?, at, revision };
        Ok(Admitted { began, position, run: ready.run })
    }

    /// `settings`: what its version is believed to say of how it runs. `patience`: its caller's, of which earlier tries have taken their part.
    async fn make_ready(
        &self,
        request: Request,
        manner: Manner,
        settings: Settings,
        patience: &mut Patience,
    ) -> Result<Ready, DispatchError> {
        let Request { tenant, by, origin, code, stdin, args, timeout_ms, fuel, rerun, hold: _hold } = request;
        let profile = Profile::of(granted(fuel, settings.fuel));
        let admission = |execute: &Execute| again::admission(execute, fuel, rerun.as_ref(), settings);
        let asynchronous = manner == Manner::Queued;
        let (module, inline) = match code {
            Code::Named { name, version } => (ModuleChoice::Named { name, version }, None),
            Code::Inline(wasm) => {
                let (digest, size_bytes) = (Digest::of(&wasm), wasm.len() as u64);
                (ModuleChoice::Inline { digest, size_bytes }, Some((digest, wasm)))
            }
            Code::Kept(digest) => {
                // Before it is looked for: what is found then is not removed until its acceptance names it.
                self.deps.blobs.note_used(digest).await?;
                let kept = self.deps.blobs.open_pieces(digest).await?.ok_or(NotVerifiable::Gone("module"))?;
                (ModuleChoice::Inline { digest, size_bytes: kept.size_bytes() }, None)
            }
        };
        let recorded = rerun.as_ref().and_then(|rerun| rerun.input);
        let mut execute = Execute {
            execution_id: self.ids.execution(),
            module,
            stdin: recorded.map_or_else(|| Content::of(&stdin), |(_, content)| content),
            args,
            timeout_ms,
            seed: self.ids.seed(),
            engine: self.deps.executors.fingerprint(profile).to_owned(),
            node: self.deps.node.clone(),
            boot: self.deps.boot,
            asynchronous,
            deadline: None,
        };
        if inline.is_some() || stdin.len() > MAX_INLINE_BYTES || origin.once.is_some() || recorded.is_some() {
            // Bytes are kept before the commit that names them: not for somebody who would be refused anyway. And what was
            // done before needs neither slot nor place.
            let command = admission(&execute);
            let previewed = self.preview(&tenant, &command, &by, &origin).await?;
            ran_before(&previewed)?;
        }
        let stdin = match recorded {
            Some((at, content)) => self.recorded(at, content, "standard input").await?,
            None => stdin,
        };
        let entering = if asynchronous {
            let entered = self.deps.bus.enter_queue(&tenant);
            entered.map_err(|Full| DispatchError::Busy { retry_after_ms: QUEUE_RETRY_MS })?
        } else {
            None
        };
        let turn = origin.once.map(|once| self.once.begin(&tenant, &once)).transpose()?;
        let prepared = match &inline {
            Some((digest, wasm)) => {
                let code = CodeId { digest: *digest, profile };
                Some(self.compile(&tenant, code, wasm).await?)
            }
            None => None,
        };
        // Before the slot: nobody holds one of those while it waits for its tenant's modules.
        let mut keeping = match &inline {
            Some(_) => Some(self.keeping.turn_of_module(&tenant).await?),
            None => None,
        };
        let slot = if asynchronous {
            None
        } else {
            // From here on it waits in lines: for a slot, and for its entity.
            let left = patience.enter(timeout_ms, self.deps.bus.region().now());
            execute.deadline = left.map(|left| left.until);
            let waiting = tracing::debug_span!(target: trace::TARGET, "slot");
            Some(self.slot_within(&tenant, left.map(|left| left.ms)).instrument(waiting).await?)
        };
        self.require_space()?;
        let is_large = stdin.len() > MAX_INLINE_BYTES;
        if is_large && keeping.is_none() {
            keeping = Some(self.keeping.turn_of_input(&tenant).await?);
        }
        let mut kept = self.keeping.begin(&tenant);
        if keeping.is_some() {
            // As when it is published. Whoever has stopped waiting by now has nothing kept, and what is kept is not refused for its time.
            let previewed = Box::pin(self.preview(&tenant, &admission(&execute), &by, &origin)).await?;
            ran_before(&previewed)?;
            execute.deadline = None;
        }
        if let Some((digest, wasm)) = &inline {
            Box::pin(self.keep_for(&mut kept, *digest, wasm)).await?;
        }
        if is_large {
            Box::pin(self.keep_for(&mut kept, execute.stdin.digest, &stdin)).await?;
        }
        if self.runs.are_cut_off() {
            return Err(DispatchError::Busy { retry_after_ms: STOPPING_RETRY_MS });
        }
        let payloads = if is_large { vec![] } else { vec![Payload::new(stdin.clone())] };
        // Whoever cancels it from the moment of its acceptance on finds it here.
        let run = self.runs.of(execute.execution_id);
        let command = admission(&execute);
        let ask = Ask { command, by, origin, payloads };
        Ok(Ready { tenant, ask, run, slot, prepared, stdin, kept, keeping, _entering: entering, _turn: turn })
    }

    /// A slot, before the caller stops waiting.
    async fn slot_within(&self, tenant: &TenantId, left_ms: Option<u64>) -> Result<Slot, DispatchError> {
        let reserve = self.deps.executors.reserve_for(tenant);
        let slot = match left_ms {
            None => reserve.await,
            Some(ms) => match tokio::time::timeout(Duration::from_millis(ms), reserve).await {
                Ok(slot) => slot,
                Err(_) => return Err(AskError::Refused(Refusal::DeadlinePassed).into()),
            },
        };
        slot.map_err(|busy| DispatchError::Busy { retry_after_ms: busy.retry_after_ms })
    }

    /// Runs the guest of an execution that has begun, unless it is cancelled before.
    pub(super) async fn run_guest(
        &self,
        slot: Slot,
        prepared: Option<Prepared>,
        began: &Began,
        run: &Run,
        stdin: Bytes,
    ) -> Ran {
        let accepted = &*began.accepted;
        let preparing = async {
            match prepared {
                Some(prepared) => Ok(prepared),
                None => {
                    let preparing = tracing::debug_span!(target: trace::TARGET, "prepare");
                    self.prepare(&began.tenant, CodeId::of(accepted)).instrument(preparing).await
                }
            }
        };
        let ran = match run.cancel.run_until_cancelled(preparing).await {
            Some(Ok(prepared)) => {
                let guest = tracing::debug_span!(
                    target: trace::TARGET,
                    "guest",
                    execution.id = %accepted.execution_id,
                    attempt = accepted.attempt,
                    outcome = tracing::field::Empty,
                );
                let ran = self.run(slot, &prepared, accepted, stdin, run.cancel.clone());
                let ran = ran.instrument(guest.clone()).await;
                guest.record("outcome", ran.outcome.as_str());
                ran
            }
            Some(Err(message)) => Ran::failed(message),
            None => Ran { outcome: Outcome::Cancelled, ..Ran::failed("the execution was cancelled".into()) },
        };
        // Nobody has cancelled it: that the node stops is the host's doing.
        match ran.outcome {
            Outcome::Cancelled if run.is_cut_off() => {
                Ran { outcome: Outcome::Failed, message: Some(CUT_OFF.to_owned()), ..ran }
            }
            _ => ran,
        }
    }

    /// Would the tenant refuse the command now?
    pub(super) async fn preview(
        &self,
        tenant: &TenantId,
        command: &Command,
        by: &Authority,
        origin: &Origin,
    ) -> Result<Decided, AskError> {
        let command = Command::Preview(Box::new(command.clone()));
        let ask = Ask { command, by: by.clone(), origin: origin.clone(), payloads: vec![] };
        self.deps.bus.ask(tenant, ask).await
    }

    async fn run(
        &self,
        slot: Slot,
        prepared: &Prepared,
        accepted: &Accepted,
        stdin: Bytes,
        cancel: CancellationToken,
    ) -> Ran {
        self.deps.executors.run(slot, prepared, Job::of(accepted, stdin, cancel)).await
    }

    /// The compiled module of an admitted execution: from memory, from its artefact, or compiled again from its bytes.
    pub(super) async fn prepare(&self, tenant: &TenantId, code: CodeId) -> Result<Prepared, String> {
        let digest = code.digest;
        if let Some(prepared) = self.deps.executors.prepared(code).await {
            return Ok(prepared);
        }
        let wasm = match self.deps.blobs.get(digest).await {
            Ok(Some(wasm)) => wasm,
            Ok(None) => return Err("the bytes of the module are not kept any more".into()),
            Err(error) => {
                tracing::error!(%digest, %error, "a module cannot be read");
                return Err("the bytes of the module cannot be read".into());
            }
        };
        match self.deps.executors.prepare(Asker::Admitted(tenant.clone()), code, wasm).await {
            Ok(prepared) => Ok(prepared),
            Err(error @ PrepareError::Rejected(_)) => {
                // It compiled when it was published: this machine had less to give now.
                tracing::warn!(%digest, %error, "a published module does not compile any more");
                Err(format!("the host could not compile the published module again: {error}"))
            }
            Err(
                PrepareError::Busy
                | PrepareError::OverShare { .. }
                | PrepareError::OverAllowance { .. }
                | PrepareError::HostShort { .. },
            ) => Err("the host could not compile the published module again in time; run it again".into()),
            Err(PrepareError::Failed(error)) => {
                tracing::error!(%digest, %error, "a module cannot be compiled");
                Err("the host could not compile the module".into())
            }
        }
    }
}

/// The execution that a decision admits.
fn admission(decided: Decided) -> Result<Box<Accepted>, DispatchError> {
    ran_before(&decided)?;
    match decided.events.into_iter().next() {
        Some(Event::ExecutionAccepted(accepted)) => Ok(accepted),
        _ => Err(DispatchError::Host("an admission gave no execution".into())),
    }
}

/// Refuses to run what was run before.
fn ran_before(decided: &Decided) -> Result<(), DispatchError> {
    let Some(replayed) = &decided.replayed else { return Ok(()) };
    let (running, position) = (replayed.running, decided.position);
    match replayed.came {
        Came::Execution(execution_id) => Err(DispatchError::RanBefore { execution_id, running, position }),
        // The digest of a request covers its path: only executions come of a request for one.
        Came::Key(_) | Came::Change => Err(DispatchError::Host("the same request did not start an execution".into())),
    }
}
