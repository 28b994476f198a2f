//! A tenant that wants all that its tier allows, again and again: the largest inputs and modules, published ones and such as come along,
//! and the largest outputs. Each answer is held against the book.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use wasmwiz_events::{
    digest::Digest,
    event::Event,
    execution::{Content, Output},
    settings::{Clock, Settings, Sleep},
    tenant::Tier,
    transcript::{self, READING_BYTES},
};

use super::{Asked, book::Book, days, kept_days};
use crate::{
    aggregate::Authority,
    limits::{Policy, TierLimits},
    tenant::{Command, Configured, Execute, ModuleChoice, NewVersion, Refusal, scenario::*},
};

/// The longest that it waits before it asks again, in milliseconds.
const WAITS_MS: u64 = 600_000;

/// Names that it publishes under, beside the one that stays until the end.
const NAMES: u64 = 50;

/// The module that runs by its name, and reads the host's clocks.
const STAYS: &str = "stays";

const HOST: Settings = Settings { sleep: Sleep::Wait, clock: Clock::Host, fuel: None };

#[derive(Debug)]
pub(super) struct Greedy {
    tier: Tier,
    limits: TierLimits,
    book: Book,
    /// How much it has asked for: what is asked for has bytes of its own.
    asked: u128,
    /// The executions that are open, the oldest first.
    open: VecDeque<Open>,
    /// Names with live versions, without the one that stays.
    live: BTreeSet<String>,
    /// Is one execution left open while time passes?
    leaves_one_open: bool,
    seen: Seen,
}

/// An execution, and how it will end.
#[derive(Debug, Clone, Copy)]
struct Open {
    n: u128,
    reads_clocks: bool,
    /// Does it write all that it may? Otherwise nothing.
    writes: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    accepted: u64,
    published: u64,
    deleted: u64,
    without_room: u64,
    releases: u64,
    released_bytes: u64,
    /// How often a release gave room to who had none.
    had_room_again: u64,
    most_bytes: u64,
}

impl Greedy {
    pub(super) fn new(tier: Tier, policy: Policy) -> Self {
        let limits = *policy.of(tier);
        assert!(limits.storage().is_some() && limits.host_clock, "{limits:?}");
        Self {
            tier,
            limits,
            book: Book::default(),
            asked: 0,
            open: VecDeque::new(),
            live: BTreeSet::new(),
            leaves_one_open: false,
            seen: Seen::default(),
        }
    }

    /// Leaves the execution that was accepted last open while time passes. Nothing declares it lost.
    pub(super) fn leaving_one_open(self) -> Self {
        Self { leaves_one_open: true, ..self }
    }

    /// What is stored, by the book.
    pub(super) const fn stored_bytes(&self) -> u64 {
        self.book.stored_bytes()
    }

    /// Asks whether a module of the largest size may be published, and changes nothing.
    pub(super) fn preview(&self) -> Command {
        Command::Preview(Box::new(self.publication("preview", u128::MAX, Settings::default())))
    }

    pub(super) async fn registers(&mut self, tenant: &mut impl Asked) {
        let (tier, first_key) = (self.tier, Some(new_key(K1)));
        let register = Command::Register { name: "Acme".into(), tier, first_key };
        self.ask(tenant, &Authority::System, register, 0).await.unwrap();
        let module = self.publication(STAYS, 0, HOST);
        self.ask(tenant, &Authority::System, module, self.limits.module_bytes).await.unwrap();
    }

    /// Runs and publishes until both are refused, and gives in how many milliseconds it is worth to ask again.
    pub(super) async fn asks_for_all(&mut self, tenant: &mut impl Asked) -> u64 {
        self.ends_all_but(0, tenant).await;
        let (mut runs, mut publishes, mut wait_ms) = (true, true, WAITS_MS);
        while runs || publishes {
            if runs {
                match self.runs(tenant).await {
                    Ok(()) => {}
                    Err(Refusal::TooManyConcurrent { .. }) => self.ends_the_oldest(tenant).await,
                    Err(refusal) => (runs, wait_ms) = (false, wait_ms.min(again_in_ms(&refusal))),
                }
            }
            if publishes && let Err(refusal) = self.publishes(tenant).await {
                (publishes, wait_ms) = (false, wait_ms.min(again_in_ms(&refusal)));
                if is_without_room(&refusal) {
                    // What is deleted makes room later.
                    wait_ms = wait_ms.min(self.deletes_one(tenant).await);
                }
            }
        }
        self.ends_all_but(usize::from(self.leaves_one_open), tenant).await;
        wait_ms.max(1)
    }

