//! One guest, from its store to its outcome.
//!
//! How an end becomes an [`Outcome`]:
//! - returned, or exit code 0: *succeeded*; another exit code: *exited*; a trap: *trapped*;
//! - a trap after the guest was denied memory or table elements: *out of memory*. A guest that goes on without them and
//!   ends by itself has chosen how: it has *succeeded*, or *exited* with its code, and the message tells of the denial;
//! - but *failed* when it was denied because this node never has so much for one guest, and did not succeed;
//! - memory that others hold now is no end: the guest is [set back](Ended::SetBack), and run again when there is some;
//!   so is one whose output was cut off for want of it. Where it is too late for that, growth is refused to the guest,
//!   which has *failed* if it does not succeed without, and of an output that was cut off the message tells;
//! - the last of the fuel it was given, if it is metered: *out of fuel*, whatever it was denied before;
//! - too little memory to begin with: *out of memory*; any other failure to begin: *failed*, the host's fault;
//! - the wall clock, which also counts instantiation and waiting for turns: *deadline exceeded*.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use tokio::time::Instant;
use wasmtime::{InstancePre, Store, Trap, UpdateDeadline};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, p1::WasiP1Ctx};
use wasmwiz_events::{
    execution::{Outcome, Seed},
    reproducibility::Reproducibility,
    time::{Millis, Timestamp},
};

use super::{
    Job, Ran, Stream,
    budget::{Account, Full, MemoryBudget},
    clocks::{GuestTime, Told, Unkept},
    limits::{Denied, Limiter},
    places::Whose,
    random,
    sink::Sink,
    ticker::Ticker,
    time::VirtualTime,
    turns::{Pause, Sliced, Turns},
    wasi,
};

/// Everything that guests of one node share.
pub(crate) struct Node {
    pub(crate) ticker: Ticker,
    pub(crate) heavy_after: Duration,
}

/// What a store holds.
pub(crate) struct Guest {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) random: ChaCha20Rng,
    pub(crate) time: GuestTime,
    pub(crate) pause: Pause,
    limiter: Limiter,
}

/// Why a call of the guest to the host could not be answered. For the guest's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostCallError {
    /// Nothing to read from or to write to.
    #[error("it exports no memory under the name \"memory\"")]
    NoMemory,
    /// An address or a size that is not of it.
    #[error("it named a place outside of its memory, or one that is not aligned")]
    OutOfBounds,
    /// A clock was read that was recorded, and no more of it is.
    #[error("it read the clocks more often than its record has it")]
    NoReading,
    /// Whatever the library has no number for.
    #[error("it asked for more than the host has for one guest")]
    Other,
}

impl HostCallError {
    /// What a failed call was about. The library has types for its own faults alone, and texts for the rest.
    pub(super) fn of(error: &wasmtime::Error) -> Self {
        if let Some(ours) = error.downcast_ref::<Self>() {
            return *ours;
        }
        let text = format!("{error:#}");
        let is_about = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if is_about(&["missing required memory export"]) {
            Self::NoMemory
        } else if is_about(&["Pointer out of bounds", "Pointer not aligned", "Pointer overflow"]) {
            Self::OutOfBounds
        } else {
            Self::Other
        }
    }
}

impl Guest {
    /// A guest that never runs: for asking the linker about types.
    pub(crate) fn nobody() -> Self {
        let wasi = WasiCtxBuilder::new().build_p1();
        let limiter = Limiter::new(MemoryBudget::new(0).account(None), 0, Instant::now());
        let time = GuestTime::by_rule(VirtualTime::starting_at(Timestamp::from_unix_ms(0)));
        Self { wasi, random: random::generator(Seed::new([0; 16]), b"nobody"), time, pause: Pause::default(), limiter }
    }
}

/// How a guest stopped.
enum End {
    Returned,
    Exit(i32),
    Trap(Trap),
    /// A host function ended it.
    HostCall(HostCallError),
    NotInstantiated,
    Deadline,
    Cancelled,
}

