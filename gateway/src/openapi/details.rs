//! What the types of Rust do not say about what is on the wire: formats, bounds, closed sets of words, and an example of
//! everything. `details.json` has it, by the name of a parameter or of a schema.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasmwiz_events::{
    execution::Outcome,
    key::Scope,
    settings::{Clock, Sleep},
    tenant::Tier,
};

use super::REQUEST_ID;
use crate::problem::Kind;

const TEXT: &str = include_str!("details.json");

/// Where `details.json` has the name of a set of words, the words themselves come from the code.
const WORDS: &str = "values";

/// The details of everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Details {
    parameters: BTreeMap<String, Parameter>,
    parts: BTreeMap<String, Part>,
    schemas: BTreeMap<String, Value>,
    /// What the detail of each problem mostly says, by its slug.
    problems: BTreeMap<String, String>,
}

/// What is known about the parameters of one name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    pub(super) example: Value,
    #[serde(default)]
    pub(super) schema: Map<String, Value>,
    /// Which resources hold such a value, and where: a JSON pointer into each.
    #[serde(default)]
    pub(super) found_in: BTreeMap<String, String>,
}

/// What is known about the parts of one name of a form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Part {
    /// Its media type, when it is no text.
    content_type: Option<String>,
    schema: Map<String, Value>,
}

impl Details {
    /// Reads them. A test holds that they can be read.
    pub(super) fn read() -> Self {
        serde_json::from_str(TEXT).unwrap_or_default()
    }

    /// Of the parameter `name`.
    pub(super) fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.get(name)
    }

    /// An example of the schema `name`.
    pub(super) fn example(&self, name: &str) -> Option<&Value> {
        self.schemas.get(name)?.get("example")
    }

    /// Completes the schemas of the components.
    pub(super) fn complete_schemas(&self, schemas: &mut Map<String, Value>) {
        for (name, schema) in schemas {
            if let Some(Value::Object(details)) = self.schemas.get(name) {
                merge(schema, details);
            }
        }
    }

    /// Completes a parameter.
    pub(super) fn complete_parameter(&self, parameter: &mut Map<String, Value>) {
        let Some(details) = parameter.get("name").and_then(Value::as_str).and_then(|name| self.parameter(name)) else {
            return;
        };
        if let Some(schema) = parameter.get_mut("schema") {
            merge(schema, &details.schema);
        }
        parameter.insert("example".to_owned(), details.example.clone());
    }

    /// Completes a form: what its parts are, and that it has no others.
    pub(super) fn complete_form(&self, form: &mut Map<String, Value>) {
        let mut encoding = Map::new();
        if let Some(Value::Object(schema)) = form.get_mut("schema") {
            let parts = schema.get_mut("properties").and_then(Value::as_object_mut);
            for (name, part) in parts.into_iter().flatten() {
                let Some(details) = self.parts.get(name) else { continue };
                merge(part, &details.schema);
                if let Some(media_type) = &details.content_type {
                    encoding.insert(name.clone(), json!({"contentType": media_type}));
                }
            }
            schema.insert("additionalProperties".to_owned(), false.into());
        }
        form.insert("encoding".to_owned(), encoding.into());
    }

    /// An example of every problem, by its slug.
    pub(super) fn problems(&self) -> Map<String, Value> {
        let example = |kind: &Kind| {
            let detail = self.problems.get(kind.slug()).map_or_else(|| kind.title(), String::as_str);
            let value = json!({
                "type": kind.type_uri(),
                "title": kind.title(),
                "status": kind.status().as_u16(),
                "detail": detail,
                "instance": "/v1/executions",
                "request_id": REQUEST_ID,
            });
            (kind.slug().to_owned(), json!({"summary": kind.title(), "value": value}))
        };
        Kind::ALL.iter().map(example).collect()
    }
}

