//! Falsified evidence: the checker names each thing that was changed.

use std::fs;

use tempfile::TempDir;
use wasmwiz_events::{
    execution::{Accepted, Finished, Lost},
    payload::MAX_INLINE_BYTES,
};

use super::*;

const ACCEPTED: &str = include_str!("../../../events/golden/dev.wasmwiz.execution.accepted.v1.json");

/// One execution that echoed, as the log, the blobs, its client and the list have it.
struct Sound {
    folder: TempDir,
    history: History,
    answered: BTreeMap<ExecutionId, Answered>,
    listed: BTreeMap<ExecutionId, Option<String>>,
    id: ExecutionId,
}

impl Sound {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let envelope: serde_json::Value = serde_json::from_str(ACCEPTED).unwrap();
        let accepted: Accepted = serde_json::from_value(envelope["data"].clone()).unwrap();
        let (id, bytes) = (accepted.execution_id, vec![b'x'; MAX_INLINE_BYTES + 1]);
        let digest = Digest::of(&bytes);
        let mut finished = Finished::without_run(id, 1, Outcome::Succeeded, String::new());
        finished.stdout.digest = digest;
        let blob = blob(folder.path(), digest);
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(blob, bytes).unwrap();
        let recorded =
            Recorded { accepted: vec![accepted], started: vec![], ends: vec![End::Finished(Box::new(finished))] };
        let mut history = History::default();
        history.executions.insert(id, recorded);
        let answer = Answered { id, input: digest, outcome: Outcome::Succeeded, answer: serde_json::Value::Null };
        let (answered, listed) = (BTreeMap::from([(id, answer)]), BTreeMap::from([(id, Some("succeeded".to_owned()))]));
        Self { folder, history, answered, listed, id }
    }

    fn recorded(&mut self) -> &mut Recorded {
        self.history.executions.get_mut(&self.id).unwrap()
    }

    fn found(&self) -> Vec<Broken> {
        let mut found = broken(&self.history, self.folder.path(), &self.answered);
        found.extend(other_in_view(&self.history, &self.listed));
        found
    }
}

fn blob(data: &Path, digest: Digest) -> std::path::PathBuf {
    let hex = digest.to_hex();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[test]
fn sound_evidence_is_taken() {
    assert_eq!(Sound::new().found(), []);
}

#[test]
fn a_terminal_event_that_is_gone_is_named() {
    let mut evidence = Sound::new();
    evidence.recorded().ends.clear();
    let id = evidence.id;
    assert_eq!(
        evidence.found(),
        [
            Broken::NotOnce { id, accepted: 1, ended: 0 },
            Broken::Unrecorded { id },
            Broken::OtherView { id, shown: Some("succeeded".into()), recorded: None },
        ]
    );
}

#[test]
fn a_second_terminal_event_is_named() {
    let mut evidence = Sound::new();
    let id = evidence.id;
    let lost = Lost { execution_id: id, attempt: 1, reason: "its node is gone".into() };
    evidence.recorded().ends.push(End::Lost(lost));
    assert_eq!(evidence.found(), [Broken::NotOnce { id, accepted: 1, ended: 2 }]);
}

#[test]
fn an_answered_execution_that_was_declared_lost_is_named() {
    let mut evidence = Sound::new();
    let id = evidence.id;
    let lost = Lost { execution_id: id, attempt: 1, reason: "its node is gone".into() };
    evidence.recorded().ends = vec![End::Lost(lost)];
    assert_eq!(
        evidence.found(),
        [
            Broken::OtherOutcome { id, answered: Outcome::Succeeded, recorded: Outcome::Lost },
            Broken::OtherView { id, shown: Some("succeeded".into()), recorded: Some("lost") },
        ]
    );
}

#[test]
fn an_answered_execution_that_the_log_does_not_know_is_named() {
    let mut evidence = Sound::new();
    evidence.history.executions.clear();
    let id = evidence.id;
    assert_eq!(
        evidence.found(),
        [Broken::Unrecorded { id }, Broken::OtherView { id, shown: Some("succeeded".into()), recorded: None }]
    );
}

#[test]
fn an_answer_with_another_output_is_named() {
    let mut evidence = Sound::new();
    let (id, other) = (evidence.id, Digest::of(b"another"));
    let answer = evidence.answered.get_mut(&id).unwrap();
    let recorded = std::mem::replace(&mut answer.input, other);
    assert_eq!(evidence.found(), [Broken::OtherOutput { id, answered: other, recorded }]);
}

#[test]
fn a_blob_that_is_gone_or_damaged_is_named() {
    let evidence = Sound::new();
    let file = blob(evidence.folder.path(), evidence.answered[&evidence.id].input);
    fs::write(&file, "another").unwrap();
    assert!(matches!(evidence.found()[..], [Broken::Unreadable { .. }]), "{:?}", evidence.found());
    fs::remove_file(&file).unwrap();
    assert!(matches!(evidence.found()[..], [Broken::Unreadable { .. }]), "{:?}", evidence.found());
}

#[test]
fn a_list_that_lacks_an_execution_or_has_one_more_is_named() {
    let mut evidence = Sound::new();
    let (id, recorded) = (evidence.id, Some("succeeded"));
    evidence.listed.clear();
    assert_eq!(evidence.found(), [Broken::OtherView { id, shown: None, recorded }]);
    let mut evidence = Sound::new();
    let more = "0192f0c1-7a2b-7c3d-8e4f-0000000000ff".parse().unwrap();
    evidence.listed.insert(more, Some("succeeded".into()));
    assert_eq!(evidence.found(), [Broken::OtherView { id: more, shown: Some("succeeded".into()), recorded: None }]);
}
