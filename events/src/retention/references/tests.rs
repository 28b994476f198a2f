//! What is named, and until when.

use std::collections::BTreeSet;

use super::*;
use crate::{
    envelope,
    execution::{Content, ModuleRef, Output},
    log::conformance::Stream as Owner,
    module,
    retention::Released,
    revision::Position,
};

fn golden(text: &str) -> Event {
    envelope::decode(format!("[{text}]").as_bytes()).unwrap()[0].event.clone()
}

fn id(n: u128) -> ExecutionId {
    ExecutionId::new(uuid::Uuid::from_u128(n))
}

fn name(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}

fn published(of: &str, version: u32, bytes: &[u8]) -> Event {
    let golden = golden(include_str!("../../../golden/dev.wasmwiz.module.published.v1.json"));
    let Event::ModulePublished(published) = golden else { panic!("not published") };
    Event::ModulePublished(module::Published { name: name(of), version, digest: Digest::of(bytes), ..published })
}

fn deleted(of: &str) -> Event {
    Event::ModuleDeleted(module::Deleted { name: name(of), writes_full_at: None })
}

/// Of a module that came along, or of a version that `by` names.
fn accepted(n: u128, by: Option<&str>, wasm: &[u8], stdin: &[u8]) -> Event {
    let golden = golden(include_str!("../../../golden/dev.wasmwiz.execution.accepted.v1.json"));
    let Event::ExecutionAccepted(mut accepted) = golden else { panic!("not accepted") };
    accepted.execution_id = id(n);
    accepted.module = ModuleRef { name: by.map(name), version: by.map(|_| 1), digest: Digest::of(wasm) };
    accepted.stdin = Content::of(stdin);
    Event::ExecutionAccepted(accepted)
}

fn finished(n: u128, stdout: &[u8]) -> Event {
    let golden = golden(include_str!("../../../golden/dev.wasmwiz.execution.finished.v1.transcript.json"));
    let Event::ExecutionFinished(mut finished) = golden else { panic!("not finished") };
    finished.execution_id = id(n);
    finished.stdout = Output { digest: Digest::of(stdout), size_bytes: stdout.len() as u64, truncated: false };
    (finished.trace_digest, finished.trace_readings) = (Some(Digest::of(b"readings")), Some(1));
    Event::ExecutionFinished(finished)
}

fn released(class: Class, through: u64) -> Event {
    Event::PayloadsReleased(Released { class, through_revision: Revision::new(through), payloads: 1, bytes: 1 })
}

/// What of `asked` one stream with these events does not name.
fn unnamed<'a>(asked: &[&'a [u8]], events: Vec<Event>) -> BTreeSet<&'a [u8]> {
    let mut references = References::of(asked.iter().map(|bytes| Digest::of(bytes)));
    read(&mut references, &Owner::fresh(), events);
    left(&references, asked)
}

fn read(references: &mut References, owner: &Owner, events: Vec<Event>) {
    let recorded = Recorded { position: Position::new(1), commit: owner.seal_events(events) };
    references.fold(&recorded).unwrap();
}

fn left<'a>(references: &References, asked: &[&'a [u8]]) -> BTreeSet<&'a [u8]> {
    let unnamed = references.unnamed();
    asked.iter().copied().filter(|bytes| unnamed.contains(&Digest::of(bytes))).collect()
}

#[test]
fn what_no_event_names_is_unnamed() {
    let asked = [&b"wasm"[..], b"in", b"out", b"readings", b"nobody"];
    let events = vec![published("hello", 1, b"wasm"), accepted(1, Some("hello"), b"wasm", b"in"), finished(1, b"out")];
    assert_eq!(unnamed(&asked, events), [&b"nobody"[..]].into());
}

#[test]
fn each_class_goes_by_itself_up_to_its_revision_and_what_comes_later_names_it_again() {
    let asked = [&b"in"[..], b"out", b"readings"];
    // Revisions 1 to 4.
    let two = |class, through| {
        let first = [accepted(1, Some("hello"), b"wasm", b"in"), finished(1, b"out")];
        let second = [accepted(2, Some("hello"), b"wasm", b"other"), finished(2, b"out")];
        unnamed(&asked, first.into_iter().chain(second).chain([released(class, through)]).collect())
    };
    assert_eq!(two(Class::Inputs, 1), [&b"in"[..]].into());
    assert_eq!(two(Class::Outputs, 2), [].into(), "the second has the same output");
    assert_eq!(two(Class::Outputs, 4), [&b"out"[..]].into());
    assert_eq!(two(Class::Transcripts, 4), [&b"readings"[..]].into());
    assert_eq!(two(Class::Modules, 4), [].into());
}

