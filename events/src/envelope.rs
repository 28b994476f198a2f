//! One event as it is written down: CloudEvents 1.0 attributes, and what ties it to its cause.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    digest::Digest,
    event::{BadData, Event},
    id::{CommandId, EventId, KeyId, RequestId, TenantId},
    idempotency::Idempotency,
    revision::Revision,
    time::Timestamp,
};

/// Who did it: a key id, `oidc:<issuer>:<subject>`, `operator:<subject>` or `system`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(Arc<str>);

impl Actor {
    /// The platform itself, for instance when it declares an execution lost.
    pub fn system() -> Self {
        Self("system".into())
    }

    /// A tenant's key.
    pub fn key(id: &KeyId) -> Self {
        Self(id.as_str().into())
    }

    /// Somebody for whom an external issuer vouches: `oidc:<issuer>:<subject>`.
    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self(format!("oidc:{issuer}:{subject}").into())
    }

    /// An operator, named by the subject of their credential.
    pub fn operator(subject: &str) -> Self {
        Self(format!("operator:{subject}").into())
    }

    /// The actor as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an event came to be: shared by all events of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The command that was decided.
    pub command: CommandId,
    /// The request that began it all.
    pub correlation: Option<RequestId>,
    /// Who asked.
    pub actor: Actor,
    /// W3C trace context of the request.
    pub traceparent: Option<Arc<str>>,
    /// How the same request is known again, when its caller may send it again.
    pub idempotency: Option<Idempotency>,
}

/// An event with everything that is recorded about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// UUIDv7; subscribers remove duplicates by it.
    pub id: EventId,
    /// Whose stream.
    pub tenant: TenantId,
    /// Place in the stream.
    pub revision: Revision,
    /// When it was decided.
    pub time: Timestamp,
    /// Why.
    pub cause: Cause,
    /// What happened.
    pub event: Event,
}

impl Envelope {
    /// What the event is about: `<kind>/<id>`.
    pub fn subject(&self) -> String {
        self.event.subject(&self.tenant)
    }
}

/// The bytes are not a JSON array of envelopes.
#[derive(Debug, thiserror::Error)]
pub enum BadBody {
    /// Not JSON, or an attribute is missing or malformed.
    #[error("the body is not a JSON array of event envelopes")]
    Json(#[from] serde_json::Error),
    /// `source` is not `/tenants/<tenant>`.
    #[error("the source {0:?} names no tenant")]
    Source(String),
    /// The data of a known type is not of its shape.
    #[error(transparent)]
    Data(#[from] BadData),
}

/// The bytes of a commit's body: a JSON array of envelopes.
///
/// # Errors
/// None in practice: every field is plain data. The error is serde's.
pub fn encode(envelopes: &[Envelope]) -> Result<Vec<u8>, serde_json::Error> {
    // An execution's event is a little under 1 KiB.
    let mut body = Vec::with_capacity(envelopes.len().saturating_mul(1_024).saturating_add(2));
    serde_json::to_writer(&mut body, envelopes)?;
    Ok(body)
}

/// Reads a commit's body back.
///
/// # Errors
/// [`BadBody`]: a body that this platform wrote never gives one.
pub fn decode(body: &[u8]) -> Result<Vec<Envelope>, BadBody> {
    let read: Vec<Read<'_>> = serde_json::from_slice(body)?;
    read.into_iter().map(Envelope::try_from).collect()
}

#[derive(Serialize)]
struct Written<'a> {
    specversion: &'static str,
    id: EventId,
    #[serde(rename = "type")]
    type_name: &'a str,
    source: Source<'a>,
    subject: String,
    time: Timestamp,
    revision: Revision,
    causation: CommandId,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<&'a RequestId>,
    actor: &'a Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotencykey: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotencyrequest: Option<Digest>,
    data: &'a Event,
}

struct Source<'a>(&'a TenantId);

impl Serialize for Source<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("/tenants/{}", self.0))
    }
}

impl Serialize for Envelope {
    /// Writes the CloudEvent, as it is stored, shown to auditors and sent to subscribers.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written {
            specversion: "1.0",
            id: self.id,
            type_name: self.event.type_name(),
            source: Source(&self.tenant),
            subject: self.subject(),
            time: self.time,
            revision: self.revision,
            causation: self.cause.command,
            correlation: self.cause.correlation.as_ref(),
            actor: &self.cause.actor,
            traceparent: self.cause.traceparent.as_deref(),
            idempotencykey: self.cause.idempotency.map(|idempotency| idempotency.key),
            idempotencyrequest: self.cause.idempotency.map(|idempotency| idempotency.request),
            data: &self.event,
        }
        .serialize(serializer)
    }
}

#[derive(Deserialize)]
struct Read<'a> {
    id: EventId,
    #[serde(rename = "type", borrow)]
    type_name: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    source: std::borrow::Cow<'a, str>,
    time: Timestamp,
    revision: Revision,
    causation: CommandId,
    #[serde(default)]
    correlation: Option<RequestId>,
    actor: Actor,
    #[serde(default)]
    traceparent: Option<Arc<str>>,
    #[serde(default)]
    idempotencykey: Option<Digest>,
    #[serde(default)]
    idempotencyrequest: Option<Digest>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl TryFrom<Read<'_>> for Envelope {
    type Error = BadBody;

    fn try_from(read: Read<'_>) -> Result<Self, BadBody> {
        let tenant = read.source.strip_prefix("/tenants/").and_then(|id| TenantId::new(id).ok());
        let tenant = tenant.ok_or_else(|| BadBody::Source(read.source.clone().into_owned()))?;
        let written = read.idempotencykey.zip(read.idempotencyrequest);
        Ok(Self {
            id: read.id,
            tenant,
            revision: read.revision,
            time: read.time,
            cause: Cause {
                command: read.causation,
                correlation: read.correlation,
                actor: read.actor,
                traceparent: read.traceparent,
                idempotency: written.map(|(key, request)| Idempotency { key, request }),
            },
            event: Event::decode(&read.type_name, read.data)?,
        })
    }
}

#[cfg(test)]
mod tests;
