//! Which representation of a resource a caller takes: `Accept`, as RFC 9110 reads it (sections 12.4 and 12.5.1).
//!
//! Of all fields one list is made. For each representation the range counts that says most about it; of those that may be
//! sent, the one with the highest weight is. Where weights are equal, what is named outright comes before what a wildcard
//! covers, and then ours come in their own order. A list that only says what is not wanted leaves the rest to us.

use http::{HeaderMap, header};

use crate::{
    extract::parameters::{self, Valued},
    problem::{Kind, Problem},
};

/// One element of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    /// Of the type, and of the subtype; `None` for a wildcard.
    names: (Option<String>, Option<String>),
    /// Parameters that the representation must have.
    parameters: Vec<(String, Vec<u8>)>,
    weight: Weight,
}

/// In thousandths: 0 means that it is not wanted, 1,000 is the most.
type Weight = u16;

/// How much a range says about a representation.
type Precision = (u8, usize);

const FULL: Weight = 1_000;

impl Range {
    fn read(element: &[u8]) -> Option<Self> {
        let valued = Valued::of(element)?;
        // An old client of Java sends a lone star.
        let (kind, subtype) = valued.value().split_once('/').or(Some(("*", "*")).filter(|_| valued.value() == "*"))?;
        let name = |name: &str| (name != "*").then(|| name.to_owned());
        let names = (name(kind), name(subtype));
        if kind.is_empty() || subtype.is_empty() || (names.0.is_none() && names.1.is_some()) {
            return None;
        }
        let is_weight = |(name, _): &(&str, &[u8])| *name == "q";
        // What comes after the weight was about the list and not about the type, and is not used any more. All text here is
        // UTF-8, whether its type says so or, as that of JSON, cannot.
        let is_utf8 = |(name, value): &(&str, &[u8])| *name == "charset" && value.eq_ignore_ascii_case(b"utf-8");
        let parameters = valued.parameters().take_while(|parameter| !is_weight(parameter)).filter(|it| !is_utf8(it));
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_ascii_lowercase())).collect();
        let weight = valued.parameters().find(is_weight).map_or(Some(FULL), |(_, text)| weight(text))?;
        Some(Self { names, parameters, weight })
    }

    /// How much it says about a representation; `None` when it is about others.
    fn covers(&self, representation: &str) -> Option<Precision> {
        let produced = Valued::of(representation.as_bytes())?;
        let (kind, subtype) = produced.value().split_once('/')?;
        let fits = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        let has = |(name, value): &(String, Vec<u8>)| {
            produced.parameter(name).is_some_and(|given| given.eq_ignore_ascii_case(value))
        };
        let covers = fits(&self.names.0, kind) && fits(&self.names.1, subtype) && self.parameters.iter().all(has);
        let named = u8::from(self.names.0.is_some()) + u8::from(self.names.1.is_some());
        covers.then_some((named, self.parameters.len()))
    }
}

/// `0` to `1` with at most three digits after the point. The digit before the point is left out by an old client of Java.
fn weight(text: &[u8]) -> Option<Weight> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{fraction:0<3}").parse::<Weight>().ok().filter(|_| digits)?;
    match whole {
        "0" => Some(thousandths),
        "" if !fraction.is_empty() => Some(thousandths),
        "1" if thousandths == 0 => Some(FULL),
        _ => None,
    }
}

/// The ranges of all `Accept` fields. What is no range is left out.
fn ranges(headers: &HeaderMap) -> Vec<Range> {
    let fields = headers.get_all(header::ACCEPT).iter();
    let elements = fields.filter_map(|field| parameters::elements(field.as_bytes())).flatten();
    elements.filter_map(Range::read).collect()
}

