//! What is written comes back, byte for byte: golden files, generated events, and types from the future.

use std::{collections::BTreeMap, fs, path::PathBuf};

use proptest::{collection::vec, option, prelude::*};
use uuid::Uuid;

use super::*;
use crate::{
    digest::Digest,
    event::TYPE_NAMES,
    execution::{self, Content, Limits, ModuleRef, Outcome, Output, Seed},
    id::{BootId, ExecutionId, ModuleName, NodeId},
    key::{self, Scope, Scopes},
    module,
    reproducibility::Reproducibility,
    requests,
    retention::{Class, Released},
    revision::Position,
    settings::{Clock, Settings, Sleep},
    skip,
    tenant::{self, Tier},
    time::Millis,
    verification::{Aspect, Difference, Verified},
};

fn golden() -> BTreeMap<String, String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let events = files.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
        let text = fs::read_to_string(&path).unwrap();
        name.starts_with("dev.").then(|| (name, text.trim_end().to_owned()))
    });
    events.collect()
}

#[test]
fn every_type_has_a_golden_file() {
    let golden = golden();
    let missing: Vec<_> = TYPE_NAMES.iter().filter(|name| !golden.contains_key(**name)).collect();
    assert!(missing.is_empty(), "no golden file: {missing:?}");
}

#[test]
fn golden_files_are_read_and_written_again_to_the_same_bytes() {
    for (name, text) in golden() {
        let envelopes = decode(format!("[{text}]").as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!matches!(envelopes[0].event, Event::Unknown(_)), "{name} is not known any more");
        // An older version is upcast on reading: it is known, and it is never written again. What follows the type in the
        // file's name says which optional fields it shows.
        let of =
            |known: &&&str| name.strip_prefix(**known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if let Some(known) = TYPE_NAMES.iter().find(of) {
            assert_eq!(envelopes[0].event.type_name(), *known);
            let written = String::from_utf8(encode(&envelopes).unwrap()).unwrap();
            assert_eq!(written, format!("[{text}]"), "{name}");
        }
    }
}

#[test]
fn an_event_of_an_unknown_type_keeps_its_data_byte_for_byte() {
    let data = r#"{"z":1.0, "a":[ 1e3,"\u00e9" ],  "z":{}}"#;
    let text = format!(
        r#"[{{"specversion":"1.0","id":"0192f0c1-7a2b-7c3d-8e4f-000000000001","type":"dev.wasmwiz.moon.walked.v9","source":"/tenants/acme","subject":"tenants/acme","time":"2026-11-23T20:41:31.250Z","revision":1,"causation":"0192f0c1-7a2b-7c3d-8e4f-000000000002","actor":"system","data":{data}}}]"#
    );
    let envelopes = decode(text.as_bytes()).unwrap();
    let Event::Unknown(unknown) = &envelopes[0].event else { panic!("{:?}", envelopes[0].event) };
    assert_eq!((&*unknown.type_name, unknown.data.get()), ("dev.wasmwiz.moon.walked.v9", data));
    assert_eq!(String::from_utf8(encode(&envelopes).unwrap()).unwrap(), text);
}

#[test]
fn what_is_no_body_is_refused_with_the_reason() {
    let good = golden().remove("dev.wasmwiz.tenant.registered.v1").unwrap();
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        decode(format!("[{}]", good.replace(from, to)).as_bytes())
    };
    assert!(changed("tier", "tier").is_ok());
    assert!(matches!(changed("/tenants/", "/nobody/"), Err(BadBody::Source(_))));
    assert!(
        matches!(changed("\"free\"", "\"golden\""), Err(BadBody::Data(bad)) if bad.type_name.contains("registered"))
    );
    assert!(matches!(changed("\"causation\"", "\"because\""), Err(BadBody::Json(_))));
    for body in ["", "{}", "[", "[1]", "null"] {
        assert!(matches!(decode(body.as_bytes()), Err(BadBody::Json(_))), "{body}");
    }
}

#[test]
fn an_attribute_from_the_future_is_no_obstacle() {
    let good = golden().remove("dev.wasmwiz.tenant.registered.v1").unwrap();
    let more = good.replace("\"revision\"", "\"dataschema\":\"x\",\"revision\"");
    assert!(decode(format!("[{more}]").as_bytes()).is_ok());
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0_i64..4_102_444_800_000).prop_map(Timestamp::from_unix_ms)
}

/// Text with quotes, escapes, controls and all of Unicode.
fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn tenant_id() -> impl Strategy<Value = TenantId> {
    "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?".prop_map(|id| TenantId::new(&id).unwrap())
}

fn key_id() -> impl Strategy<Value = KeyId> {
    "[A-Za-z0-9]{4,32}".prop_map(|id| KeyId::new(&id).unwrap())
}

fn module_name() -> impl Strategy<Value = ModuleName> {
    "[a-z0-9][a-z0-9._-]{0,62}".prop_map(|name| ModuleName::new(&name).unwrap())
}

fn scopes() -> impl Strategy<Value = Scopes> {
    proptest::sample::subsequence(Scope::ALL.to_vec(), 0..=Scope::ALL.len()).prop_map(Scopes::from_iter)
}

