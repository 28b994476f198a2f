//! A snapshot is read as it was written, its bytes never change within a version, and nothing else is taken for one.

use wasmwiz_events::{
    digest::Digest,
    envelope::{Actor, Cause, Envelope},
    event::Event,
    id::{CommandId, EventId},
    idempotency::Idempotency,
    key, module, requests,
    retention::{Class, Released},
    settings::{Settings, Sleep},
    tenant::Tier,
};

use super::*;
use crate::tenant::scenario::*;

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

/// A tenant that has something of everything.
fn folded() -> Rehydrated {
    let rejected = module::Rejected {
        name: module_name("bad"),
        digest: Digest::of(b"bad"),
        size_bytes: 3,
        reason: "no module".into(),
        at: NOON,
        writes_full_at: Some(NOON.plus_ms(900)),
    };
    let Event::ExecutionAccepted(mut limited) = accepted(4) else { unreachable!() };
    limited.bucket_full_at = Some(NOON.plus_ms(1_500));
    let expiring = key::Issued { expires_at: Some(NOON.plus_ms(86_400_000)), ..issued("key3") };
    let (class, through_revision) = (Class::Inputs, Revision::new(12));
    let released = Released { class, through_revision, payloads: 1, bytes: 2 };
    let denied = requests::Denied { from: NOON, to: NOON, counts: [("rate-limited".to_owned(), 2)].into() };
    let history = [
        registered("Acme", Tier::Pro),
        key_issued(K1),
        key_issued(K2),
        key_revoked(K2),
        Event::KeyIssued(expiring),
        published(HELLO),
        published_as(HELLO, 2, b"two"),
        published_with(HELLO, 3, Settings { sleep: Sleep::Skip, fuel: Some(9), ..Settings::default() }),
        published("gone"),
        deleted("gone"),
        Event::ModuleRejected(rejected),
        accepted(1),
        queued(2),
        queued(3),
        started(3, 1, 1),
        Event::ExecutionAccepted(limited),
        uploaded(5, b"upload", 6),
        finished(5),
        Event::PayloadsReleased(released),
        Event::RequestsDenied(denied),
        suspended(),
    ];
    let (mut tenant, mut places) = (Tenant::new(acme()), Places::default());
    for (event, n) in history.into_iter().zip(1_u128..) {
        places.note(&event, Position::new(7));
        let (id, digest) = (uuid::Uuid::from_u128(n), Digest::of(&n.to_be_bytes()));
        // Each was asked for with a key of its own.
        let cause = Cause {
            command: CommandId::new(id),
            correlation: None,
            actor: Actor::system(),
            traceparent: None,
            idempotency: Some(Idempotency { key: digest, request: digest }),
        };
        let revision = Revision::new(u64::try_from(n).unwrap());
        let envelope = Envelope { id: EventId::new(id), tenant: acme(), revision, time: NOON, cause, event };
        tenant.fold(&envelope, even(NOON).steady);
    }
    let head = Head { revision: Revision::new(20), hash: ChainHash::genesis(&acme()), epoch: Epoch::new(3) };
    let (position, kept) = (Position::new(12), Revision::NONE);
    Rehydrated { tenant, head, position, places, kept, has_unknown: false }
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let (folded, later) = (folded(), Timestamp::from_unix_ms(NOON.unix_ms() + 5_000));
    let bytes = Snapshot::of(&folded, even(NOON)).encode().unwrap();
    let woken = Snapshot::decode(&bytes, &acme()).unwrap().wake(even(later));
    assert_eq!(format!("{:?}", woken.tenant), format!("{:?}", folded.tenant));
    assert_eq!(format!("{:?}", woken.places), format!("{:?}", folded.places));
    assert_eq!((woken.head, woken.position, woken.kept), (folded.head, folded.position, folded.head.revision));
}

#[test]
fn the_bytes_of_this_version_do_not_change() {
    // Another sum means another shape or meaning of the state: raise VERSION, so that no node reads what it does not understand.
    let bytes = Snapshot::of(&folded(), even(NOON)).encode().unwrap();
    assert_eq!(
        (VERSION, hex::encode(checksum(VERSION, &bytes)).as_str()),
        (4, "907eb2edc856af200d13653864de90f21c7b95455b70b72bd22da0f1176969e3")
    );
}

#[test]
fn whatever_byte_is_another_it_is_not_read() {
    let bytes = Snapshot::of(&folded(), even(NOON)).encode().unwrap();
    for place in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[place] ^= 1;
        assert!(Snapshot::decode(&altered, &acme()).is_err(), "the byte at {place}");
    }
    for length in 0..bytes.len() {
        assert!(Snapshot::decode(&bytes[..length], &acme()).is_err(), "{length} bytes");
    }
    assert_eq!(Snapshot::decode(&[&bytes[..], b"x"].concat(), &acme()).unwrap_err(), SnapshotError::Altered);
    let other = TenantId::new("other").unwrap();
    assert_eq!(Snapshot::decode(&bytes, &other).unwrap_err(), SnapshotError::Tenant);
}

#[test]
fn after_the_wall_clock_was_set_back_nothing_lies_in_the_future() {
    let bytes = Snapshot::of(&folded(), even(NOON)).encode().unwrap();
    let back = Moment { wall: Timestamp::from_unix_ms(NOON.unix_ms() - 86_400_000), ..even(NOON) };
    let as_if_now = Snapshot::decode(&bytes, &acme()).unwrap().wake(back);
    assert_eq!(format!("{:?}", as_if_now.tenant), format!("{:?}", folded().tenant));
}
