//! What handlers take from a request: its context, query, path, and body.

use std::{fmt::Display, str::FromStr, sync::Arc};

use poem::Request;
use wasmwiz_actors::{handle::Origin, ids::Ids};
use wasmwiz_events::{id::RequestId, time::Timestamp};

use crate::problem::{Fault, Kind, Problem};
use decimal::Decimal;

pub(crate) mod body;
pub(crate) mod decimal;
pub(crate) mod decode;
pub(crate) mod json;
pub(crate) mod media_type;
pub(crate) mod multipart;
pub(crate) mod parameters;

mod disposition;
mod strict;

/// What the outermost layer knows about a request.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Its id: given by the caller or drawn.
    pub(crate) request_id: RequestId,
    /// W3C trace context: given by the caller or begun.
    pub(crate) traceparent: Arc<str>,
}

impl Context {
    /// Where a command of this request comes from.
    pub(crate) fn origin(request: &Request) -> Origin {
        let command = Ids.command();
        match request.data::<Self>() {
            Some(context) => Origin {
                command,
                correlation: Some(context.request_id.clone()),
                traceparent: Some(Arc::clone(&context.traceparent)),
                once: None,
                expected: None,
            },
            None => Origin::internal(command),
        }
    }
}

/// A part of the path. One that is no such id names nothing: `absent` says what. Nor does one that is not written as we write
/// it: one resource has one address.
pub(crate) fn path<T: FromStr + Display>(request: &Request, name: &str, absent: Kind) -> Result<T, Problem> {
    request.raw_path_param(name).and_then(canonical).ok_or_else(|| not_found(absent))
}

fn canonical<T: FromStr + Display>(text: &str) -> Option<T> {
    text.parse().ok().filter(|id: &T| id.to_string() == text)
}

/// There is nothing of this kind under this name, or it is another tenant's.
pub(crate) fn not_found(kind: Kind) -> Problem {
    Problem::new(
        kind,
        match kind {
            Kind::KeyNotFound => "There is no key with this id. GET /v1/keys lists those there are.",
            Kind::ModuleNotFound => "There is no module of this name. PUT /v1/modules/{name} publishes one.",
            Kind::VersionNotFound => "The module has no such version. GET /v1/modules/{name}/versions lists them.",
            Kind::ExecutionNotFound => "There is no execution with this id. GET /v1/executions lists those there are.",
            Kind::TenantNotFound => "There is no tenant with this id. GET /v1/tenants lists those there are.",
            _ => "There is no such thing.",
        },
    )
}

/// The query of a request, taken parameter by parameter; what is left over was misspelt.
#[derive(Debug)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    asked: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl Query {
    /// Reads the query. What cannot be decoded is a fault at its name.
    pub(crate) fn of(request: &Request) -> Result<Self, Problem> {
        let (mut pairs, mut faults) = (Vec::new(), Vec::new());
        for pair in decode::pairs(request.uri().query().unwrap_or_default()) {
            match pair {
                Ok(pair) => pairs.push(pair),
                Err((name, malformed)) => faults.push(Fault { at: place(&name), detail: malformed.to_string() }),
            }
        }
        if faults.is_empty() { Ok(Self { pairs, asked: Vec::new(), faults }) } else { Err(invalid(faults)) }
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn one<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        self.asked.push(name);
        let mut values = self.pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value);
        let (first, more) = (values.next()?, values.next().is_some());
        let at = || format!("query:{name}");
        if more {
            self.faults.push(Fault { at: at(), detail: "may be given once".into() });
            return None;
        }
        match first.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.push(Fault { at: at(), detail: error.to_string() });
                None
            }
        }
    }

    /// A number that may be given once.
    pub(crate) fn number<T: FromStr>(&mut self, name: &'static str) -> Option<T> {
        self.one::<Decimal<T>>(name).map(|Decimal(number)| number)
    }

    /// The times `from` and `to`, of which the first must not lie after the second.
    pub(crate) fn between(&mut self) -> (Option<Timestamp>, Option<Timestamp>) {
        let (from, to) = (self.one("from"), self.one("to"));
        if from.zip(to).is_some_and(|(from, to): (Timestamp, Timestamp)| from > to) {
            self.fault("from", "lies after to");
        }
        (from, to)
    }

    /// All values of a parameter that may be repeated.
    pub(crate) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.asked.push(name);
        self.pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone()).collect()
    }

    /// Names one more thing that is wrong.
    pub(crate) fn fault(&mut self, name: &str, detail: &str) {
        self.faults.push(Fault { at: format!("query:{name}"), detail: detail.to_owned() });
    }

    /// Everything but where to go on and how far: what a cursor is bound to, and what the next page's link repeats.
    pub(crate) fn filter(&self) -> Vec<(String, String)> {
        self.pairs.iter().filter(|(name, _)| name != "cursor" && name != "limit").cloned().collect()
    }

    /// Ends the reading: every parameter must have been asked for and well formed.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        let known = self.asked.join(", ");
        let asked = std::mem::take(&mut self.asked);
        for (name, _) in self.pairs.iter().filter(|(name, _)| !asked.contains(&name.as_str())) {
            let detail = if known.is_empty() {
                "is unknown; this resource takes no query parameter".to_owned()
            } else {
                format!("is unknown; this resource takes {known}")
            };
            self.faults.push(Fault { at: place(name), detail });
        }
        if self.faults.is_empty() { Ok(()) } else { Err(invalid(self.faults)) }
    }
}