#[test]
fn a_deleted_module_is_named_until_its_deletion_is_released_and_a_live_one_for_ever() {
    let asked = [&b"wasm"[..]];
    let history = |more: Vec<Event>| {
        let events = vec![published("one", 1, b"wasm"), published("two", 1, b"wasm"), deleted("one")];
        unnamed(&asked, events.into_iter().chain(more).collect())
    };
    assert_eq!(history(vec![released(Class::Modules, 3)]), [].into(), "another version has the same bytes");
    assert_eq!(history(vec![deleted("two"), released(Class::Modules, 3)]), [].into());
    assert_eq!(history(vec![deleted("two"), released(Class::Modules, 4)]), asked.into());
    let again = vec![deleted("two"), released(Class::Modules, 4), published("one", 2, b"wasm")];
    assert_eq!(history(again), [].into());
}

#[test]
fn a_module_that_came_along_is_named_by_each_of_its_executions_and_by_no_rerun() {
    let asked = [&b"wasm"[..]];
    let ran = |n| [accepted(n, None, b"wasm", b""), finished(n, b"out")];
    let history = |through| ran(1).into_iter().chain(ran(2)).chain([released(Class::Modules, through)]).collect();
    assert_eq!(unnamed(&asked, history(2)), [].into());
    assert_eq!(unnamed(&asked, history(3)), asked.into());
    let Event::ExecutionAccepted(mut rerun) = accepted(3, None, b"wasm", b"") else { unreachable!() };
    rerun.rerun_of = Some(id(1));
    let rerun = || Event::ExecutionAccepted(rerun.clone());
    let with = |more: Vec<Event>| {
        let events: Vec<Event> = history(3);
        unnamed(&asked, events.into_iter().chain(more).collect())
    };
    assert_eq!(with(vec![rerun()]), [].into(), "it is open");
    assert_eq!(with(vec![rerun(), finished(3, b"out")]), asked.into());
}

#[test]
fn what_an_open_execution_needs_is_named_whatever_is_released() {
    let asked = [&b"wasm"[..], b"in"];
    let events = |more: Vec<Event>| {
        let all = Class::ALL.map(|class| released(class, 1));
        [accepted(1, Some("hello"), b"wasm", b"in")].into_iter().chain(all).chain(more).collect()
    };
    assert_eq!(unnamed(&asked, events(vec![])), [].into());
    assert_eq!(unnamed(&asked, events(vec![finished(1, b"out")])), asked.into());
}

#[test]
fn one_tenant_does_not_release_what_another_names() {
    let (asked, one, other) = ([&b"in"[..]], Owner::fresh(), Owner::fresh());
    let mut references = References::of([Digest::of(b"in")]);
    let ran = |n| vec![accepted(n, Some("hello"), b"wasm", b"in"), finished(n, b"out"), released(Class::Inputs, 1)];
    read(&mut references, &one, ran(1));
    assert_eq!(left(&references, &asked), asked.into());
    read(&mut references, &other, ran(2).into_iter().take(2).collect());
    assert_eq!(left(&references, &asked), [].into());
    let released: Vec<_> = references.released().map(|(tenant, through)| (tenant.clone(), through.last())).collect();
    assert_eq!(released, [(one.tenant, Some(Revision::new(1)))]);
}

#[test]
fn a_log_that_has_ever_named_one_of_the_blobs_says_so_whether_or_not_that_is_released() {
    let has_named = |asked: &[u8], events: Vec<Event>| {
        let mut references = References::of([Digest::of(asked)]);
        if !events.is_empty() {
            read(&mut references, &Owner::fresh(), events);
        }
        references.has_named_any()
    };
    let events = || {
        let (ran, release) = (accepted(1, Some("hello"), b"wasm", b"in"), released(Class::Inputs, 2));
        vec![published("hello", 1, b"wasm"), ran, finished(1, b"out"), release]
    };
    assert!(!has_named(b"wasm", vec![]));
    assert!(!has_named(b"nobody", events()));
    for bytes in [&b"wasm"[..], b"in", b"out"] {
        assert!(has_named(bytes, events()));
    }
    assert!(has_named(b"wasm", vec![published("hello", 1, b"wasm"), deleted("hello"), released(Class::Modules, 2)]));
}

#[test]
fn nothing_is_unnamed_where_something_is_not_understood() {
    let mut references = References::of([Digest::of(b"nobody")]);
    let text = include_str!("../../../golden/dev.wasmwiz.tenant.resumed.v1.json");
    read(&mut references, &Owner::fresh(), vec![golden(&text.replace("resumed.v1", "resumed.v9"))]);
    assert!(references.unnamed().is_empty() && !references.is_understood());
}

#[test]
fn nothing_is_unnamed_where_a_commit_is_missing() {
    let (mut references, mut owner) = (References::of([Digest::of(b"nobody")]), Owner::fresh());
    let commit = owner.seal_events(vec![published("hello", 1, b"wasm")]);
    owner.head = commit.head();
    references.fold(&Recorded { position: Position::new(1), commit }).unwrap();
    assert_eq!(references.unnamed().len(), 1);
    // One that is not read.
    owner.head = owner.seal(1).head();
    read(&mut references, &owner, vec![deleted("hello")]);
    assert!(references.unnamed().is_empty() && !references.is_understood());
}
