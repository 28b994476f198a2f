//! Who may do what, for every operation that the document has: each scope, each id of another tenant, each cursor of one.
//!
//! The operations and their parameters are read from the document, so that new ones are tried without a word. What this
//! file must know of is what each parameter stands for; one that it does not know is an error.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use reqwest::{Method, RequestBuilder, multipart};
use serde_json::Value;
use wasmwiz_tests::{
    client::{Answer, Client},
    guests,
    harness::NodeProcess,
    tenants::{SCOPES, Tenant, issue, only, register},
};

mod kinds;

/// Parameters and members of bodies that name nothing of a tenant's.
const NAMES_NOTHING: [&str; 31] = [
    "limit",
    "timeout_ms",
    "fuel",
    "sleep",
    "clock",
    "metered",
    "arg",
    "outcome",
    "from",
    "to",
    "by",
    "type",
    "version",
    "wasm",
    "input",
    "stdin",
    "stdin_encoding",
    "args",
    "as_recorded",
    "name",
    "tier",
    "reason",
    "scopes",
    "expires_at",
    "Idempotency-Key",
    "Prefer",
    "If-Match",
    "If-None-Match",
    "grace_seconds",
    "ttl_seconds",
    "position",
];

/// Parameters that say where to go on or how far: tried by themselves.
const CURSOR: &str = "cursor";
const POSITIONS: [&str; 2] = ["Wasmwiz-Min-Position", "Last-Event-ID"];

/// The scope that counts in the system tenant only.
const OPERATOR: &str = "operator";

/// A module that only the stranger has.
const HIDDEN: &str = "hidden";

/// A module that both tenants have.
const COMMON: &str = "echo";

/// One operation of the document.
#[derive(Debug)]
struct Operation {
    id: String,
    method: Method,
    path: String,
    scope: Option<String>,
    /// A second one that it needs.
    also: Option<String>,
    secured: bool,
    streams: bool,
    /// Name and place of each parameter.
    parameters: Vec<(String, String)>,
    /// The media type of the body, and an example of it when it is JSON.
    body: Option<(String, Value)>,
    /// The members of a JSON body or the parts of a form.
    members: Vec<String>,
}

impl Operation {
    fn all(document: &Value) -> anyhow::Result<Vec<Self>> {
        let paths = document["paths"].as_object().context("the document has no paths")?;
        let operations = paths.iter().flat_map(|(path, item)| {
            item.as_object().into_iter().flatten().map(move |(method, operation)| (path, method, operation))
        });
        operations.map(|(path, method, operation)| Self::of(document, path, method, operation)).collect()
    }

    fn of(document: &Value, path: &str, method: &str, operation: &Value) -> anyhow::Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let content = operation["requestBody"]["content"].as_object();
        let body = content.and_then(|content| content.iter().next()).map(|(media_type, content)| {
            let schema = schema(document, &content["schema"]);
            (media_type.clone(), schema)
        });
        let members = body.iter().flat_map(|(_, schema)| schema["properties"].as_object().into_iter().flatten());
        let good =
            operation["responses"].as_object().into_iter().flatten().filter(|(status, _)| status.starts_with('2'));
        Ok(Self {
            id: text(&operation["operationId"]).context("an operation without an id")?,
            method: method.to_uppercase().parse()?,
            path: path.to_owned(),
            scope: text(&operation["x-required-scope"]),
            also: text(&operation["x-also-required-scope"]),
            secured: operation["security"].as_array().is_some_and(|security| !security.is_empty()),
            streams: good.into_iter().any(|(_, answer)| answer["content"]["text/event-stream"].is_object()),
            parameters: parameters.filter_map(|p| Some((text(&p["name"])?, text(&p["in"])?))).collect(),
            members: members.map(|(name, _)| name.clone()).collect(),
            body: body.map(|(media_type, schema)| (media_type, schema["example"].clone())),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|(given, _)| given == name)
    }

    /// The names in its path.
    fn path_names(&self) -> Vec<&str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
    }

    /// A request whose path is filled in, without a body. The query's values are such as need no encoding.
    fn bare(&self, client: &Client, values: &Values, query: &[(&str, &str)]) -> anyhow::Result<RequestBuilder> {
        let parts =
            self.path.split('/').map(|part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => values.get(name).map(String::as_str).with_context(|| unknown(&self.id, name)),
                None => Ok(part),
            });
        let path = parts.collect::<anyhow::Result<Vec<_>>>()?.join("/");
        let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(client.request(self.method.clone(), &format!("{path}?{}", query.join("&"))))
    }

    /// A request whose path is filled in, with a body that is right.
    fn whole(&self, client: &Client, values: &Values, query: &[(&str, &str)]) -> anyhow::Result<RequestBuilder> {
        let request = self.bare(client, values, query)?;
        Ok(match &self.body {
            None => request,
            Some((media_type, _)) if media_type == "multipart/form-data" => {
                let wasm = multipart::Part::bytes(guests::ECHO.wasm()?).file_name("echo.wasm");
                request.multipart(multipart::Form::new().part("wasm", wasm))
            }
            Some((media_type, example)) if media_type == "application/json" => {
                ensure!(example.is_object(), "{} has no example of its body", self.id);
                request.json(example)
            }
            Some((media_type, _)) => request.header("content-type", media_type).body(guests::ECHO.wasm()?),
        })
    }
}