fn place(name: &str) -> String {
    format!("query:{}", name.chars().take(64).collect::<String>())
}

fn invalid(faults: Vec<Fault>) -> Problem {
    Problem::new(Kind::InvalidQuery, "A query parameter is not as it should be; errors says which.").with_faults(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&Request::builder().uri(format!("/x?{text}").parse().unwrap()).finish()).unwrap()
    }

    #[test]
    fn a_parameter_is_taken_once_and_decoded() {
        let mut query = query("limit=7&name=a%20b");
        assert_eq!(query.one::<u32>("limit"), Some(7));
        assert_eq!(query.one::<String>("name").as_deref(), Some("a b"));
        assert_eq!(query.one::<u32>("version"), None);
        assert!(query.finish().is_ok());
    }

    #[test]
    fn what_is_not_text_is_named_and_not_repaired() {
        for (text, at) in
            [("a=caf%E9", "query:a"), ("x=1&b=%zz", "query:b"), ("%FF=1", "query:%FF"), ("c=%", "query:c")]
        {
            let request = Request::builder().uri(format!("/x?{text}").parse().unwrap()).finish();
            let problem = Query::of(&request).unwrap_err();
            assert_eq!((problem.kind(), problem.faults()[0].at.as_str()), (Kind::InvalidQuery, at), "{text}");
        }
    }

    #[test]
    fn a_number_is_written_in_one_way() {
        for (text, number) in [("7", Some(7)), ("%37", Some(7)), ("07", None), ("%2B7", None), ("+7", None), ("", None)]
        {
            let mut query = query(&format!("limit={text}"));
            assert_eq!(query.number::<u32>("limit"), number, "{text}");
            assert_eq!(query.finish().is_ok(), number.is_some(), "{text}");
        }
    }

    #[test]
    fn a_span_of_time_ends_after_it_begins() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.001Z");
        for (from, to, good) in [(early, late, true), (early, early, true), (late, early, false)] {
            let mut query = query(&format!("from={from}&to={to}"));
            query.between();
            assert_eq!(query.finish().map_err(|problem| problem.faults()[0].at.clone()).is_ok(), good, "{from} {to}");
        }
    }

    #[test]
    fn an_address_is_written_in_one_way() {
        for (text, version) in [("1", Some(1)), ("01", None), ("+1", None), ("1.0", None), ("", None)] {
            assert_eq!(canonical::<u32>(text), version, "{text}");
        }
    }

    #[test]
    fn what_is_unknown_repeated_or_malformed_is_named() {
        for (text, at) in [("limt=7", "query:limt"), ("limit=7&limit=8", "query:limit"), ("limit=x", "query:limit")] {
            let mut query = query(text);
            query.one::<u32>("limit");
            let problem = query.finish().unwrap_err();
            assert_eq!(problem.kind(), Kind::InvalidQuery);
            assert_eq!(problem.faults()[0].at, at);
        }
    }
}
