//! The chain: its exact bytes, and every fault that a walk can meet.

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::{
    commit::{MAX_BODY_BYTES, MAX_EVENTS, SealError},
    envelope,
    id::CommitId,
    log::conformance::Stream,
    time::Timestamp,
};

fn stream() -> Stream {
    Stream::of(TenantId::new("acme").unwrap())
}

/// Two commits, the second one changed by `change` and sealed again if `reseal`.
fn walk(reseal: bool, change: impl FnOnce(&mut Header, &mut Vec<u8>)) -> Broken {
    let mut stream = stream();
    stream.epoch = Epoch::new(5);
    let mut verifier = Verifier::new(stream.tenant.clone());
    let first = stream.seal(2);
    verifier.step(&first).unwrap();
    stream.head = first.head();
    let second = stream.seal(2);
    let (mut header, mut body) = (second.header().clone(), second.body().to_vec());
    change(&mut header, &mut body);
    let hash = if reseal { chain_hash(&header, &body) } else { second.hash() };
    let broken = verifier.step(&Commit::from_stored(header, hash, Bytes::from(body))).unwrap_err();
    assert_eq!((&broken.tenant, broken.revision), (&stream.tenant, Revision::new(3)));
    assert_eq!(*verifier.head(), first.head(), "the walk stays where it was");
    verifier.step(&second).unwrap();
    broken
}

#[test]
fn a_sealed_stream_verifies_and_its_heads_agree() {
    let mut stream = stream();
    let mut verifier = Verifier::new(stream.tenant.clone());
    assert_eq!(*verifier.head(), Head::genesis(&stream.tenant));
    for events in [1, 3, 2] {
        let commit = stream.seal(events);
        verifier.step(&commit).unwrap();
        stream.head = commit.head();
        assert_eq!(*verifier.head(), stream.head);
    }
    assert_eq!(stream.head.revision, Revision::new(6));
    let resumed = Verifier::resume(stream.tenant.clone(), stream.head).step(&stream.seal(1));
    assert!(resumed.is_ok());
}

#[test]
fn a_walk_goes_on_behind_a_commit_that_is_passed_over() {
    let mut stream = stream();
    let mut verifier = Verifier::new(stream.tenant.clone());
    let mut commits = vec![];
    for events in [1, 3, 2] {
        commits.push(stream.seal(events));
        stream.head = commits.last().unwrap().head();
    }
    verifier.step(&commits[0]).unwrap();
    assert!(verifier.pass_over(&commits[1]).is_err(), "nothing lies before it that could be passed over");
    verifier.pass_over(&commits[2]).unwrap();
    verifier.step(&commits[2]).unwrap();
    assert_eq!(*verifier.head(), stream.head);
    assert!(verifier.pass_over(&commits[1]).is_err(), "it does not go back");
}

#[test]
fn the_chain_is_computed_as_another_implementation_computes_it() {
    let golden: Value = serde_json::from_str(include_str!("../../golden/commit.v1.json")).unwrap();
    let text = |name: &str| golden[name].as_str().unwrap();
    let number = |name: &str| golden[name].as_u64().unwrap();
    let bytes = |name: &str| <[u8; 32]>::try_from(hex::decode(text(name)).unwrap()).unwrap();
    let tenant = TenantId::new(text("tenant")).unwrap();
    assert_eq!(ChainHash::genesis(&tenant).to_string(), text("genesis"));
    let header = Header {
        tenant,
        first_revision: Revision::new(number("first_revision")),
        count: number("count") as u32,
        commit_id: CommitId::new(Uuid::try_parse(text("commit_id")).unwrap()),
        owner_epoch: Epoch::new(number("owner_epoch")),
        recorded_at: text("recorded_at").parse().unwrap(),
        prev_hash: ChainHash::from_bytes(bytes("prev_hash")),
    };
    let body = text("body");
    assert_eq!(chain_hash(&header, body.as_bytes()).to_string(), text("hash"));

    // Sealing the same events gives the same bytes and the same hash.
    let head = Head { revision: header.first_revision.previous(), hash: header.prev_hash, epoch: header.owner_epoch };
    let events = envelope::decode(body.as_bytes()).unwrap();
    let Header { tenant, commit_id, owner_epoch, recorded_at, .. } = header.clone();
    let sealed = Commit::seal(&head, tenant.clone(), commit_id, owner_epoch, recorded_at, events).unwrap();
    assert_eq!((sealed.header(), &sealed.body()[..]), (&header, body.as_bytes()));
    assert_eq!(sealed.hash().to_string(), text("hash"));
    Verifier::resume(tenant, head).step(&sealed).unwrap();
}