fn tier() -> impl Strategy<Value = Tier> {
    proptest::sample::select(Tier::ALL.to_vec())
}

fn millis() -> impl Strategy<Value = Millis> {
    (0_u64..9_007_199_254_000).prop_map(Millis::from_micros)
}

fn execution_id() -> impl Strategy<Value = ExecutionId> {
    uuid().prop_map(ExecutionId::new)
}

fn tenant_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (text(), tier()).prop_map(|(name, tier)| Event::TenantRegistered(tenant::Registered { name, tier })),
        text().prop_map(|name| Event::TenantRenamed(tenant::Renamed { name })),
        tier().prop_map(|tier| Event::TenantTierChanged(tenant::TierChanged { tier })),
        option::of(text()).prop_map(|reason| Event::TenantSuspended(tenant::Suspended { reason })),
        Just(Event::TenantResumed(tenant::Resumed {})),
        (time(), time(), proptest::collection::btree_map(text(), any::<u64>(), 0..4))
            .prop_map(|(from, to, counts)| Event::RequestsDenied(requests::Denied { from, to, counts })),
        (tenant_id(), any::<u64>(), text()).prop_map(|(tenant, position, reason)| {
            Event::CommitSkipped(skip::Skipped { tenant, position: Position::new(position), reason })
        }),
        (proptest::sample::select(Class::ALL.to_vec()), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(class, through, payloads, bytes)| {
                let through_revision = Revision::new(through);
                Event::PayloadsReleased(Released { class, through_revision, payloads, bytes })
            }
        ),
    ]
}

fn key_event() -> impl Strategy<Value = Event> {
    let issued = (key_id(), text(), scopes(), digest(), option::of(time()), option::of(time()));
    prop_oneof![
        issued.prop_map(|(key_id, name, scopes, hash, expires_at, writes_full_at)| {
            Event::KeyIssued(key::Issued { key_id, name, scopes, hash, expires_at, writes_full_at })
        }),
        (key_id(), digest(), time(), option::of(time())).prop_map(|(key_id, hash, grace_until, writes_full_at)| {
            Event::KeyRotated(key::Rotated { key_id, hash, grace_until, writes_full_at })
        }),
        key_id().prop_map(|key_id| Event::KeyRevoked(key::Revoked { key_id })),
    ]
}

fn sleep() -> impl Strategy<Value = Sleep> {
    proptest::sample::select(Sleep::ALL.to_vec())
}

fn clock() -> impl Strategy<Value = Clock> {
    proptest::sample::select(Clock::ALL.to_vec())
}

fn settings() -> impl Strategy<Value = Settings> {
    (sleep(), clock(), option::of(any::<u64>())).prop_map(|(sleep, clock, fuel)| Settings { sleep, clock, fuel })
}

fn module_event() -> impl Strategy<Value = Event> {
    let kind = proptest::sample::select(vec![module::Kind::Core, module::Kind::Component]);
    let named = (module_name(), option::of(time()), settings());
    let published = (named, any::<u32>(), digest(), any::<u64>(), kind, vec(text(), 0..3), vec(text(), 0..3));
    prop_oneof![
        published.prop_map(
            |((name, writes_full_at, settings), version, digest, size_bytes, kind, imports, exports)| {
                Event::ModulePublished(module::Published {
                    name,
                    version,
                    digest,
                    size_bytes,
                    kind,
                    imports,
                    exports,
                    settings,
                    writes_full_at,
                })
            }
        ),
        (module_name(), digest(), any::<u64>(), text(), time(), option::of(time())).prop_map(
            |(name, digest, size_bytes, reason, at, writes_full_at)| {
                Event::ModuleRejected(module::Rejected { name, digest, size_bytes, reason, at, writes_full_at })
            }
        ),
        (module_name(), option::of(time()))
            .prop_map(|(name, writes_full_at)| Event::ModuleDeleted(module::Deleted { name, writes_full_at })),
    ]
}

fn accepted() -> impl Strategy<Value = Event> {
    let module = (option::of(module_name()), option::of(any::<u32>()), digest())
        .prop_map(|(name, version, digest)| ModuleRef { name, version, digest });
    let content = (digest(), any::<u64>()).prop_map(|(digest, size_bytes)| Content { digest, size_bytes });
    let limits = any::<[u64; 5]>().prop_map(|[wall_ms, memory_bytes, stdin_bytes, stdout_bytes, stderr_bytes]| {
        Limits { wall_ms, memory_bytes, stdin_bytes, stdout_bytes, stderr_bytes }
    });
    let node = "[a-z0-9]{1,63}".prop_map(|id| NodeId::new(&id).unwrap());
    let what = (execution_id(), any::<u32>(), module, key_id(), content, vec(text(), 0..4), limits);
    let how = (
        any::<[u8; 16]>(),
        time(),
        text(),
        node,
        uuid(),
        (option::of(time()), option::of(time()), option::of(execution_id()), settings(), option::of(any::<u64>())),
    );
    (what, how).prop_map(|(what, how)| {
        let (execution_id, attempt, module, key_id, stdin, args, limits) = what;
        let (seed, start_time, engine, node, boot, noted) = how;
        let (bucket_full_at, start_by, rerun_of, settings, uploaded_bytes) = noted;
        let Settings { sleep, clock, fuel } = settings;
        let (seed, boot) = (Seed::new(seed), BootId::new(boot));
        Event::ExecutionAccepted(Box::new(execution::Accepted {
            execution_id,
            attempt,
            module,
            key_id,
            stdin,
            args,
            limits,
            seed,
            start_time,
            engine,
            node,
            boot,
            bucket_full_at,
            start_by,
            rerun_of,
            fuel,
            sleep,
            clock,
            uploaded_bytes,
        }))
    })
}