fn schema(document: &Value, schema: &Value) -> Value {
    let name = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/"));
    name.map_or_else(|| schema.clone(), |name| document["components"]["schemas"][name].clone())
}

fn unknown(operation: &str, name: &str) -> String {
    format!(
        "{operation} has a parameter or member `{name}` that the matrix does not know: say in tests/it/access.rs that it \
         names nothing of a tenant's, or what a stranger's and an unknown one are"
    )
}

/// Values of parameters that name something.
type Values = BTreeMap<&'static str, String>;

/// Names of the same things: those of the caller, those of a stranger, and those of nobody.
struct Names {
    own: Values,
    foreign: Values,
    nobody: Values,
}

/// A node with two tenants that must not know of each other.
struct Setting {
    _node: NodeProcess,
    operator: Client,
    tenant: Tenant,
    stranger: Tenant,
    operations: Vec<Operation>,
    names: Names,
}

impl Setting {
    async fn new() -> anyhow::Result<Self> {
        let node = NodeProcess::dev().await?;
        let operator = node.operator()?;
        Self::with(node, operator).await
    }

    async fn with(node: NodeProcess, operator: Client) -> anyhow::Result<Self> {
        let document = operator.get("/openapi.json").await?.is(200)?;
        let tenant = register(&operator, "Acme", "enterprise").await?;
        let stranger = register(&operator, "Stranger", "enterprise").await?;
        let own = named(&tenant, COMMON, &[COMMON]).await?;
        let foreign = named(&stranger, HIDDEN, &[COMMON, HIDDEN]).await?;
        // Of the form that such names have, so that only their being nobody's tells them apart.
        let nobody = Values::from([
            ("tenant", "t-aaaaaaaaaaaaaaaa".to_owned()),
            ("key_id", "A".repeat(stranger.key.id.len())),
            ("name", "absent".to_owned()),
            ("version", "1".to_owned()),
            ("execution_id", "019dbb4a-5f0e-7c31-9a42-6d1f0b8e7c55".to_owned()),
        ]);
        let names = Names { own, foreign: with_filters(foreign), nobody: with_filters(nobody) };
        let mut operations = Operation::all(&document)?;
        // What is put is there for all that come after it.
        operations.sort_by_key(|operation| operation.method == Method::PUT);
        Ok(Self { _node: node, operator, tenant, stranger, operations, names })
    }
}

/// Gives a tenant two of everything, and the names of one of each. `module` is the one to name.
async fn named(tenant: &Tenant, module: &str, modules: &[&str]) -> anyhow::Result<Values> {
    let client = &tenant.client;
    for name in modules {
        for guest in [guests::ECHO, guests::GREETER] {
            client.put_module(name, guest.wasm()?).await?.is(201)?;
        }
    }
    client.put_module("another", guests::ECHO.wasm()?).await?.is(201)?;
    for name in modules.iter().chain(&["another"]) {
        client.execute(name, "first").await?;
    }
    let ran = client.execute(module, "second").await?;
    issue(client, "another", &["usage:read"]).await?;
    // From here on the views have it all.
    client.get("/v1/audit/head").await?.is(200)?;
    Ok(Values::from([
        ("tenant", tenant.id.clone()),
        ("key_id", tenant.key.id.clone()),
        ("name", module.to_owned()),
        ("version", "1".to_owned()),
        ("execution_id", ran.id),
    ]))
}

/// With the names that filters take.
fn with_filters(mut names: Values) -> Values {
    let of = |name: &str| names.get(name).cloned().unwrap_or_default();
    let (key, module, subject) = (of("key_id"), of("name"), format!("executions/{}", of("execution_id")));
    names.extend([("actor", key.clone()), ("key", key), ("module", module), ("subject", subject)]);
    names
}

