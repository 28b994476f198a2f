//! Every command and every answer survives the way, a frame of this version never changes, and nothing else is taken for one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wasmwiz_events::{
    execution::{Content, Finished, Seed},
    id::{BootId, KeyId, ModuleName, NodeId},
    key::{Scope, Scopes},
    module::Kind as ModuleKind,
    reproducibility::Reproducibility,
    requests::Denied,
    settings::{Clock, Settings, Sleep},
    skip::Skipped,
    tenant::Tier,
    time::Millis,
    verification::{Aspect, Difference, Verified},
};

use super::*;
use crate::{
    aggregate::Subject,
    tenant::{
        Again, Configured, Execute, Metered, ModuleChoice, NewKey, NewVersion, Rerun, idempotency::Came, scenario,
    },
};

/// What the fields of a command are made of.
#[derive(Debug, Clone)]
struct Stuff {
    text: String,
    number: u64,
    uuid: u128,
    flag: bool,
}

fn stuff() -> impl Strategy<Value = Stuff> {
    (".{0,40}", any::<u64>(), any::<u128>(), any::<bool>()).prop_map(|(text, number, uuid, flag)| Stuff {
        text,
        number,
        uuid,
        flag,
    })
}

impl Stuff {
    fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// A time that has a text.
    fn time(&self) -> Timestamp {
        Timestamp::from_unix_ms(i64::try_from(self.number % 4_000_000_000_000).unwrap())
    }

    fn maybe<T>(&self, value: T) -> Option<T> {
        self.flag.then_some(value)
    }

    fn new_key(&self) -> NewKey {
        NewKey {
            key_id: KeyId::new("key1").unwrap(),
            name: self.text.clone(),
            scopes: Scopes::TENANT.with(Scope::Operator),
            hash: self.digest(),
            expires_at: self.maybe(self.time()),
        }
    }

    fn execute(&self) -> Execute {
        let size_bytes = self.number;
        Execute {
            execution_id: ExecutionId::new(uuid::Uuid::from_u128(self.uuid)),
            module: if self.flag {
                ModuleChoice::Inline { digest: self.digest(), size_bytes }
            } else {
                ModuleChoice::Named { name: ModuleName::new("hello").unwrap(), version: Some(7) }
            },
            stdin: Content { digest: self.digest(), size_bytes },
            args: vec![self.text.clone(), String::new()],
            timeout_ms: self.maybe(self.number),
            seed: Seed::new(self.uuid.to_be_bytes()),
            engine: self.text.clone(),
            node: NodeId::new("node-1").unwrap(),
            boot: BootId::new(uuid::Uuid::from_u128(self.uuid)),
            asynchronous: self.flag,
            // Whoever waits for ever has a deadline that no text can name.
            deadline: self.maybe(Timestamp::from_unix_ms(0).plus_ms(self.number)),
        }
    }

    fn finished(&self) -> Finished {
        let Command::Finish(finished) = scenario::finish(self.uuid) else { unreachable!() };
        Finished {
            fuel: self.maybe(self.number),
            exit_code: self.maybe(-1),
            message: self.maybe(self.text.clone()),
            // With a transcript, without, and as of before there was a word for it.
            reproducibility: match (self.flag, self.number % 2) {
                (true, _) => Some(Reproducibility::Transcript),
                (false, 0) => Some(Reproducibility::VirtualTime),
                (false, _) => None,
            },
            trace_digest: self.maybe(self.digest()),
            trace_readings: self.maybe(self.number),
            ..*finished
        }
    }

    fn verified(&self) -> Verified {
        let differs = Difference { what: Aspect::Stdout, recorded: self.text.clone(), found: String::new() };
        Verified {
            execution_id: ExecutionId::new(uuid::Uuid::from_u128(self.uuid)),
            engine: self.text.clone(),
            reproduced: self.flag,
            differences: if self.flag { vec![] } else { vec![differs] },
            cpu_ms: Millis::from_micros(7),
            bucket_full_at: self.maybe(self.time()),
        }
    }

