//! What this subscriber reads of an event. The rest is there, and may grow: what is unknown is left alone.

use std::fmt;

use serde::Deserialize;

/// A CloudEvent of the feed.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    /// Events that come again have the same.
    pub(crate) id: String,
    #[serde(rename = "type")]
    type_name: String,
    source: String,
    subject: String,
    data: Data,
}

/// Of all types together: what a type lacks is absent.
#[derive(Debug, Deserialize)]
struct Data {
    execution_id: Option<String>,
    outcome: Option<String>,
    wall_ms: Option<f64>,
}

impl Event {
    pub(crate) fn tenant(&self) -> &str {
        self.source.trim_start_matches("/tenants/")
    }
}

impl fmt::Display for Event {
    /// One line. Types that are not known yet are shown, too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Data { execution_id, outcome, wall_ms } = &self.data;
        match (execution_id, outcome, wall_ms) {
            (Some(id), Some(outcome), Some(ms)) => write!(f, "{} execution {id} {outcome} {ms} ms", self.tenant()),
            _ => write!(f, "{} {} {}", self.tenant(), self.type_name, self.subject),
        }
    }
}