/// What became of a guest.
pub(crate) enum Ended {
    /// It has its end.
    Ran(Ran),
    /// Others hold the memory that it wanted: it has ended, has left nothing behind, and may be run from its beginning.
    SetBack(Lack),
}

/// What a guest that was set back had too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lack {
    /// What it would have held, in bytes.
    pub(crate) bytes: u64,
    /// Was it for its outputs alone? Then it ran to its end.
    pub(crate) is_output: bool,
}

/// Where the memory of a guest comes from.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    /// What its memory and outputs are taken from.
    pub(crate) account: &'a Arc<Account>,
    /// Until when it may be set back.
    pub(crate) until: Instant,
}

/// Runs the guest, which is `whose`, to its end. `turns` are those of the guests of this thread; `gone` resolves when nobody
/// waits for the result any more.
pub(crate) async fn run(
    node: &Node,
    (turns, whose): (Arc<Turns>, &Whose),
    module: &InstancePre<Guest>,
    job: &Job,
    memory: Memory<'_>,
    gone: impl Future<Output = ()>,
) -> Ended {
    // What is prepared for the one is none of the other's: fuel that nobody counts must not look like fuel that was enough.
    if module.module().engine().get_consume_fuel() != job.fuel.is_some() {
        return Ended::Ran(failed("the guest was prepared for another profile than it was to run in"));
    }
    let started = Instant::now();
    let _ticking = node.ticker.guest_runs();
    let stdout = Sink::new(job.limits.stdout_bytes, memory.account);
    let stderr = Sink::new(job.limits.stderr_bytes, memory.account);
    let mut store = store(module, job, memory, stdout.clone(), stderr.clone());
    let (end, cpu) = {
        let pause = store.data().pause.clone();
        let mut call = std::pin::pin!(call(&mut store, module));
        let mut sliced = Sliced::new(call.as_mut(), pause, whose, node.heavy_after, turns);
        let wall = Duration::from_millis(job.limits.wall_ms);
        let end = tokio::select! {
            biased;
            () = job.cancel.cancelled() => End::Cancelled,
            () = gone => End::Cancelled,
            end = tokio::time::timeout(wall, &mut sliced) => end.unwrap_or(End::Deadline),
        };
        (end, sliced.cpu())
    };
    let (end, fuel) = metered(end, job.fuel, store.get_fuel().ok());
    // The instance goes first, then the memory it held returns to the node's budget.
    let guest = store.into_data();
    memory.account.settle();
    let cut = stdout.cut().or(stderr.cut());
    if let Some(is_output) = lacks_output(&end, guest.limiter.set_back(), cut, Instant::now() < memory.until) {
        return Ended::SetBack(Lack { bytes: memory.account.lacked_bytes(), is_output });
    }
    let (outcome, exit_code, message) = judge(&end, guest.limiter.denied(), job);
    let told = guest.time.told();
    let message = remarked(outcome, with_cut(message, cut), &told);
    let is_short = guest.limiter.is_short() || cut.is_some();
    Ended::Ran(Ran {
        outcome,
        exit_code,
        reproducibility: reproducibility(outcome, is_short, &told),
        // With less than it may have it goes other ways than the recorded one, and that is the host's doing.
        asked_for_more: guest.time.asked_for_more() && !is_short,
        transcript: if let Told::ByHost(transcript) = told { transcript } else { Bytes::new() },
        stdout: stdout.take(),
        stderr: stderr.take(),
        fuel,
        cpu: Millis::from(cpu),
        wall: Millis::from(started.elapsed()),
        peak_memory_bytes: guest.limiter.peak_bytes(),
        message,
    })
}

/// Is it to be run again, because others hold memory that it wanted? And was that for its outputs alone? Its time, or
/// somebody who has ended it, decides before that.
const fn lacks_output(end: &End, set_back: Option<Full>, cut: Option<Full>, is_early: bool) -> Option<bool> {
    match (end, set_back, cut) {
        (End::Deadline | End::Cancelled, ..) => None,
        (End::HostCall(_) | End::NotInstantiated, Some(_), _) => Some(false),
        (_, _, Some(Full::Tenant | Full::Node)) if is_early => Some(true),
        _ => None,
    }
}

