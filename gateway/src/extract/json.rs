//! JSON bodies: one object, its members taken one by one; what is left over was misspelt.

use std::fmt;

use poem::Request;
use serde::{
    Deserializer as _,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use serde_json::Value;
use wasmwiz_events::digest::Digest;

use super::{
    body::{self, Limit},
    media_type::{MediaType, unsupported},
    strict::Strict,
};
use crate::{
    Gateway,
    auth::Caller,
    memory::Share,
    problem::{Fault, Kind, Problem},
};

/// The members of a body that is a JSON object.
#[derive(Debug)]
pub(crate) struct Fields {
    members: Vec<(String, Value)>,
    asked: Vec<&'static str>,
    faults: Vec<Fault>,
    digest: Digest,
}

impl Fields {
    /// Reads a body that must be there.
    pub(crate) async fn read(gateway: &Gateway, caller: &Caller, request: &mut Request) -> Result<Self, Problem> {
        body::require_length(request)?;
        let fields = Self::read_optional(gateway, caller, request).await?;
        fields.ok_or_else(|| Problem::new(Kind::EmptyBody, "This resource needs a JSON object as its body."))
    }

    /// Reads a body that may be left out. It has a part of the reserve: what keeps a tenant in control of itself comes like this.
    pub(crate) async fn read_optional(
        gateway: &Gateway,
        caller: &Caller,
        request: &mut Request,
    ) -> Result<Option<Self>, Problem> {
        Self::read_within(gateway, &gateway.reserve_of(caller), request).await
    }

    /// The same of a request for work, which has none.
    pub(crate) async fn read_of_work(
        gateway: &Gateway,
        caller: &Caller,
        request: &mut Request,
    ) -> Result<Option<Self>, Problem> {
        Self::read_within(gateway, &gateway.memory_of(caller), request).await
    }

    async fn read_within(gateway: &Gateway, share: &Share, request: &mut Request) -> Result<Option<Self>, Problem> {
        let limit = Limit { bytes: gateway.config().json_bytes_max, what: "A JSON body", tier: None };
        let media_type = MediaType::of(request)?;
        let held = body::read(gateway.config(), share, request, limit).await?;
        if held.bytes.is_empty() {
            return Ok(None);
        }
        let media_type = media_type.filter(|given| given.is("application/json"));
        let media_type = media_type.ok_or_else(|| unsupported("application/json"))?;
        if !media_type.is_utf8() {
            let problem = Problem::new(Kind::UnsupportedMediaType, "JSON is UTF-8. Send it as UTF-8.");
            return Err(problem.at("header:Content-Type", "has a charset other than utf-8"));
        }
        Self::parse(&held.bytes).map(Some)
    }

    fn parse(json: &[u8]) -> Result<Self, Problem> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let members = reader.deserialize_map(Members).and_then(|members| reader.end().map(|()| members));
        let members = members.map_err(|error| {
            // serde_json's words name a place and what was expected there, not the body's content.
            Problem::new(
                Kind::InvalidBody,
                format!("The body is not the JSON object that this resource takes: {error}."),
            )
        })?;
        Ok(Self { members, asked: Vec::new(), faults: Vec::new(), digest: Digest::of(json) })
    }

    /// The digest of the body as it came.
    pub(crate) const fn digest(&self) -> Digest {
        self.digest
    }

    /// Is this member there, and not null?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(given, value)| given == name && !value.is_null())
    }

    /// A member that must be there.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        if !self.members.iter().any(|(given, _)| given == name) {
            self.fault(format!("/{name}"), "is missing");
        }
        self.optional(name)
    }

    /// A member that may be absent or null.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        self.asked.push(name);
        let place = self.members.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.members.swap_remove(place);
        match serde_json::from_value::<Option<T>>(value) {
            Ok(value) => value,
            Err(error) => {
                self.fault(format!("/{name}"), plain(&error.to_string()));
                None
            }
        }
    }

    /// Names one more thing that is wrong.
    pub(crate) fn fault(&mut self, at: impl Into<String>, detail: impl Into<String>) {
        self.faults.push(Fault { at: at.into(), detail: detail.into() });
    }

    /// Ends the reading: every member must have been asked for and well formed.
    pub(crate) fn finish<T>(mut self, read: Option<T>) -> Result<T, Problem> {
        let known = self.asked.join(", ");
        for (name, _) in std::mem::take(&mut self.members) {
            let name: String = name.chars().take(64).collect();
            self.fault(format!("/{name}"), format!("is unknown; this resource takes {known}"));
        }
        match read {
            Some(read) if self.faults.is_empty() => Ok(read),
            _ => Err(Problem::new(Kind::InvalidBody, "The body is not as it should be; errors says where.")
                .with_faults(self.faults)),
        }
    }
}

/// serde's words for people who do not know how wide our numbers are.
fn plain(text: &str) -> String {
    let number = |word: &str| matches!(word, "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64");
    let words = text.split(' ').map(|word| if number(word) { "a whole number" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Members in the order given; a name that comes twice is refused, because readers disagree on which one counts.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict { depth: 1 })?;
            // Bodies are small and their objects flat.
            if members.len() >= 64 {
                return Err(A::Error::custom("more than 64 members"));
            }
            if members.iter().any(|(given, _)| *given == name) {
                return Err(A::Error::custom("a member is given twice"));
            }
            members.push((name, value));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(String, Option<u32>), Problem> {
        let mut fields = Fields::parse(json.as_bytes())?;
        let name = fields.required("name");
        let count = fields.optional("count");
        fields.finish(name.map(|name| (name, count)))
    }

    #[test]
    fn members_are_read_whatever_their_order() {
        assert_eq!(read(r#"{"count":3,"name":"a"}"#).unwrap(), ("a".into(), Some(3)));
        assert_eq!(read(r#"{"name":"a","count":null}"#).unwrap(), ("a".into(), None));
    }

    #[test]
    fn every_member_that_is_wrong_is_named() {
        let problem = read(r#"{"count":"x","colour":1}"#).unwrap_err();
        assert_eq!(problem.kind(), Kind::InvalidBody);
        let at: Vec<_> = problem.faults().iter().map(|fault| fault.at.as_str()).collect();
        assert_eq!(at, ["/name", "/count", "/colour"]);
        let count = &problem.faults()[1].detail;
        assert!(count.contains("a whole number") && !count.contains("u32"), "{count}");
    }

    #[test]
    fn bodies_that_readers_could_take_in_two_ways_are_refused() {
        let deep = format!(r#"{{"name":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        let nested = r#"{"name":"a","count":{"a":1,"a":2}}"#;
        let twice = r#"{"name":"a","name":"b"}"#;
        for json in ["", "[]", "null", r#"{"name":"a"} x"#, twice, nested, "{\"name\":\"\u{0}\"}", &deep] {
            assert_eq!(read(json).unwrap_err().kind(), Kind::InvalidBody, "{json}");
        }
        assert!(Fields::parse(b"{\"name\":\"\xff\"}").is_err());
    }
}
