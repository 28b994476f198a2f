//! Can this version read that log? Every event is read and written again: what is not there afterwards, this version does not
//! know.
//!
//! An event of an unknown type is kept and shown by a node, and changes no state: a tenant with one would be served as if it had
//! never happened. A field that is dropped is the same in small. So both are named here, and a version with either is not one to
//! go to. What an upcaster reads is known: its older shape is not compared.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    envelope,
    event::{Event, TYPE_NAMES},
    id::TenantId,
    revision::Revision,
    upcast,
};

/// The most faults that are listed for each type of event; more are counted in [`Kind::unread`].
const MAX_LISTED: usize = 8;

/// What a log has, and what of it this version cannot read.
#[derive(Debug, Default, Serialize)]
pub struct Survey {
    /// Commits that were looked at.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
    /// Each type of event that there is, by its name as it is stored, with its version.
    #[serde(serialize_with = "as_list")]
    pub kinds: BTreeMap<String, Kind>,
    /// Commits whose body is no list of events to this version.
    pub unreadable_commits: u64,
}

/// A type of event in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// How many there are.
    pub events: u64,
    /// Does this version know the type, or read it by an upcaster?
    pub known: bool,
    /// How many of them this version does not read in whole.
    pub unread: u64,
    /// What is not read, each with the place of the first one: at most eight.
    pub faults: Vec<Fault>,
}

/// Something that this version does not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What it is, for people.
    pub what: String,
    /// Where it was found first.
    pub tenant: Option<TenantId>,
    /// Where in that tenant's stream.
    pub revision: Option<Revision>,
}

/// What a list of types, as another version has printed it, says of each.
#[derive(Debug, Deserialize)]
pub struct Listed {
    /// All of them.
    pub kinds: Vec<ListedKind>,
}

/// One of them. Whatever else the other version said of it is not asked for.
#[derive(Debug, Deserialize)]
pub struct ListedKind {
    /// Its name with its version.
    #[serde(rename = "type")]
    pub type_name: String,
    /// How many there are.
    #[serde(default)]
    pub events: u64,
}

fn as_list<S: serde::Serializer>(kinds: &BTreeMap<String, Kind>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named<'k> {
        #[serde(rename = "type")]
        name: &'k str,
        #[serde(flatten)]
        kind: &'k Kind,
    }
    serializer.collect_seq(kinds.iter().map(|(name, kind)| Named { name, kind }))
}

/// Does this version know events of that type, at that version of it?
pub fn is_known(type_name: &str) -> bool {
    TYPE_NAMES.contains(&type_name) || upcast::STEPS.iter().any(|step| step.from == type_name)
}

/// What is looked at of an event before it is read.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(rename = "type", borrow)]
    type_name: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    revision: Revision,
}

impl Survey {
    /// Looks at the body of one commit.
    pub fn look(&mut self, body: &[u8]) {
        self.commits += 1;
        match serde_json::from_slice::<Vec<&RawValue>>(body) {
            Ok(events) => events.into_iter().for_each(|event| self.look_at(event)),
            Err(_) => self.unreadable_commits += 1,
        }
    }

    fn look_at(&mut self, stored: &RawValue) {
        self.events += 1;
        let Ok(named) = serde_json::from_str::<Named<'_>>(stored.get()) else {
            let fault = Fault {
                what: "an event without a type, a source or a revision".to_owned(),
                tenant: None,
                revision: None,
            };
            self.keep("unnamed", false, vec![fault]);
            return;
        };
        let tenant = named.source.strip_prefix("/tenants/").and_then(|id| TenantId::new(id).ok());
        let place = |what: String| Fault { what, tenant: tenant.clone(), revision: Some(named.revision) };
        let faults = faults_of(&named.type_name, stored).into_iter().map(place).collect();
        self.keep(&named.type_name, is_known(&named.type_name), faults);
    }

    fn keep(&mut self, type_name: &str, known: bool, faults: Vec<Fault>) {
        let kind = self.kinds.entry(type_name.to_owned()).or_default();
        kind.events += 1;
        kind.known = known;
        kind.unread += u64::from(!faults.is_empty());
        for fault in faults {
            if kind.faults.len() < MAX_LISTED && kind.faults.iter().all(|listed| listed.what != fault.what) {
                kind.faults.push(fault);
            }
        }
    }

    /// What another version has listed, by its types alone: fields are in no list.
    pub fn of_list(listed: &Listed) -> Self {
        let mut survey = Self::default();
        for ListedKind { type_name, events } in &listed.kinds {
            let known = is_known(type_name);
            let fault = || Fault { what: UNKNOWN.to_owned(), tenant: None, revision: None };
            let faults = if known { vec![] } else { vec![fault()] };
            survey.events += events;
            survey.kinds.insert(
                type_name.clone(),
                Kind { events: *events, known, unread: if known { 0 } else { *events }, faults },
            );
        }
        survey
    }

    /// Can this version read all of it?
    pub fn is_compatible(&self) -> bool {
        self.unreadable_commits == 0 && self.kinds.values().all(|kind| kind.known && kind.unread == 0)
    }
}

const UNKNOWN: &str = "this version does not know the type";

/// What of an event this version does not read.
fn faults_of(type_name: &str, stored: &RawValue) -> Vec<String> {
    if !is_known(type_name) {
        return vec![UNKNOWN.to_owned()];
    }
    let body = format!("[{}]", stored.get());
    let read = match envelope::decode(body.as_bytes()) {
        Ok(events) => events,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return vec![format!("{error}{cause}")];
        }
    };
    let is_upcast = |event: &Event| event.type_name() != type_name;
    let (Some(envelope), Ok(before)) = (read.first(), serde_json::from_str::<Value>(stored.get())) else {
        return vec![];
    };
    let Ok(after) = serde_json::to_value(envelope) else { return vec![] };
    let mut lost = Vec::new();
    dropped(&before, &after, "", &mut lost);
    // Its data has been made another's, which is what an upcaster is for.
    lost.retain(|field| !(is_upcast(&envelope.event) && field.starts_with("data")));
    lost.into_iter().map(|field| format!("this version drops the field {field}")).collect()
}

