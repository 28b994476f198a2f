//! What poem-openapi has no words for, written into the document that it makes: the headers of every answer, examples,
//! links, the scope that an operation needs, and the bounds of [`Details`].

use serde_json::{Map, Value, json};

use super::{REQUEST_ID, details::Details, links};
use crate::{
    problem::{MEDIA_TYPE, TYPE_PREFIX},
    router::{self, Route},
};

/// Which answers have a header.
#[derive(Debug, Clone, Copy)]
enum On {
    Every,
    Status(&'static [&'static str]),
}

/// A header that no route sets by itself: name, which answers have it, whether all of these do, an example, and what it says.
type Common = (&'static str, On, bool, &'static str, &'static str);

const COMMON: &[Common] = &[
    ("X-Request-Id", On::Every, true, REQUEST_ID, "The id of the request: the caller's own, or one that was drawn."),
    (
        "Traceparent",
        On::Every,
        true,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "W3C trace context: the caller's own, or one that was begun.",
    ),
    (
        "Content-Security-Policy",
        On::Every,
        true,
        "default-src 'none'; frame-ancestors 'none'",
        "What a browser may load for the answer: nothing.",
    ),
    ("X-Content-Type-Options", On::Every, true, "nosniff", "The type of the answer is the one that it names."),
    ("X-Frame-Options", On::Every, true, "DENY", "The answer is shown in no frame."),
    ("Referrer-Policy", On::Every, true, "no-referrer", "Where the answer leads is not told where it was."),
    ("WWW-Authenticate", On::Status(&["401"]), true, "Bearer realm=\"wasmwiz\"", "How to authenticate."),
    ("Accept", On::Status(&["415"]), false, "application/json", "What the resource takes."),
    ("Retry-After", On::Status(&["429", "503"]), true, "1", "How many seconds to wait before another attempt."),
    (
        "RateLimit-Policy",
        On::Status(&["429"]),
        false,
        "\"executions\";q=100;w=60",
        "The limit that was reached: its name, its quota, and its window in seconds.",
    ),
    ("RateLimit", On::Status(&["429"]), false, "\"executions\";r=0;t=6", "What is left of it, and for how long."),
];

/// Completes the document that poem-openapi wrote.
pub(super) fn finish(document: &str) -> String {
    // What poem-openapi writes is JSON; were it not, it would be shown as it is.
    let Ok(mut document) = serde_json::from_str::<Value>(document) else { return document.to_owned() };
    let (details, table) = (Details::read(), router::table());
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        details.complete_schemas(schemas);
    }
    let mut closed = Vec::new();
    let paths = document.pointer_mut("/paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let Value::Object(operation) = operation else { continue };
            complete(operation, &details);
            closed.extend(body_schema(operation));
            let route = table.iter().find(|route| is(route, path, method));
            if let Some(scope) = route.and_then(|route| route.scope) {
                operation.insert("x-required-scope".to_owned(), scope.as_str().into());
            }
            if let Some(also) = route.and_then(|route| route.also) {
                operation.insert("x-also-required-scope".to_owned(), also.as_str().into());
            }
        }
    }
    // A body with a member that the resource does not take is refused.
    for name in closed {
        if let Some(Value::Object(schema)) = document.pointer_mut(&format!("/components/schemas/{name}")) {
            schema.insert("additionalProperties".to_owned(), false.into());
        }
    }
    if let Some(Value::Object(components)) = document.pointer_mut("/components") {
        components.insert("headers".to_owned(), COMMON.iter().map(header).collect::<Map<_, _>>().into());
        components.insert("examples".to_owned(), details.problems().into());
    }
    keep_named_examples(&mut document);
    links::add(&mut document, &details);
    // A tree of JSON is written without fail.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

fn is(route: &Route, path: &str, method: &str) -> bool {
    route.path == path && route.method.as_str().eq_ignore_ascii_case(method)
}

fn complete(operation: &mut Map<String, Value>, details: &Details) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter_map(Value::as_object_mut) {
        details.complete_parameter(parameter);
    }
    let form = operation.get_mut("requestBody").and_then(|body| body.pointer_mut("/content/multipart~1form-data"));
    if let Some(Value::Object(form)) = form {
        details.complete_form(form);
    }
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for (status, response) in responses.into_iter().flatten() {
        let Value::Object(response) = response else { continue };
        let content = response.get_mut("content").and_then(Value::as_object_mut);
        for (media_type, content) in content.into_iter().flatten() {
            let Value::Object(content) = content else { continue };
            if media_type == MEDIA_TYPE {
                content.insert("examples".to_owned(), problems_of(content).into());
            } else if let Some(page) = page_example(content, details) {
                content.insert("example".to_owned(), page);
            }
        }
        add_headers(status, response);
    }
}