    fn settings(&self) -> Settings {
        let (sleep, clock) = if self.flag { (Sleep::Skip, Clock::Virtual) } else { (Sleep::Wait, Clock::Host) };
        Settings { sleep, clock, fuel: self.maybe(self.number) }
    }

    /// One of each.
    fn commands(&self) -> Vec<Command> {
        let execution_id = ExecutionId::new(uuid::Uuid::from_u128(self.uuid));
        let (node, boot) = (NodeId::new("node-1").unwrap(), BootId::new(uuid::Uuid::from_u128(self.uuid)));
        let (name, digest, size_bytes) = (ModuleName::new("hello").unwrap(), self.digest(), self.number);
        let key_id = KeyId::new("key1").unwrap();
        let denied = Denied {
            from: self.time(),
            to: self.time().plus_ms(1),
            counts: BTreeMap::from([(self.text.clone(), self.number)]),
        };
        let all = vec![
            Command::Register { name: self.text.clone(), tier: Tier::Pro, first_key: self.maybe(self.new_key()) },
            Command::Change { name: self.maybe(self.text.clone()), tier: self.maybe(Tier::Basic) },
            Command::Suspend { reason: self.maybe(self.text.clone()) },
            Command::Resume,
            Command::IssueKey(self.new_key()),
            Command::RevokeKey { key_id: key_id.clone() },
            Command::RotateKey { key_id, hash: digest, grace_ms: self.number },
            Command::PublishModule {
                name: name.clone(),
                digest,
                size_bytes,
                kind: if self.flag { ModuleKind::Core } else { ModuleKind::Component },
                imports: vec![self.text.clone()],
                exports: vec![],
            },
            Command::RejectModule { name: name.clone(), digest, size_bytes, reason: self.text.clone() },
            Command::DeleteModule { name },
            Command::Execute(Box::new(self.execute())),
            Command::Preview(Box::new(Command::Execute(Box::new(self.execute())))),
            Command::Authorise(Scope::Operator),
            Command::RecordDenials(denied),
            Command::Start { execution_id, node: node.clone(), boot },
            Command::Cancel { execution_id },
            Command::Finish(Box::new(self.finished())),
            Command::RecordVerification(Box::new(self.verified())),
            Command::Reap,
            Command::Lose { execution_id, node, boot },
            Command::Expire,
            Command::Rerun(Rerun {
                of: execution_id,
                start_time: self.maybe(self.time()),
                execute: Box::new(self.execute()),
            }),
            Command::Metered(Metered {
                fuel: self.number,
                of: self.maybe(Again { id: execution_id, start_time: self.maybe(self.time()) }),
                execute: Box::new(self.execute()),
            }),
            Command::PublishVersion(NewVersion {
                name: ModuleName::new("hello").unwrap(),
                digest,
                size_bytes,
                kind: ModuleKind::Core,
                imports: vec![],
                exports: vec![self.text.clone()],
                settings: self.settings(),
            }),
            Command::Configured(Configured {
                settings: self.settings(),
                fuel: self.maybe(self.number),
                of: self.maybe(Again { id: execution_id, start_time: self.maybe(self.time()) }),
                execute: Box::new(self.execute()),
            }),
            Command::SkipCommit(Skipped {
                tenant: TenantId::new("acme").unwrap(),
                position: Position::new(self.number),
                reason: self.text.clone(),
            }),
            Command::ReleasePayloads,
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(Command::name).collect();
        assert_eq!(names.len(), COMMANDS, "one of each");
        all
    }

    /// One of each.
    fn refusals(&self) -> Vec<Refusal> {
        let (number, retry_after_ms) = (u32::try_from(self.number % 1_000_000).unwrap(), self.number);
        let limit = number;
        let all = vec![
            Refusal::NotRegistered,
            Refusal::AlreadyRegistered,
            Refusal::Suspended,
            Refusal::SystemTenant,
            Refusal::InvalidName,
            Refusal::KeyUnknown,
            Refusal::KeyRevoked,
            Refusal::KeyExpired(self.time()),
            Refusal::MissingScope(Scope::AuditRead),
            Refusal::WiderScopes,
            Refusal::NoScopes,
            Refusal::ExpiresInThePast,
            Refusal::KeyExists,
            Refusal::KeyNotLive,
            Refusal::GraceTooLong { limit_seconds: self.number },
            Refusal::TooManyKeys { limit },
            Refusal::ModuleUnknown,
            Refusal::VersionUnknown { version: number, latest: 1 },
            Refusal::TooManyModules { limit },
            Refusal::TooManyModuleNames { limit },
            Refusal::TooManyVersions { limit },
            Refusal::ModuleTooLarge { limit_bytes: self.number },
            Refusal::StdinTooLarge { limit_bytes: self.number },
            Refusal::BadArguments { count: 64, bytes: 8_192 },
            Refusal::NotAKey,
            Refusal::RateLimited { per_minute: number, retry_after_ms },
            Refusal::WritesLimited { per_minute: number, retry_after_ms },
            Refusal::DailyQuotaUsed { per_day: self.number, retry_after_ms },
            Refusal::TooManyConcurrent { limit },
            Refusal::IdempotencyKeyReused,
            Refusal::TooManyIdempotencyKeys { limit, retry_after_ms },
            Refusal::DenialsRecordedLately { retry_after_ms },
            Refusal::Stale,
            Refusal::TooManyQueued { limit },
            Refusal::DeadlinePassed,
            Refusal::ExecutionStarted,
            Refusal::ExecutionNotOpen,
            Refusal::StaleAttempt { offered: number },
            Refusal::OtherSettings(self.settings()),
            Refusal::HostClockForbidden,
            Refusal::NotSkippable,
            Refusal::InvalidReason,
            Refusal::TooManySkips { limit: 10_000 },
            Refusal::StorageQuotaExceeded { limit_bytes: self.number, left_bytes: 7, needed_bytes: u64::MAX },
            Refusal::StorageKeptFree { limit_bytes: self.number, left_bytes: 7, needed_bytes: u64::MAX },
        ];
        let numbers: std::collections::BTreeSet<_> = all.iter().map(number_of).collect();
        assert_eq!(numbers.len(), REFUSALS, "one of each");
        all
    }

    fn question(&self, command: Command) -> Question {
        let subject = Subject::new("corp", "ada", Scopes::TENANT).unwrap();
        let key = KeyId::new("key1").unwrap();
        let by = match self.number % 5 {
            0 => Authority::Key(key),
            1 => Authority::Token { key, scopes: Scopes::NONE.with(Scope::ExecutionsRun) },
            2 => Authority::Subject(subject),
            3 => Authority::Operator(self.text.clone()),
            _ => Authority::System,
        };
        let origin = Origin {
            command: CommandId::new(uuid::Uuid::from_u128(self.uuid)),
            correlation: self.maybe(RequestId::new("request-1").unwrap()),
            traceparent: self.maybe(self.text.as_str().into()),
            once: self.maybe(Idempotency { key: self.digest(), request: self.digest() }),
            expected: [
                None,
                Some(Seen::Revision(Revision::new(self.number))),
                Some(Seen::Version(7)),
                Some(Seen::Other),
            ][usize::try_from(self.number % 4).unwrap()],
        };
        let payloads = vec![Payload::new(self.text.clone().into()), Payload::new(Bytes::new())];
        let ask = Ask { command, by, origin, payloads };
        Question { tenant: TenantId::new("acme").unwrap(), within: Duration::from_millis(self.number), ask }
    }

    fn decided(&self) -> Decided {
        let unknown = wasmwiz_events::event::Unknown {
            type_name: "dev.wasmwiz.later.v9".to_owned(),
            data: RawValue::from_string(r#"{"x":[1]}"#.to_owned()).unwrap(),
        };
        Decided {
            events: scenario::running().into_iter().chain([scenario::finished(1), Event::Unknown(unknown)]).collect(),
            replayed: self.maybe(Replayed {
                came: Came::Execution(scenario::execution_id(self.uuid)),
                running: true,
                at: self.time(),
            }),
            time: self.time(),
            revision: Revision::new(self.number),
            position: Position::new(self.number),
            runs_at: self.maybe(Life { node: scenario::node(), boot: scenario::boot(self.uuid) }),
        }
    }
}

const COMMANDS: usize = 27;
const REFUSALS: usize = 45;

/// Fails to compile when there is another: then it has to be among [`Stuff::refusals`], and the frames are of a new version, unless it
/// answers a new command alone.
fn number_of(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::NotRegistered => 0,
        Refusal::AlreadyRegistered => 1,
        Refusal::Suspended => 2,
        Refusal::SystemTenant => 3,
        Refusal::InvalidName => 4,
        Refusal::KeyUnknown => 5,
        Refusal::KeyRevoked => 6,
        Refusal::KeyExpired(_) => 7,
        Refusal::MissingScope(_) => 8,
        Refusal::WiderScopes => 9,
        Refusal::NoScopes => 10,
        Refusal::ExpiresInThePast => 11,
        Refusal::KeyExists => 12,
        Refusal::KeyNotLive => 13,
        Refusal::GraceTooLong { .. } => 14,
        Refusal::TooManyKeys { .. } => 15,
        Refusal::ModuleUnknown => 16,
        Refusal::VersionUnknown { .. } => 17,
        Refusal::TooManyModules { .. } => 18,
        Refusal::TooManyModuleNames { .. } => 19,
        Refusal::TooManyVersions { .. } => 20,
        Refusal::ModuleTooLarge { .. } => 21,
        Refusal::StdinTooLarge { .. } => 22,
        Refusal::BadArguments { .. } => 23,
        Refusal::NotAKey => 24,
        Refusal::RateLimited { .. } => 25,
        Refusal::WritesLimited { .. } => 26,
        Refusal::DailyQuotaUsed { .. } => 27,
        Refusal::TooManyConcurrent { .. } => 28,
        Refusal::IdempotencyKeyReused => 29,
        Refusal::TooManyIdempotencyKeys { .. } => 30,
        Refusal::DenialsRecordedLately { .. } => 31,
        Refusal::Stale => 32,
        Refusal::TooManyQueued { .. } => 33,
        Refusal::DeadlinePassed => 34,
        Refusal::ExecutionStarted => 35,
        Refusal::ExecutionNotOpen => 36,
        Refusal::StaleAttempt { .. } => 37,
        Refusal::OtherSettings(_) => 38,
        Refusal::HostClockForbidden => 39,
        Refusal::NotSkippable => 40,
        Refusal::InvalidReason => 41,
        Refusal::TooManySkips { .. } => 42,
        Refusal::StorageQuotaExceeded { .. } => 43,
        Refusal::StorageKeptFree { .. } => 44,
    }
}

fn read(frame: &[u8]) -> Result<Question, FrameError> {
    Question::decode(open(frame)?.1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn every_command_arrives_as_it_was_sent(stuff in stuff()) {
        for command in stuff.commands() {
            let question = stuff.question(command);
            let frame = question.encode().unwrap();
            let (kind, _) = open(&frame).unwrap();
            prop_assert_eq!(kind == Kind::Report, question.ask.command.is_report());
            prop_assert_eq!(read(&frame).unwrap(), question);
        }
    }

    #[test]
    fn every_answer_arrives_as_it_was_given(stuff in stuff()) {
        let (reason, retry_after_ms): (Arc<str>, _) = (stuff.text.as_str().into(), stuff.number);
        let refused = stuff.refusals().into_iter().map(Reply::Refused);
        let others = [
            Reply::Decided(stuff.decided()),
            Reply::Busy { retry_after_ms },
            Reply::NotHere,
            Reply::Unread { reason: Arc::clone(&reason) },
            Reply::TooLate,
            Reply::Unavailable { reason, retry_after_ms },
        ];
        for reply in refused.chain(others) {
            prop_assert_eq!(Reply::decode(&reply.encode().unwrap()).unwrap(), reply);
        }
    }

    #[test]
    fn no_bytes_are_taken_for_what_was_not_sent(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in any::<usize>()) {
        prop_assert!(open(&bytes).is_err());
        // A header that fits does not make a body that does: whatever it holds, reading ends, within bounds.
        for kind in [Kind::Ask, Kind::Reply, Kind::Control] {
            let frame = seal(kind, &bytes);
            let _ = (read(&frame), Reply::decode(&frame), Control::decode(&frame));
        }
        let mut frame = golden_question().encode().unwrap().to_vec();
        let at = at % frame.len();
        frame[at] ^= 1;
        prop_assert!(read(&frame).is_err());
        prop_assert!(read(&frame[..at]).is_err());
    }
}

fn golden_question() -> Question {
    let command = scenario::execute(scenario::HELLO);
    Stuff { text: "golden".to_owned(), number: 10_000, uuid: 7, flag: true }.question(command)
}

fn golden() -> Vec<(&'static str, Bytes)> {
    let stuff = Stuff { text: "golden".to_owned(), number: 10_000, uuid: 7, flag: true };
    let preview = Command::Preview(Box::new(Command::Resume));
    let refused = Reply::Refused(Refusal::TooManyConcurrent { limit: 2 });
    vec![
        ("ask", golden_question().encode().unwrap()),
        ("preview", stuff.question(preview).encode().unwrap()),
        ("report", stuff.question(scenario::finish(7)).encode().unwrap()),
        ("decided", Reply::Decided(stuff.decided()).encode().unwrap()),
        ("refused", refused.encode().unwrap()),
        ("not_here", Reply::NotHere.encode().unwrap()),
        ("cancel", Control::Cancel { execution_id: scenario::execution_id(7) }.encode().unwrap()),
        ("unreadable", unreadable()),
    ]
}

#[test]
fn a_frame_of_this_version_never_changes() {
    let changed = |(name, frame): (&str, Bytes)| {
        let path = format!("golden/frames/{name}.v{VERSION}.hex");
        let kept = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default();
        (hex::encode(&frame) != kept.trim()).then(|| format!("{path} {}", hex::encode(&frame)))
    };
    let changed: Vec<String> = golden().into_iter().filter_map(changed).collect();
    // Another body is another version: raise VERSION, and keep the files of this one for those that read it.
    assert!(changed.is_empty(), "frames have changed:\n{}", changed.join("\n"));
}

#[test]
fn a_command_within_a_command_is_previewed_and_nothing_deeper_is() {
    let preview = |command| Command::Preview(Box::new(command));
    let stuff = Stuff { text: String::new(), number: 1, uuid: 1, flag: false };
    assert!(stuff.question(preview(Command::Expire)).encode().is_ok());
    assert!(matches!(stuff.question(preview(preview(Command::Expire))).encode(), Err(FrameError::Body(_))));
}

#[test]
fn another_version_says_so_in_words_that_both_know() {
    let mut frame = golden_question().encode().unwrap().to_vec();
    frame[4] = VERSION + 1;
    assert_eq!(read(&frame), Err(FrameError::Version(VERSION + 1)));
    // What a node of that version answers.
    let mut answer = unreadable().to_vec();
    assert_eq!(answer.len(), HEADER_BYTES);
    answer[4] = VERSION + 1;
    assert_eq!(Reply::decode(&answer), Err(FrameError::Version(VERSION + 1)));
    // An answer of another version may be one to a command that was decided.
    let mut decided = Reply::NotHere.encode().unwrap().to_vec();
    decided[4] = VERSION + 1;
    assert_eq!(Reply::decode(&decided), Err(FrameError::Kind));
}

#[test]
fn what_is_too_large_is_not_sent() {
    let stuff = Stuff { text: "x".repeat(FRAME_MAX_BYTES), number: 4, uuid: 1, flag: false };
    let question = stuff.question(Command::Change { name: Some(stuff.text.clone()), tier: None });
    assert!(matches!(question.encode(), Err(FrameError::TooLarge(bytes)) if bytes > FRAME_MAX_BYTES));
}
