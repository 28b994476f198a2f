//! What a request would rather have: `Prefer`, as in RFC 7240. What is not understood is ignored, as it says.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use poem::Response;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The caller does not want to wait for the end of what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RespondAsync {
    /// It waits this long, with `wait`; at most as long as the gateway lets it.
    pub(crate) wait: Option<Duration>,
}

impl RespondAsync {
    /// What the headers prefer; `None` without `respond-async`. The first of two preferences of one name counts.
    pub(crate) fn of(headers: &HeaderMap, wait_max: Duration) -> Option<Self> {
        let texts = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let preferences = texts.flat_map(|text| text.split(',')).filter_map(|preference| {
            let (name, value) = match preference.split(';').next()?.split_once('=') {
                Some((name, value)) => (name, value.trim().trim_matches('"')),
                None => (preference.split(';').next()?, ""),
            };
            Some((name.trim(), value))
        });
        let (mut respond_async, mut wait) = (false, None);
        for (name, value) in preferences {
            if name.eq_ignore_ascii_case("respond-async") {
                respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") {
                wait = wait.or_else(|| seconds(value));
            }
        }
        let wait = wait.map(|seconds| Duration::from_secs(seconds).min(wait_max));
        respond_async.then_some(Self { wait })
    }

    /// Says in the answer what was followed. A wait that was cut is not repeated as it was asked.
    pub(crate) fn applied(self, response: &mut Response) {
        let text = match self.wait {
            Some(wait) => format!("respond-async, wait={}", wait.as_secs()),
            None => "respond-async".to_owned(),
        };
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(APPLIED, value);
        }
    }
}

/// The grammar has digits and nothing else: no sign.
fn seconds(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferred(values: &[&'static str]) -> Option<RespondAsync> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        RespondAsync::of(&headers, Duration::from_secs(30))
    }

    #[test]
    fn a_preference_is_found_among_others_in_one_header_or_several() {
        let some = |seconds: Option<u64>| Some(RespondAsync { wait: seconds.map(Duration::from_secs) });
        for values in
            [&["respond-async"][..], &["Respond-Async"], &["a=b; c, respond-async;x=y"], &["a", "respond-async"]]
        {
            assert_eq!(preferred(values), some(None), "{values:?}");
        }
        for values in
            [&["respond-async, wait=5"][..], &["wait=5", "respond-async"], &["respond-async,wait=\"5\", wait=9"]]
        {
            assert_eq!(preferred(values), some(Some(5)), "{values:?}");
        }
        assert_eq!(preferred(&["respond-async, wait=3600"]), some(Some(30)));
        assert_eq!(preferred(&["respond-async, wait=soon"]), some(None));
        assert_eq!(preferred(&["respond-async, wait=+5"]), some(None));
        for values in [&[][..], &["wait=5"], &["return=minimal"], &["respond"]] {
            assert_eq!(preferred(values), None, "{values:?}");
        }
    }

    #[test]
    fn what_was_followed_is_said() {
        let mut response = Response::builder().finish();
        RespondAsync { wait: Some(Duration::from_secs(5)) }.applied(&mut response);
        assert_eq!(response.headers()["preference-applied"], "respond-async, wait=5");
    }
}