/// Fields that were there and are not any more; nothing is said of values.
fn dropped(before: &Value, after: &Value, place: &str, lost: &mut Vec<String>) {
    let step = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before.iter().filter(|(_, value)| !value.is_null()) {
                match after.get(name) {
                    Some(after) => dropped(value, after, &step(name), lost),
                    None => lost.push(step(name)),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            // Such as a scope of a later version.
            if before.len() > after.len() {
                lost.push(format!("{place}.*"));
            }
            before.iter().zip(after).for_each(|(before, after)| dropped(before, after, &step("*"), lost));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// An event of the golden files, as it is stored.
    fn golden(name: &str) -> Value {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    }

    fn survey(events: &[Value]) -> Survey {
        let mut survey = Survey::default();
        survey.look(serde_json::to_string(events).unwrap().as_bytes());
        survey
    }

    const ACCEPTED: &str = "dev.wasmwiz.execution.accepted.v1";

    fn accepted() -> Value {
        golden("dev.wasmwiz.execution.accepted.v1.fuel.json")
    }

    #[test]
    fn every_form_that_this_version_knows_is_read_in_whole() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let events: Vec<_> = names.filter(|name| name.starts_with("dev.")).map(|name| golden(&name)).collect();
        let survey = survey(&events);
        assert!(survey.is_compatible(), "{:?}", survey.kinds);
        assert_eq!((survey.commits, survey.events), (1, events.len() as u64));
        assert_eq!(survey.kinds.keys().map(String::as_str).collect::<Vec<_>>().len(), TYPE_NAMES.len());
    }

    #[test]
    fn a_version_from_the_future_and_an_unknown_kind_are_named_with_the_first_place() {
        let mut newer = accepted();
        newer["type"] = "dev.wasmwiz.execution.accepted.v2".into();
        let mut other = accepted();
        other["type"] = "dev.wasmwiz.execution.paused.v1".into();
        other["revision"] = 13.into();
        let survey = survey(&[newer, accepted(), other.clone(), other]);
        assert!(!survey.is_compatible());
        let unknown: Vec<_> = survey.kinds.iter().filter(|(_, kind)| !kind.known).collect();
        let [(v2, first), (paused, second)] = unknown[..] else { panic!("{unknown:?}") };
        assert_eq!((v2.as_str(), first.events), ("dev.wasmwiz.execution.accepted.v2", 1));
        assert_eq!((paused.as_str(), second.events, second.unread), ("dev.wasmwiz.execution.paused.v1", 2, 2));
        assert_eq!((&second.faults[0].what, second.faults[0].revision), (&UNKNOWN.to_owned(), Some(Revision::new(13))));
        assert_eq!(second.faults.len(), 1);
        assert_eq!(survey.kinds[ACCEPTED].unread, 0);
    }

    #[test]
    fn a_field_that_this_version_drops_is_named_wherever_it_is() {
        let mut newer = accepted();
        newer["data"]["limits"]["gpu_ms"] = 5.into();
        newer["region"] = "north".into();
        newer["data"]["note"] = Value::Null;
        let survey = survey(&[newer]);
        let kind = &survey.kinds[ACCEPTED];
        let said: Vec<_> = kind.faults.iter().map(|fault| fault.what.as_str()).collect();
        assert_eq!(said, ["this version drops the field data.limits.gpu_ms", "this version drops the field region"]);
        assert!(kind.known && kind.unread == 1 && !survey.is_compatible());
    }

    #[test]
    fn an_item_of_a_list_that_is_dropped_is_named() {
        let mut issued = golden("dev.wasmwiz.key.issued.v1.json");
        issued["data"]["scopes"].as_array_mut().unwrap().push("moon:land".into());
        let survey = survey(&[issued]);
        let kind = &survey.kinds["dev.wasmwiz.key.issued.v1"];
        assert_eq!(kind.faults[0].what, "this version drops the field data.scopes.*");
    }

    #[test]
    fn data_of_another_shape_is_named_with_what_is_wrong() {
        let mut other = accepted();
        other["data"]["attempt"] = "first".into();
        let survey = survey(&[other]);
        let fault = &survey.kinds[ACCEPTED].faults[0];
        assert!(fault.what.contains("is not of its shape") && fault.what.contains("first"), "{fault:?}");
    }

    #[test]
    fn a_body_that_is_no_list_of_events_is_counted() {
        let mut survey = Survey::default();
        survey.look(b"{}");
        survey.look(br#"[{"type": 1}]"#);
        assert_eq!((survey.commits, survey.unreadable_commits), (2, 1));
        assert!(!survey.is_compatible() && !survey.kinds["unnamed"].known);
    }

    #[test]
    fn a_list_of_another_version_is_judged_by_its_types_and_is_what_a_survey_is_written_as() {
        let written = serde_json::to_string(&survey(&[accepted()])).unwrap();
        let listed: Listed = serde_json::from_str(&written).unwrap();
        assert!(Survey::of_list(&listed).is_compatible());
        let listed: Listed =
            serde_json::from_str(r#"{"kinds": [{"type": "dev.wasmwiz.new.v1", "events": 3}]}"#).unwrap();
        let judged = Survey::of_list(&listed);
        assert!(!judged.is_compatible() && judged.kinds["dev.wasmwiz.new.v1"].unread == 3);
    }
}