fn started() -> impl Strategy<Value = Event> {
    let boot = uuid().prop_map(BootId::new);
    (execution_id(), any::<u32>(), boot, time()).prop_map(|(execution_id, attempt, boot, start_time)| {
        let node = NodeId::new("node-0").unwrap();
        Event::ExecutionStarted(execution::Started { execution_id, attempt, node, boot, start_time })
    })
}

fn finished() -> impl Strategy<Value = Event> {
    let output = || {
        (digest(), any::<u64>(), any::<bool>()).prop_map(|(digest, size_bytes, truncated)| Output {
            digest,
            size_bytes,
            truncated,
        })
    };
    let outcome = proptest::sample::select(Outcome::ALL.to_vec());
    let what = (execution_id(), any::<u32>(), outcome, option::of(any::<i32>()), output(), output());
    let how = (
        option::of(any::<u64>()),
        millis(),
        millis(),
        any::<u64>(),
        (option::of(digest()), option::of(any::<u64>())),
        any::<bool>(),
        option::of(proptest::sample::select(Reproducibility::ALL.to_vec())),
        option::of(text()),
    );
    (what, how).prop_map(|(what, how)| {
        let (execution_id, attempt, outcome, exit_code, stdout, stderr) = what;
        let (fuel, cpu_ms, wall_ms, peak_memory_bytes, trace, deterministic, reproducibility, message) = how;
        let (trace_digest, trace_readings) = trace;
        Event::ExecutionFinished(Box::new(execution::Finished {
            execution_id,
            attempt,
            outcome,
            exit_code,
            stdout,
            stderr,
            fuel,
            cpu_ms,
            wall_ms,
            peak_memory_bytes,
            trace_digest,
            trace_readings,
            deterministic,
            reproducibility,
            message,
        }))
    })
}

fn lost() -> impl Strategy<Value = Event> {
    (execution_id(), any::<u32>(), text()).prop_map(|(execution_id, attempt, reason)| {
        Event::ExecutionLost(execution::Lost { execution_id, attempt, reason })
    })
}

fn verified() -> impl Strategy<Value = Event> {
    let what = [Aspect::Outcome, Aspect::Stdout, Aspect::Fuel];
    let difference = (proptest::sample::select(what.to_vec()), text(), text())
        .prop_map(|(what, recorded, found)| Difference { what, recorded, found });
    (execution_id(), text(), vec(difference, 0..3), millis(), option::of(time())).prop_map(
        |(execution_id, engine, differences, cpu_ms, bucket_full_at)| {
            let reproduced = differences.is_empty();
            Event::ExecutionVerified(Verified { execution_id, engine, reproduced, differences, cpu_ms, bucket_full_at })
        },
    )
}

fn cause() -> impl Strategy<Value = Cause> {
    let correlation = option::of("[A-Za-z0-9._-]{1,64}".prop_map(|id| RequestId::new(&id).unwrap()));
    let actor = prop_oneof![
        Just(Actor::system()),
        key_id().prop_map(|key| Actor::key(&key)),
        text().prop_map(|subject| Actor::operator(&subject)),
    ];
    let idempotency = (digest(), digest()).prop_map(|(key, request)| Idempotency { key, request });
    (uuid(), correlation, actor, option::of(text()), option::of(idempotency)).prop_map(
        |(command, correlation, actor, traceparent, idempotency)| Cause {
            command: CommandId::new(command),
            correlation,
            actor,
            traceparent: traceparent.map(Into::into),
            idempotency,
        },
    )
}

fn an_envelope() -> impl Strategy<Value = Envelope> {
    let event =
        prop_oneof![tenant_event(), key_event(), module_event(), accepted(), started(), finished(), lost(), verified()];
    (uuid(), tenant_id(), any::<u64>(), time(), cause(), event).prop_map(
        |(id, tenant, revision, time, cause, event)| Envelope {
            id: EventId::new(id),
            tenant,
            revision: Revision::new(revision),
            time,
            cause,
            event,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(envelopes in vec(an_envelope(), 0..4)) {
        let body = encode(&envelopes).unwrap();
        let read = decode(&body).unwrap();
        prop_assert_eq!(&read, &envelopes);
        prop_assert_eq!(encode(&read).unwrap(), body);
    }

    #[test]
    fn reading_never_panics(body in vec(any::<u8>(), 0..200)) {
        let _ = decode(&body);
    }
}