/// The representation to answer with, of those that the resource has: the first is the one for callers who do not say.
///
/// # Errors
/// When none of them is wanted, naming them all.
pub(crate) fn choose<'a>(headers: &HeaderMap, produced: &[&'a str]) -> Result<&'a str, Problem> {
    let ranges = ranges(headers);
    let unlisted = if ranges.iter().all(|range| range.weight == 0) { FULL } else { 0 };
    let judged = produced.iter().enumerate().filter_map(|(place, representation)| {
        let said = ranges.iter().filter_map(|range| Some((range.covers(representation)?, range.weight)));
        let (precision, weight) = said.max().unwrap_or(((0, 0), unlisted));
        (weight > 0).then_some(((weight, precision, std::cmp::Reverse(place)), *representation))
    });
    judged.max().map(|(_, representation)| representation).ok_or_else(|| {
        let list = produced.join(", ");
        let detail = format!("This resource is answered as {list}. Name one of these in Accept, or leave it out.");
        Problem::new(Kind::NotAcceptable, detail).at("header:Accept", format!("takes none of {list}"))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const JSON: &str = "application/json";
    const BYTES: &str = "application/octet-stream";
    const CSV: &str = "text/csv; charset=utf-8; header=present";

    fn chosen<'a>(fields: &[&'static str], produced: &[&'a str]) -> Option<&'a str> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::ACCEPT, HeaderValue::from_bytes(field.as_bytes()).unwrap());
        }
        choose(&headers, produced).ok()
    }

    #[test]
    fn the_representation_with_the_highest_weight_is_chosen() {
        for (fields, wanted) in [
            (&[][..], Some(JSON)),
            (&[""], Some(JSON)),
            (&["*/*"], Some(JSON)),
            (&["application/*"], Some(JSON)),
            (&["application/octet-stream"], Some(BYTES)),
            (&["Application/Octet-Stream; Q=0.1"], Some(BYTES)),
            // Weights.
            (&["application/octet-stream;q=0"], Some(JSON)),
            (&["application/octet-stream; q=0.000"], Some(JSON)),
            (&["application/json, application/octet-stream;q=0.5"], Some(JSON)),
            (&["application/json;q=0.5, application/octet-stream"], Some(BYTES)),
            (&["application/json;q=0.5, application/octet-stream;q=0.501"], Some(BYTES)),
            (&["application/json;q=0.999, application/octet-stream;q=1.000"], Some(BYTES)),
            (&["application/json, application/octet-stream"], Some(JSON)),
            (&["application/octet-stream, application/json"], Some(JSON)),
            // What says more counts, whatever its weight and place.
            (&["*/*;q=0.1, application/json;q=0"], Some(BYTES)),
            (&["application/json;q=0, */*"], Some(BYTES)),
            (&["application/*;q=0.9, application/json;q=0.1"], Some(BYTES)),
            (&["*/*, application/*;q=0.2, application/octet-stream;q=0.1"], Some(JSON)),
            (&["application/octet-stream, */*"], Some(BYTES)),
            (&["application/json, text/plain, */*"], Some(JSON)),
            // Several fields are one list.
            (&["application/json;q=0.2", "application/octet-stream"], Some(BYTES)),
            (&["text/html", "application/octet-stream;q=0.3", "application/json;q=0.4"], Some(JSON)),
            // What older clients of Java send: there is no other JSON.
            (&["application/json;charset=UTF-8"], Some(JSON)),
            (&["application/json; charset=\"utf-8\", application/octet-stream;q=0.1"], Some(JSON)),
            // Parameters that ours does not have.
            (&["application/json;version=2, application/octet-stream;q=0.1"], Some(BYTES)),
            (&["application/json;q=0.5;ext=1, application/octet-stream;q=0.1"], Some(JSON)),
            (&["text/x;a=\"application/octet-stream,\", application/json;q=0.1"], Some(JSON)),
            // What browsers and old clients send.
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], Some(JSON)),
            (&["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], Some(JSON)),
            // Nothing fits.
            (&["text/html"], None),
            (&["*/*;q=0"], None),
            (&["application/*;q=0, text/*"], None),
            (&["application/json;q=0, application/octet-stream;q=0"], None),
            // What is no range says nothing.
            (&["application", "application/octet-stream;q=2", "*/json", "/", "a/\"", "é"], Some(JSON)),
            (&["application/octet-stream;q=0.1234, application/json;q=-1"], Some(JSON)),
        ] {
            assert_eq!(chosen(fields, &[JSON, BYTES]), wanted, "{fields:?}");
        }
    }

    #[test]
    fn parameters_of_a_representation_are_named_or_not() {
        for (field, wanted) in [
            ("text/csv", Some(CSV)),
            ("text/csv;charset=UTF-8", Some(CSV)),
            ("text/csv;charset=utf-8;header=absent", None),
            ("text/csv;charset=latin1, application/json;q=0.1", Some(JSON)),
            ("text/csv;q=0.5, application/json;q=0.6, text/csv;header=present;q=0.7", Some(CSV)),
            ("text/*;q=0.5, application/json;q=0.4", Some(CSV)),
        ] {
            assert_eq!(chosen(&[field], &[JSON, CSV]), wanted, "{field}");
        }
    }

    #[test]
    fn where_nothing_fits_what_there_is_is_named() {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("text/html"))]);
        let problem = choose(&headers, &[JSON, BYTES]).unwrap_err();
        assert_eq!(problem.kind(), Kind::NotAcceptable);
        assert!(problem.detail().contains(JSON) && problem.detail().contains(BYTES), "{problem:?}");
    }
}
