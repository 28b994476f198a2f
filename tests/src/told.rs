//! What clients were told, counted.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::client::Answer;

/// What stands before the slug of a problem in its type.
const PROBLEMS: &str = "/problems/";

/// How a page of a list begins.
const PAGE: &[u8] = br#"{"items":"#;

/// Counts by what was said: a status with the slug of a problem or an outcome, `503 node-busy`. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<BTreeMap<String, usize>>>);

impl Told {
    /// This was said once more.
    pub fn note(&self, said: &str) {
        *self.counts().entry(said.to_owned()).or_default() += 1;
    }

    /// This answer was given.
    pub fn answer(&self, answer: &Answer) {
        let status = answer.status.as_u16();
        // A page of a list has none, and looking for it there would take the processors that others' echoes are measured on.
        let may_have_one = !answer.body.starts_with(PAGE);
        let outcome = || answer.json::<Value>().ok()?.get("outcome")?.as_str().map(str::to_owned);
        match answer.problem().or_else(|| may_have_one.then(outcome).flatten()) {
            Some(word) => self.note(&format!("{status} {word}")),
            None => self.note(&status.to_string()),
        }
    }

    /// This answer was given over a bare connection, or what is left of it behind its status.
    pub fn text(&self, status: u16, text: &str) {
        match slug(text) {
            Some(slug) => self.note(&format!("{status} {slug}")),
            None => self.note(&status.to_string()),
        }
    }

    /// How often something was said that begins so.
    pub fn count(&self, begins: &str) -> usize {
        self.counts().iter().filter(|(said, _)| said.starts_with(begins)).map(|(_, count)| count).sum()
    }

    /// What was said that begins with none of these.
    pub fn but(&self, begins: &[&str]) -> Vec<String> {
        let counts = self.counts();
        let others = counts.keys().filter(|said| !begins.iter().any(|begin| said.starts_with(begin)));
        others.cloned().collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        // It is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        let counts: Vec<_> = counts.iter().map(|(said, count)| format!("{said}: {count}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// The last word of the type of the problem that a text holds.
fn slug(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(PROBLEMS)?;
    rest.split_once('"').map(|(slug, _)| slug)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::{
        StatusCode,
        header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    };

    use super::*;

    #[test]
    fn answers_are_counted_by_their_status_and_what_they_say() {
        let of_type = HeaderValue::from_static("application/problem+json");
        let problem = HeaderMap::from_iter([(CONTENT_TYPE, of_type)]);
        let busy = "{\"type\": \"https://wasmwiz.dev/problems/node-busy\"}";
        let told = Told::default();
        for (status, headers, body) in [
            (StatusCode::OK, HeaderMap::new(), "{\"outcome\": \"succeeded\"}"),
            (StatusCode::OK, HeaderMap::new(), "as it is"),
            (StatusCode::SERVICE_UNAVAILABLE, problem, busy),
        ] {
            told.answer(&Answer { status, headers, body: Bytes::from_static(body.as_bytes()) });
        }
        told.text(503, busy);
        assert_eq!(told.to_string(), "200: 1, 200 succeeded: 1, 503 node-busy: 2");
        assert_eq!((told.count("200"), told.count("503 node-busy"), told.count("429")), (2, 2, 0));
        assert_eq!(told.but(&["200"]), ["503 node-busy"]);
    }
}