    /// Has what is older than it is kept released, and sees whether there is room before and after.
    pub(super) async fn is_swept(&mut self, tenant: &mut impl Asked) {
        let (was_full, before_bytes) = (self.is_full(tenant).await, self.stored_bytes());
        let released = self.ask(tenant, &Authority::System, Command::ReleasePayloads, 0).await.unwrap();
        self.seen.releases += u64::from(!released.is_empty());
        self.seen.released_bytes += before_bytes - self.stored_bytes();
        let is_full = self.is_full(tenant).await;
        self.seen.had_room_again += u64::from(was_full && !is_full);
    }

    /// Deletes all modules and ends all executions.
    pub(super) async fn removes_all(&mut self, tenant: &mut impl Asked) {
        self.ends_all_but(0, tenant).await;
        let live = std::mem::take(&mut self.live);
        for name in live.iter().map(String::as_str).chain([STAYS]) {
            let delete = Command::DeleteModule { name: module_name(name) };
            self.ask(tenant, &Authority::System, delete, 0).await.unwrap();
        }
    }

    /// Every time that payloads were kept no longer it found room, with a day or two between to fill that again.
    pub(super) fn was_full_and_had_room_again(&self) {
        let at_least = (days() / u64::from(kept_days() + 2)).max(1);
        assert!(self.seen.without_room > 0 && self.seen.had_room_again >= at_least, "{self}");
        assert!(self.seen.deleted > 0 && self.seen.released_bytes > 0, "{self}");
    }

    /// Asks, and holds the answer against the book, and against what the tenant counts.
    async fn ask(
        &mut self,
        tenant: &mut impl Asked,
        by: &Authority,
        command: Command,
        needed_bytes: u64,
    ) -> Result<Vec<Event>, Refusal> {
        let answer = tenant.ask(by, command).await;
        self.hears(needed_bytes, &answer);
        if let Some(counted_bytes) = tenant.counted() {
            assert_eq!(counted_bytes, self.stored_bytes(), "{self}");
        }
        answer
    }

    fn hears(&mut self, needed: u64, answer: &Result<Vec<Event>, Refusal>) {
        let limit = self.limits.storage_bytes;
        let left = self.book.left_bytes(limit);
        match answer {
            Ok(events) => {
                assert!(needed <= left, "{needed} bytes were let in, and {left} were left: {self}");
                events.iter().for_each(|event| self.book.note(event));
            }
            Err(
                Refusal::StorageQuotaExceeded { limit_bytes, left_bytes, needed_bytes }
                | Refusal::StorageKeptFree { limit_bytes, left_bytes, needed_bytes },
            ) => {
                assert_eq!((*limit_bytes, *left_bytes, *needed_bytes), (limit, left, needed), "{self}");
                assert!(needed > left, "{needed} bytes were refused, and {left} were left: {self}");
                self.seen.without_room += 1;
            }
            Err(_) => {}
        }
        let taken = self.book.taken_bytes();
        assert!(taken <= limit, "{taken} bytes of {limit} are stored or may be: {self}");
        self.seen.most_bytes = self.seen.most_bytes.max(taken);
    }

    /// Runs a module that comes along, or where there is no room for it, and in every third turn, the one that stays.
    async fn runs(&mut self, tenant: &mut impl Asked) -> Result<(), Refusal> {
        let comes_along = !self.seen.accepted.is_multiple_of(3);
        match self.runs_one(tenant, comes_along).await {
            Err(refusal) if comes_along && is_without_room(&refusal) => self.runs_one(tenant, false).await,
            came => came,
        }
    }

    async fn runs_one(&mut self, tenant: &mut impl Asked, comes_along: bool) -> Result<(), Refusal> {
        self.asked += 1;
        let (n, TierLimits { stdin_bytes, stdout_bytes, stderr_bytes, module_bytes, .. }) = (self.asked, self.limits);
        let Command::Execute(execute) = execute(STAYS) else { unreachable!() };
        let digest = Digest::of(&n.to_be_bytes());
        let (module, settings, more_bytes) = if comes_along {
            (ModuleChoice::Inline { digest, size_bytes: module_bytes }, Settings::default(), module_bytes)
        } else {
            (execute.module.clone(), HOST, transcript::max_bytes(stdout_bytes))
        };
        let stdin = Content { digest, size_bytes: stdin_bytes };
        let execute = Execute { execution_id: execution_id(n), module, stdin, ..*execute };
        let run = Command::Configured(Configured { settings, ..Configured::from(execute) });
        let needed_bytes = stdin_bytes + stdout_bytes + stderr_bytes + more_bytes;
        self.ask(tenant, &by_key(), run, needed_bytes).await?;
        let writes = !self.seen.accepted.is_multiple_of(4);
        self.open.push_back(Open { n, reads_clocks: !comes_along, writes });
        self.seen.accepted += 1;
        Ok(())
    }