#[test]
fn a_gap_is_a_fault() {
    let broken = walk(true, |header, _| header.first_revision = Revision::new(4));
    assert!(matches!(broken.fault, Fault::Gap { expected, found } if (expected.get(), found.get()) == (3, 4)));
    let shown = "the history of tenant acme is broken at revision 3: it begins at revision 4 where 3 follows";
    assert_eq!(broken.to_string(), shown);
}

#[test]
fn another_predecessor_is_a_fault() {
    let broken = walk(true, |header, _| header.prev_hash = ChainHash::genesis(&header.tenant));
    assert!(matches!(broken.fault, Fault::Unchained));
}

#[test]
fn an_altered_field_is_a_fault() {
    type Change = fn(&mut Header, &mut Vec<u8>);
    let changes: [Change; 5] = [
        |header, _| header.count += 1,
        |header, _| header.commit_id = CommitId::new(Uuid::nil()),
        |header, _| header.owner_epoch = Epoch::new(6),
        |header, _| header.recorded_at = Timestamp::from_unix_ms(0),
        |_, body| body[10] ^= 1,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert!(matches!(walk(false, change).fault, Fault::Altered), "{index}");
    }
}

#[test]
fn an_older_epoch_is_a_fault() {
    let broken = walk(true, |header, _| header.owner_epoch = Epoch::new(4));
    assert!(matches!(broken.fault, Fault::EpochDecreased { found, before } if (found.get(), before.get()) == (4, 5)));
}

#[test]
fn a_body_that_cannot_be_read_is_a_fault() {
    let broken = walk(true, |_, body| body.truncate(10));
    assert!(matches!(broken.fault, Fault::Unreadable(_)));
}

#[test]
fn other_events_than_announced_are_a_fault() {
    assert!(matches!(walk(true, |header, _| header.count = 3).fault, Fault::Mismatch));
    let other = TenantId::new("other").unwrap();
    assert!(matches!(walk(true, |header, _| header.tenant = other).fault, Fault::Mismatch));
    let replace = |body: &mut Vec<u8>, from: &str, to: &str| {
        *body = String::from_utf8(body.clone()).unwrap().replace(from, to).into_bytes();
    };
    let broken = walk(true, |_, body| replace(body, "/tenants/acme", "/tenants/evil"));
    assert!(matches!(broken.fault, Fault::Mismatch));
    let broken = walk(true, |_, body| replace(body, "\"revision\":4", "\"revision\":5"));
    assert!(matches!(broken.fault, Fault::Mismatch));
}

#[test]
fn what_is_no_commit_is_not_sealed() {
    let stream = stream();
    let seal = |events: Vec<envelope::Envelope>| {
        let id = CommitId::new(Uuid::nil());
        let now = Timestamp::default();
        Commit::seal(&stream.head, stream.tenant.clone(), id, Epoch::FIRST, now, events)
    };
    assert!(matches!(seal(Vec::new()), Err(SealError::Empty)));
    let one = stream.seal(1).events().unwrap()[0].clone();
    let many = |events: u64| (1..=events).map(|n| envelope::Envelope { revision: Revision::new(n), ..one.clone() });
    assert!(matches!(seal(many(MAX_EVENTS as u64 + 1).collect()), Err(SealError::TooManyEvents)));
    assert!(seal(many(MAX_EVENTS as u64).collect()).is_ok());
    let mut large = one.clone();
    let name = "x".repeat(MAX_BODY_BYTES);
    large.event = crate::event::Event::TenantRenamed(crate::tenant::Renamed { name });
    assert!(matches!(seal(vec![large]), Err(SealError::TooLarge)));
}

#[test]
fn a_stored_commit_decodes_its_events_once() {
    let sealed = stream().seal(3);
    let stored = Commit::from_stored(sealed.header().clone(), sealed.hash(), sealed.body().clone());
    assert_eq!(stored.events().unwrap(), sealed.events().unwrap());
    assert!(std::sync::Arc::ptr_eq(stored.events().unwrap(), stored.events().unwrap()));
    assert_eq!((stored.last_revision(), stored.head()), (Revision::new(3), sealed.head()));
}