/// The name of the schema that the JSON body of an operation has.
fn body_schema(operation: &Map<String, Value>) -> Option<String> {
    let schema = operation.get("requestBody")?.pointer("/content/application~1json/schema/$ref")?;
    Some(schema.as_str()?.strip_prefix("#/components/schemas/")?.to_owned())
}

/// Names the examples of the problems that an answer may be.
fn problems_of(content: &Map<String, Value>) -> Map<String, Value> {
    let types = content.get("schema").and_then(|schema| schema.pointer("/allOf/1/properties/type/enum"));
    let slugs = types.and_then(Value::as_array).into_iter().flatten().filter_map(|uri| {
        let slug = uri.as_str()?.strip_prefix(TYPE_PREFIX)?;
        Some((slug.to_owned(), json!({"$ref": format!("#/components/examples/{slug}")})))
    });
    slugs.collect()
}

/// A page with one item that is the example of its schema.
fn page_example(content: &Map<String, Value>, details: &Details) -> Option<Value> {
    let item = content.get("schema")?.pointer("/properties/items/items/$ref")?.as_str()?;
    let item = details.example(item.strip_prefix("#/components/schemas/")?)?;
    Some(json!({"items": [item], "next_cursor": null}))
}

/// Adds the headers that no route sets by itself.
fn add_headers(status: &str, response: &mut Map<String, Value>) {
    // The one answer of such a status that is no problem, that of /health, names no time.
    let problem_only = response
        .get("content")
        .and_then(Value::as_object)
        .is_none_or(|content| content.keys().all(|media_type| media_type == MEDIA_TYPE));
    let headers = response.entry("headers").or_insert_with(|| Map::new().into());
    let Value::Object(headers) = headers else { return };
    for (name, on, ..) in COMMON {
        let has = match on {
            On::Every => true,
            On::Status(statuses) => problem_only && statuses.contains(&status),
        };
        if has && !headers.keys().any(|given| given.eq_ignore_ascii_case(name)) {
            headers.insert((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
        }
    }
}

fn header((name, _, required, example, about): &Common) -> (String, Value) {
    let header = json!({
        "description": about,
        "required": required,
        "schema": {"type": "string"},
        "example": example,
    });
    ((*name).to_owned(), header)
}

/// Drops the examples of problems that no operation answers with: the router and the serve loop answer with these.
fn keep_named_examples(document: &mut Value) {
    let paths = document.pointer("/paths").map(Value::to_string).unwrap_or_default();
    if let Some(Value::Object(examples)) = document.pointer_mut("/components/examples") {
        examples.retain(|slug, _| paths.contains(&format!("\"#/components/examples/{slug}\"")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        serde_json::from_str(&super::super::openapi_document()).unwrap()
    }

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
    }

    #[test]
    fn every_parameter_has_an_example() {
        let document = document();
        let mut lacking = Vec::new();
        for (name, operation) in operations(&document) {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let described = parameter["description"].as_str().is_some_and(|about| !about.is_empty());
                if parameter["example"].is_null() || !described {
                    lacking.push(format!("{} of {name}", parameter["name"]));
                }
            }
        }
        let remedy = "describe it where it is declared, and add an example to gateway/src/openapi/details.json";
        assert!(lacking.is_empty(), "{lacking:?}: {remedy}");
    }

    #[test]
    fn every_answer_names_its_headers_and_every_problem_shows_itself() {
        let document = document();
        for (name, operation) in operations(&document) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let headers = &response["headers"];
                assert!(headers["X-Request-Id"].is_object() && headers["Traceparent"].is_object(), "{name} {status}");
                let paused = ["429", "503"].contains(&status.as_str()) && response["content"][MEDIA_TYPE].is_object();
                assert_eq!(headers["Retry-After"].is_object(), paused && name != "get /health", "{name} {status}");
                if let Some(problem) = response["content"].get(MEDIA_TYPE) {
                    let examples = problem["examples"].as_object().unwrap();
                    assert!(!examples.is_empty(), "{name} {status}");
                }
            }
        }
    }

    #[test]
    fn an_operation_says_which_scope_it_needs() {
        let document = document();
        assert_eq!(document["paths"]["/v1/keys"]["post"]["x-required-scope"], "keys:manage");
        assert!(document["paths"]["/livez"]["get"].get("x-required-scope").is_none());
    }

    #[test]
    fn a_body_with_an_unknown_member_is_outside_its_schema() {
        let document = document();
        assert_eq!(document["components"]["schemas"]["KeyRequest"]["additionalProperties"], false);
        assert!(document["components"]["schemas"]["Key"].get("additionalProperties").is_none());
    }
}