    async fn ends_all_but(&mut self, left_open: usize, tenant: &mut impl Asked) {
        while self.open.len() > left_open {
            self.ends_the_oldest(tenant).await;
        }
    }

    async fn ends_the_oldest(&mut self, tenant: &mut impl Asked) {
        let Some(Open { n, reads_clocks, writes }) = self.open.pop_front() else { return };
        let Command::Finish(mut finished) = finish(n) else { unreachable!() };
        let digest = Digest::of(&n.to_le_bytes());
        let output = |most_bytes| Output { digest, size_bytes: if writes { most_bytes } else { 0 }, truncated: false };
        (finished.stdout, finished.stderr) = (output(self.limits.stdout_bytes), output(self.limits.stderr_bytes));
        if writes && reads_clocks {
            let readings = transcript::max_bytes(self.limits.stdout_bytes) / READING_BYTES as u64;
            (finished.trace_digest, finished.trace_readings) = (Some(digest), Some(readings));
        }
        self.ask(tenant, &Authority::System, Command::Finish(finished), 0).await.unwrap();
    }

    async fn publishes(&mut self, tenant: &mut impl Asked) -> Result<(), Refusal> {
        self.asked += 1;
        let name = format!("name{}", self.seen.published % NAMES);
        let module = self.publication(&name, self.asked, Settings::default());
        self.ask(tenant, &by_key(), module, self.limits.module_bytes).await?;
        self.live.insert(name);
        self.seen.published += 1;
        Ok(())
    }

    /// Gives in how many milliseconds it is worth to ask for another.
    async fn deletes_one(&mut self, tenant: &mut impl Asked) -> u64 {
        let Some(name) = self.live.first().cloned() else { return WAITS_MS };
        let delete = Command::DeleteModule { name: module_name(&name) };
        match self.ask(tenant, &by_key(), delete, 0).await {
            Ok(_) => {
                self.live.remove(&name);
                self.seen.deleted += 1;
                WAITS_MS
            }
            Err(refusal) => again_in_ms(&refusal),
        }
    }

    async fn is_full(&mut self, tenant: &mut impl Asked) -> bool {
        let preview = self.preview();
        let answer = self.ask(tenant, &Authority::System, preview, self.limits.module_bytes).await;
        assert!(answer.as_ref().err().is_none_or(is_without_room), "{answer:?}: {self}");
        answer.is_err()
    }

    /// A module of the largest size, with bytes of its own.
    fn publication(&self, name: &str, n: u128, settings: Settings) -> Command {
        let Command::PublishVersion(version) = publish_with(name, &n.to_be_bytes(), settings) else { unreachable!() };
        Command::PublishVersion(NewVersion { size_bytes: self.limits.module_bytes, ..version })
    }
}

impl fmt::Display for Greedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tier, limit, stored) = (self.tier.as_str(), self.limits.storage_bytes, self.stored_bytes());
        let (open, seen) = (self.open.len(), &self.seen);
        write!(f, "{tier}: {stored} of {limit} bytes are stored, {open} executions are open; {seen:?}")
    }
}

fn by_key() -> Authority {
    Authority::Key(key_id(K1))
}

const fn is_without_room(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::StorageQuotaExceeded { .. } | Refusal::StorageKeptFree { .. })
}

/// What is refused for its rate is asked for again as soon as it may be. Room may come at any time.
fn again_in_ms(refusal: &Refusal) -> u64 {
    match refusal {
        Refusal::RateLimited { retry_after_ms, .. }
        | Refusal::WritesLimited { retry_after_ms, .. }
        | Refusal::DailyQuotaUsed { retry_after_ms, .. } => *retry_after_ms,
        refusal if is_without_room(refusal) => WAITS_MS,
        refusal => panic!("{refusal}"),
    }
}