/// What is said of an end, and of an output that was cut off before its limit.
fn with_cut(message: Option<String>, cut: Option<Full>) -> Option<String> {
    let Some(cut) = cut else { return message };
    let cut = format!("not all of its output was kept: {cut}");
    Some(match message {
        Some(message) => format!("{message}; {cut}"),
        None => cut,
    })
}

fn store(module: &InstancePre<Guest>, job: &Job, memory: Memory<'_>, stdout: Sink, stderr: Sink) -> Store<Guest> {
    let limiter = Limiter::new(Arc::clone(memory.account), job.limits.memory_bytes, memory.until);
    let mut store = Store::new(
        module.module().engine(),
        Guest {
            wasi: wasi::context(job, stdout, stderr),
            random: random::generator(job.seed, b"secure"),
            time: GuestTime::of(job, memory.account),
            pause: Pause::of_slices(),
            limiter,
        },
    );
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(wasi::host_call_bytes(job));
    if let Some(fuel) = job.fuel {
        // It cannot fail on the engine of the metered profile, which `run` has made sure of.
        let _ = store.set_fuel(fuel);
    }
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|guest| Ok(UpdateDeadline::YieldCustom(1, Box::pin(guest.data().pause.give_way()))));
    store
}

/// What a guest has used of what it was `given`, and whether that was all of it, which is its end then. `left` is what its store says.
///
/// The engine looks whether there is some left where a function or a loop begins, and writes down how much where a function ends or another one is
/// called. So a guest that has used up all with its last steps returns as if nothing were; and of one that is stopped anywhere else nobody knows how much
/// it used, only that it was less than all.
const fn metered(end: End, given: Option<u64>, left: Option<u64>) -> (End, Option<u64>) {
    let (Some(given), Some(left)) = (given, left) else { return (end, None) };
    match end {
        End::Trap(Trap::OutOfFuel) => (end, Some(given)),
        End::Returned | End::Exit(_) if left == 0 => (End::Trap(Trap::OutOfFuel), Some(given)),
        End::Returned | End::Exit(_) | End::HostCall(_) => (end, Some(given.saturating_sub(left))),
        End::Trap(_) | End::NotInstantiated | End::Deadline | End::Cancelled => (end, None),
    }
}

async fn call(store: &mut Store<Guest>, module: &InstancePre<Guest>) -> End {
    let instance = match module.instantiate_async(&mut *store).await {
        Ok(instance) => instance,
        // A start function may trap or exit.
        Err(error) => return stopped(&error).unwrap_or_else(|| not_instantiated(store, &error)),
    };
    let start = match instance.get_typed_func::<(), ()>(&mut *store, "_start") {
        Ok(start) => start,
        Err(error) => return not_instantiated(store, &error),
    };
    match start.call_async(&mut *store, ()).await {
        Ok(()) => End::Returned,
        Err(error) => stopped(&error).unwrap_or_else(|| {
            tracing::debug!(error = ?error, "a host call ended a guest");
            End::HostCall(HostCallError::of(&error))
        }),
    }
}

fn not_instantiated(store: &Store<Guest>, error: &wasmtime::Error) -> End {
    if store.data().limiter.denied().is_none() {
        tracing::error!(error = ?error, "a guest could not be instantiated");
    }
    End::NotInstantiated
}

fn stopped(error: &wasmtime::Error) -> Option<End> {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Some(End::Exit(*code));
    }
    error.downcast_ref::<Trap>().map(|trap| End::Trap(*trap))
}

