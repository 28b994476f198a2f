//! What is published of a commit: one CloudEvent a message, the bytes as they are stored.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{
    commit::Recorded,
    envelope::{BadBody, Envelope},
    id::{EventId, TenantId},
};

/// What all subjects of the feed begin with.
pub(crate) const PREFIX: &str = "wasmwiz.v1";

/// One event, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) tenant: TenantId,
    pub(crate) id: EventId,
    /// `wasmwiz.v1.<tenant>.<subject kind>.<subject id>.<happened>`
    pub(crate) subject: String,
    /// The CloudEvent in structured mode.
    pub(crate) body: Bytes,
}

/// The commit can never be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Poison {
    #[error("its body cannot be read: {0}")]
    Body(#[from] BadBody),
    #[error("its events are not those that it announces")]
    Mismatch,
}

/// The messages of a commit, in the order of its events.
pub(crate) fn messages(recorded: &Recorded) -> Result<Vec<Message>, Poison> {
    let (header, events) = (recorded.commit.header(), recorded.commit.events()?);
    let stored: Vec<&RawValue> = serde_json::from_slice(recorded.commit.body()).map_err(BadBody::from)?;
    // A foreign envelope in a tenant's commit must never reach a subject of that tenant, or of the other one.
    let announced = stored.len() == header.count as usize
        && events.len() == stored.len()
        && events.iter().all(|event| event.tenant == header.tenant);
    if !announced {
        return Err(Poison::Mismatch);
    }
    let message = |(event, stored): (&Envelope, &RawValue)| Message {
        tenant: event.tenant.clone(),
        id: event.id,
        subject: subject(event),
        body: Bytes::copy_from_slice(stored.get().as_bytes()),
    };
    Ok(events.iter().zip(stored).map(message).collect())
}

fn subject(event: &Envelope) -> String {
    let about = event.subject();
    let (kind, id) = about.split_once('/').unwrap_or((about.as_str(), "_"));
    let happened = happened(event.event.type_name());
    format!("{PREFIX}.{}.{}.{}.{}", event.tenant, token(kind), token(id), token(happened))
}

/// `finished` of `dev.wasmwiz.execution.finished.v1`.
fn happened(type_name: &str) -> &str {
    let mut parts = type_name.rsplit('.');
    let last = parts.next().unwrap_or(type_name);
    let is_version = last.strip_prefix('v').is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
    if is_version { parts.next().unwrap_or(last) } else { last }
}

/// One token of a subject. The names of modules may have dots, which would split it: the exact name is in the message.
fn token(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    if text.is_empty() { "_".to_owned() } else { text.chars().map(safe).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_the_type_without_its_version() {
        assert_eq!(happened("dev.wasmwiz.execution.finished.v1"), "finished");
        assert_eq!(happened("dev.wasmwiz.tenant.tier-changed.v12"), "tier-changed");
        assert_eq!((happened("odd"), happened("")), ("odd", ""));
    }

    #[test]
    fn no_name_can_add_a_token_or_a_wildcard_to_a_subject() {
        assert_eq!(token("hello.v2_final-1"), "hello_v2_final-1");
        assert_eq!(
            (token("*"), token(">"), token("a b\r\n"), token("")),
            ("_".into(), "_".into(), "a_b__".into(), "_".into())
        );
    }
}