/// An answer without what differs between any two, and without the names that were asked for.
fn comparable(answer: &Answer, asked: &Values) -> (u16, BTreeMap<String, String>, String) {
    let mut blank: Vec<_> = asked.values().filter(|value| value.len() > 1).collect();
    // The longest first: one name may be part of another.
    blank.sort_by_key(|value| std::cmp::Reverse(value.len()));
    let blanked = |text: &str| blank.iter().fold(text.to_owned(), |text, value| text.replace(*value, "<name>"));
    let of_request = ["x-request-id", "traceparent", "date", "content-length", "wasmwiz-position", "server-timing"];
    let headers = answer.headers.iter().filter(|(name, _)| !of_request.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), blanked(&String::from_utf8_lossy(value.as_bytes()))));
    let mut body: Value = answer.json().unwrap_or_else(|_| Value::from(answer.text()));
    if let Value::Object(body) = &mut body {
        for member in ["request_id", "created_at"] {
            body.remove(member);
        }
    }
    (answer.status.as_u16(), headers.collect(), blanked(&body.to_string()))
}

#[tokio::test]
async fn every_parameter_is_one_that_the_matrix_knows() -> anyhow::Result<()> {
    let Setting { operations, names, .. } = Setting::new().await?;
    for operation in &operations {
        for name in operation.parameters.iter().map(|(name, _)| name).chain(&operation.members) {
            let known = NAMES_NOTHING.contains(&name.as_str())
                || POSITIONS.contains(&name.as_str())
                || name == CURSOR
                || names.foreign.contains_key(name.as_str());
            ensure!(known, "{}", unknown(&operation.id, name));
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_operation_asks_for_its_scope_and_for_no_other() -> anyhow::Result<()> {
    let Setting { _node, operator, tenant, operations, names, .. } = Setting::new().await?;
    // The operator of `dev` holds that scope and no other.
    let mut keys = vec![(OPERATOR, operator.clone())];
    for scope in SCOPES {
        keys.push((scope, only(&tenant.client, scope).await?));
    }
    let anonymous = operator.anonymous();
    for operation in &operations {
        let Operation { id, scope: needed, also, secured, .. } = operation;
        // Who asks is looked at first, so a request that is otherwise wrong, and changes nothing, is enough.
        let status = status_of(operation.bare(&anonymous, &names.nobody, &[])?).await?;
        ensure!((status == 401) == *secured, "{id} answers {status} to nobody");
        for (scope, client) in &keys {
            let request = operation.bare(client, &names.nobody, &[])?;
            // Operators manage the keys of their own tenant, which is the system's.
            let may = |needed: &str| needed == *scope || (*scope == OPERATOR && needed == "keys:manage");
            if needed.as_deref().is_none_or(may) && also.is_none() {
                let status = status_of(request).await?;
                ensure!(status != 401 && status != 403, "{id} answers {status} to a key with {scope}");
                continue;
            }
            let refused = client.send(request).await?.refuses(403, "missing-scope");
            let refused = refused.with_context(|| format!("{id} with a key that has {scope} only"))?;
            let missing = if needed.as_deref().is_some_and(may) { also } else { needed };
            ensure!(refused["reason"].as_str() == missing.as_deref(), "{id}: another scope is named: {refused}");
        }
        if let (Some(needed), Some(also)) = (needed, also) {
            let both = issue(&tenant.client, "both", &[needed, also]).await?;
            let request = operation.bare(&tenant.client.with_credential(&both.secret), &names.nobody, &[])?;
            let status = status_of(request).await?;
            ensure!(status != 401 && status != 403, "{id} answers {status} to a key with both scopes");
        }
    }
    Ok(())
}

/// The status of an answer, of which the body is not waited for: it may be a stream.
async fn status_of(request: RequestBuilder) -> anyhow::Result<u16> {
    Ok(request.send().await.context("no answer")?.status().as_u16())
}

#[tokio::test]
async fn a_strangers_names_are_answered_like_those_of_nobody() -> anyhow::Result<()> {
    let Setting { _node, tenant, stranger, operations, names, .. } = Setting::new().await?;
    let head = stranger.client.get("/v1/audit/head").await?.is(200)?;
    for operation in operations.iter().filter(|operation| operation.secured && !operation.path_names().is_empty()) {
        let id = &operation.id;
        let ask = async |names: &Values| -> anyhow::Result<_> {
            let answer = tenant.client.send(operation.whole(&tenant.client, names, &[])?).await?;
            Ok(comparable(&answer, names))
        };
        let (foreign, nobody) = (ask(&names.foreign).await?, ask(&names.nobody).await?);
        ensure!(foreign == nobody, "{id} tells a stranger's from nobody's:\n{foreign:?}\n{nobody:?}");
        let expected = match operation.method {
            // What is put under a name that is free is the caller's own.
            Method::PUT => 201,
            _ if operation.scope.as_deref() == Some(OPERATOR) => 403,
            _ => 404,
        };
        ensure!(foreign.0 == expected, "{id} answers {foreign:?}");
        ensure!(!foreign.2.contains(&stranger.id), "{id} tells of the stranger: {}", foreign.2);
    }
    let after = stranger.client.get("/v1/audit/head").await?.is(200)?;
    ensure!(head == after, "something became of the stranger: {head} and {after}");
    Ok(())
}

#[tokio::test]
async fn a_filter_by_a_strangers_name_finds_nothing() -> anyhow::Result<()> {
    let Setting { _node, tenant, operations, names, .. } = Setting::new().await?;
    let mut tried = 0;
    for operation in operations.iter().filter(|operation| operation.scope.as_deref() != Some(OPERATOR)) {
        let filters = operation.parameters.iter().filter(|(name, place)| {
            place == "query" && names.foreign.contains_key(name.as_str()) && !NAMES_NOTHING.contains(&name.as_str())
        });
        for (filter, _) in filters {
            let ask = async |values: &Values| -> anyhow::Result<_> {
                let value = values.get(filter.as_str()).context("no value")?;
                let request = operation.whole(&tenant.client, &names.own, &[(filter.as_str(), value.as_str())])?;
                Ok(comparable(&tenant.client.send(request).await?, values))
            };
            let (foreign, nobody) = (ask(&names.foreign).await?, ask(&names.nobody).await?);
            let id = &operation.id;
            ensure!(foreign == nobody, "{id}, {filter}: a stranger's is told from nobody's:\n{foreign:?}\n{nobody:?}");
            let found: Value = serde_json::from_str(&foreign.2)?;
            ensure!(foreign.0 == 200 && found["items"] == Value::Array(vec![]), "{id}, {filter}: {found}");
            tried += 1;
        }
    }
    ensure!(tried >= 4, "only {tried} filters were tried");
    Ok(())
}

#[tokio::test]
async fn a_strangers_cursor_opens_no_list() -> anyhow::Result<()> {
    let Setting { _node, operator, tenant, stranger, operations, names, .. } = Setting::new().await?;
    let shared = Values::from([("name", COMMON.to_owned())]);
    for operation in operations.iter().filter(|operation| operation.has(CURSOR)) {
        let id = &operation.id;
        let operators = operation.scope.as_deref() == Some(OPERATOR);
        let giver = if operators { &operator } else { &stranger.client };
        let values: Values = names.own.clone().into_iter().chain(shared.clone()).collect();
        // Of what is summed by modules there are some; by days there may be one.
        let mut query = vec![("limit", "1")];
        query.extend(operation.has("by").then_some(("by", "module")));
        let request = operation.bare(giver, &values, &query)?;
        let page: Value = giver.send(request).await?.is(200)?;
        let cursor = page["next_cursor"].as_str();
        let cursor =
            cursor.with_context(|| format!("{id}: give the stranger two of what it lists, in `named`: {page}"))?;
        query.push((CURSOR, cursor));
        let request = operation.bare(&tenant.client, &values, &query)?;
        let answer = tenant.client.send(request).await?;
        let expected = if operators { (403, "missing-scope") } else { (400, "malformed-cursor") };
        let refused = answer.refuses(expected.0, expected.1).with_context(|| id.clone())?;
        ensure!(!refused.to_string().contains(&stranger.id), "{id} tells of the stranger: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_strangers_position_shows_nothing_that_is_not_shown_without() -> anyhow::Result<()> {
    let Setting { _node, tenant, stranger, operations, names, .. } = Setting::new().await?;
    let written = stranger.client.put_module("one-more", guests::ECHO.wasm()?).await?;
    let position = written.header("wasmwiz-position").context("a write without a position")?.to_owned();
    // Until the views have it: from here on, nothing changes.
    tenant
        .client
        .send(tenant.client.request(Method::GET, "/v1/audit/head").header(POSITIONS[0], &position))
        .await?
        .is(200)?;
    let reads = operations.iter().filter(|operation| operation.method == Method::GET && operation.has(POSITIONS[0]));
    for operation in reads {
        if operation.streams || operation.scope.as_deref() == Some(OPERATOR) {
            continue;
        }
        let ask = async |position: Option<&str>| -> anyhow::Result<_> {
            // The default end of a report is now.
            let until = [("to", "2090-01-01T00:00:00Z")];
            let query = if operation.has("to") { &until[..] } else { &[] };
            let request = operation.bare(&tenant.client, &names.own, query)?;
            let request =
                position.into_iter().fold(request, |request, position| request.header(POSITIONS[0], position));
            Ok(comparable(&tenant.client.send(request).await?, &Values::new()))
        };
        let (with, without) = (ask(Some(&position)).await?, ask(None).await?);
        if with.0 != 200 || with != without {
            bail!("{} answers another way with a stranger's position:\n{with:?}\n{without:?}", operation.id);
        }
    }
    Ok(())
}