fn judge(end: &End, denied: Option<Denied>, job: &Job) -> (Outcome, Option<i32>, Option<String>) {
    let said = |why: Denied| Some(why.to_string());
    match (end, denied) {
        (End::Returned | End::Exit(0), _) => (Outcome::Succeeded, Some(0), None),
        (End::Trap(Trap::OutOfFuel), _) => {
            let given = job.fuel.unwrap_or_default();
            (Outcome::OutOfFuel, None, Some(format!("the guest used up the {given} units of fuel it was given")))
        }
        // That the node has so little is not the guest's doing.
        (
            End::Exit(_) | End::Trap(_) | End::HostCall(_) | End::NotInstantiated,
            Some(why @ (Denied::Node { .. } | Denied::Now(_))),
        ) => (Outcome::Failed, None, said(why)),
        // It went on without, and chose how to end: that is its own word.
        (End::Exit(code), Some(why)) => {
            let message = format!("the guest exited with code {code}; before that, {why}");
            (Outcome::Exited, Some(*code), Some(message))
        }
        (End::Trap(_) | End::HostCall(_) | End::NotInstantiated, Some(why)) => (Outcome::OutOfMemory, None, said(why)),
        (End::Exit(code), None) => (Outcome::Exited, Some(*code), Some(format!("the guest exited with code {code}"))),
        (End::Trap(trap), None) => (Outcome::Trapped, None, Some(format!("the guest trapped: {trap}"))),
        (End::HostCall(why), None) => {
            let message = format!("the guest made a system call that cannot be answered: {why}");
            (Outcome::Trapped, None, Some(message))
        }
        (End::NotInstantiated, None) => {
            (Outcome::Failed, None, Some("the host could not make room for the guest".into()))
        }
        (End::Deadline, _) => {
            let wall_ms = job.limits.wall_ms;
            (Outcome::DeadlineExceeded, None, Some(format!("the guest ran longer than {wall_ms} ms")))
        }
        (End::Cancelled, _) => (Outcome::Cancelled, None, Some("the execution was cancelled".into())),
    }
}

/// What the end depended on. `is_short`: the host had less for it than it may have.
const fn reproducibility(outcome: Outcome, is_short: bool, told: &Told) -> Reproducibility {
    if is_by_host(outcome) {
        return Reproducibility::Unverifiable;
    }
    match told {
        _ if is_short => Reproducibility::Unverifiable,
        Told::Nothing => Reproducibility::Pure,
        Told::ByRule => Reproducibility::VirtualTime,
        Told::ByHost(_) => Reproducibility::Transcript,
        Told::Unkept(_) => Reproducibility::Unverifiable,
    }
}

/// Is it an end that the host made, and not the guest?
const fn is_by_host(outcome: Outcome) -> bool {
    match outcome {
        Outcome::DeadlineExceeded | Outcome::Cancelled | Outcome::Failed | Outcome::Lost => true,
        Outcome::Succeeded | Outcome::Exited | Outcome::Trapped | Outcome::OutOfFuel | Outcome::OutOfMemory => false,
    }
}

/// What is said of an end, and why its record cannot be run again where that is only for the clocks that were read.
fn remarked(outcome: Outcome, message: Option<String>, told: &Told) -> Option<String> {
    let remark = match told {
        Told::Unkept(_) if is_by_host(outcome) => return message,
        Told::Unkept(Unkept::TooMany) => TOO_MANY,
        Told::Unkept(Unkept::NoMemory) => NO_MEMORY,
        Told::Nothing | Told::ByRule | Told::ByHost(_) => return message,
    };
    Some(message.map_or_else(|| remark.to_owned(), |message| format!("{message}; {remark}")))
}

/// Its guest asked for more readings than are kept.
const TOO_MANY: &str = "the guest read the host's clocks more often than is kept, so it cannot be run again from its record; with \
    clock=virtual, or with fewer readings, it can";

/// The node had too little for what there would have been to keep.
const NO_MEMORY: &str = "the guests of this node held all the memory they may have together, so nothing is kept of what the guest read \
    from the host's clocks, and it cannot be run again from its record; another execution of it may be";

/// What is reported when the host lost the guest.
pub(crate) fn failed(message: &str) -> Ran {
    Ran {
        outcome: Outcome::Failed,
        exit_code: None,
        stdout: Stream::default(),
        stderr: Stream::default(),
        fuel: None,
        cpu: Millis::default(),
        wall: Millis::default(),
        peak_memory_bytes: 0,
        reproducibility: Reproducibility::Unverifiable,
        asked_for_more: false,
        transcript: Bytes::new(),
        message: Some(message.to_owned()),
    }
}
