//! Links: which operations can go on with what another one has answered.
//!
//! They follow from the document itself: an operation is linked to every other whose path can be filled in from the
//! resource that it answers with and from its own path. A new route is linked without a word.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::details::Details;

/// An operation that others may lead to.
struct Target {
    id: String,
    /// The parameters of its path.
    needs: Vec<String>,
}

/// Adds the links of every operation.
pub(super) fn add(document: &mut Value, details: &Details) {
    let targets = targets(document);
    let paths = document.pointer_mut("/paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            link(path, method, operation, &targets, details);
        }
    }
}

fn targets(document: &Value) -> Vec<Target> {
    let paths = document.pointer("/paths").and_then(Value::as_object);
    let operations = paths.into_iter().flatten().flat_map(|(path, item)| {
        let operations = item.as_object().into_iter().flat_map(Map::values);
        operations.filter_map(move |operation| Some((path, operation.get("operationId")?.as_str()?)))
    });
    let targets = operations.map(|(path, id)| Target { id: id.to_owned(), needs: parameters(path) });
    targets.filter(|target| !target.needs.is_empty()).collect()
}

/// The names in braces.
fn parameters(path: &str) -> Vec<String> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(str::to_owned).collect()
}

fn link(path: &str, method: &str, operation: &mut Value, targets: &[Target], details: &Details) {
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = parameters(path);
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for (_, response) in responses.into_iter().flatten().filter(|(status, _)| status.starts_with('2')) {
        let Some(schema) = response.pointer("/content/application~1json/schema") else { continue };
        let mut links = Map::new();
        if schema.pointer("/properties/next_cursor").is_some() {
            // A page may be empty, so nothing is promised of its items.
            links.insert("nextPage".to_owned(), next_page(&id, &own));
        } else if let Some(resource) = named(schema)
            && method != "get"
        {
            // What was read is known to its reader already.
            let others = targets.iter().filter(|target| target.id != id);
            links.extend(others.filter_map(|target| Some((target.id.clone(), to(target, &own, resource, details)?))));
        }
        if let Value::Object(response) = response
            && !links.is_empty()
        {
            response.insert("links".to_owned(), links.into());
        }
    }
}

/// The name of the schema that a body has.
fn named(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/components/schemas/")
}

/// The link to `target`, if its path can be filled in, at least in part from the resource.
fn to(target: &Target, own: &[String], resource: &str, details: &Details) -> Option<Value> {
    let mut from_resource = false;
    let mut filled = BTreeMap::new();
    for name in &target.needs {
        let pointer = details.parameter(name).and_then(|parameter| parameter.found_in.get(resource));
        let expression = match pointer {
            Some(pointer) => {
                from_resource = true;
                format!("$response.body#{pointer}")
            }
            None if own.contains(name) => format!("$request.path.{name}"),
            None => return None,
        };
        filled.insert(name.as_str(), expression);
    }
    from_resource.then(|| json!({"operationId": target.id, "parameters": filled}))
}

fn next_page(id: &str, own: &[String]) -> Value {
    let mut filled: BTreeMap<_, _> = own.iter().map(|name| (name.as_str(), format!("$request.path.{name}"))).collect();
    filled.insert("cursor", "$response.body#/next_cursor".to_owned());
    let about = "While next_cursor is not null, with the same filters.";
    json!({"operationId": id, "parameters": filled, "description": about})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links_of(pointer: &str) -> Value {
        let document: Value = serde_json::from_str(&super::super::openapi_document()).unwrap();
        document.pointer(pointer).cloned().unwrap_or_default()
    }

    #[test]
    fn what_is_made_leads_to_what_can_be_done_with_it() {
        let links = links_of("/paths/~1v1~1keys/post/responses/201/links");
        assert_eq!(links["revokeKey"]["parameters"], json!({"key_id": "$response.body#/id"}));
        let links = links_of("/paths/~1v1~1modules~1{name}/put/responses/201/links");
        let filled = json!({"name": "$response.body#/name", "version": "$response.body#/version"});
        assert_eq!(links["getModuleBytes"]["parameters"], filled);
        let links = links_of("/paths/~1v1~1modules~1{name}~1executions/post/responses/200/links");
        assert_eq!(links["getExecutionStdout"]["parameters"], json!({"execution_id": "$response.body#/id"}));
    }

    #[test]
    fn a_page_leads_to_the_next_one_and_what_is_only_read_leads_nowhere() {
        let links = links_of("/paths/~1v1~1modules~1{name}~1versions/get/responses/200/links");
        assert_eq!(links["nextPage"]["operationId"], "listModuleVersions");
        assert_eq!(links["nextPage"]["parameters"]["name"], "$request.path.name");
        assert!(links_of("/paths/~1v1~1keys~1{key_id}/get/responses/200/links").is_null());
    }
}