/// The words of a closed set.
fn words(set: &str) -> Vec<&'static str> {
    match set {
        "scopes" => Scope::ALL.iter().map(|scope| scope.as_str()).collect(),
        "tiers" => Tier::ALL.iter().map(|tier| tier.as_str()).collect(),
        "sleeps" => Sleep::ALL.iter().map(|sleep| sleep.as_str()).collect(),
        "clocks" => Clock::ALL.iter().map(|clock| clock.as_str()).collect(),
        "outcomes" => Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Writes details into a schema, member by member.
fn merge(schema: &mut Value, details: &Map<String, Value>) {
    let Value::Object(members) = schema else { return };
    for (name, detail) in details {
        match (detail, members.get_mut(name)) {
            (Value::String(set), _) if name == WORDS => {
                members.insert("enum".to_owned(), words(set).into());
            }
            (Value::Object(detail), Some(inner)) if name != "example" => merge(inner, detail),
            _ => {
                members.insert(name.clone(), resolved(detail));
            }
        }
    }
    // Where null is allowed, a closed set of words must have it, too.
    if members.get("nullable").is_some_and(|nullable| *nullable == Value::Bool(true))
        && let Some(Value::Array(words)) = members.get_mut("enum")
        && !words.contains(&Value::Null)
    {
        words.push(Value::Null);
    }
}

/// A detail that is new to its schema, with its words.
fn resolved(detail: &Value) -> Value {
    match detail {
        Value::Object(members) if members.contains_key(WORDS) => {
            let mut schema = Value::Object(Map::new());
            merge(&mut schema, members);
            schema
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> Details {
        serde_json::from_str(TEXT).unwrap()
    }

    fn schemas() -> Map<String, Value> {
        let document: Value = serde_json::from_str(&super::super::openapi_document()).unwrap();
        document["components"]["schemas"].as_object().unwrap().clone()
    }

    #[test]
    fn every_schema_has_an_example_and_no_detail_is_left_over() {
        let (details, schemas) = (details(), schemas());
        let lacking: Vec<_> = schemas.keys().filter(|name| details.example(name).is_none()).collect();
        assert!(lacking.is_empty(), "add an example of {lacking:?} to gateway/src/openapi/details.json");
        let left: Vec<_> = details.schemas.keys().filter(|name| !schemas.contains_key(*name)).collect();
        assert!(left.is_empty(), "no schema has the name {left:?}: take it out of gateway/src/openapi/details.json");
        for (name, described) in &details.schemas {
            let told = described.get("properties").and_then(Value::as_object);
            for member in told.into_iter().flat_map(Map::keys) {
                let known = schemas[name]["properties"].as_object().is_some_and(|known| known.contains_key(member));
                assert!(known, "{name} has no member {member}: correct gateway/src/openapi/details.json");
            }
        }
    }

    #[test]
    fn every_problem_has_an_example() {
        let details = details();
        let slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        let lacking: Vec<_> = slugs.iter().filter(|slug| !details.problems.contains_key(**slug)).collect();
        assert!(lacking.is_empty(), "say in gateway/src/openapi/details.json what the detail of {lacking:?} is like");
        let left: Vec<_> = details.problems.keys().filter(|slug| !slugs.contains(&slug.as_str())).collect();
        assert!(left.is_empty(), "there is no problem {left:?}: take it out of gateway/src/openapi/details.json");
    }

    #[test]
    fn the_guide_lists_every_problem_and_no_other() {
        let (details, guide) = (details(), include_str!("../../../docs/guides/limits-and-errors.md"));
        let row = |kind: &Kind| {
            let (slug, status, title) = (kind.slug(), kind.status().as_u16(), kind.title());
            let detail = details.problems.get(slug).map_or("", String::as_str);
            format!("| `{slug}` | {status} | {title} | {detail} |\n")
        };
        let rows: String = Kind::ALL.iter().map(row).collect();
        let listed: String = guide
            .split_inclusive('\n')
            .filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 3)
            .collect();
        assert!(listed == rows, "the rows of docs/guides/limits-and-errors.md are to be:\n{rows}");
    }

    #[test]
    fn words_come_from_the_code_and_null_is_one_where_it_is_allowed() {
        let mut schema = json!({"type": "string", "nullable": true});
        merge(&mut schema, json!({"values": "tiers"}).as_object().unwrap());
        assert_eq!(schema["enum"], json!(["free", "basic", "pro", "enterprise", null]));
        let mut schema = json!({"type": "array", "items": {"type": "string"}});
        merge(&mut schema, json!({"minItems": 1, "items": {"values": "scopes"}}).as_object().unwrap());
        assert_eq!(schema["items"]["enum"].as_array().unwrap().len(), Scope::ALL.len());
        assert_eq!(schema["minItems"], 1);
    }
}
