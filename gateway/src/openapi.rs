//! The OpenAPI document, made of what the route table says about each route.
//!
//! A route's entry carries its scope and its handler, so what is documented is what is routed. `finish` adds what
//! poem-openapi has no words for; `details.json` holds the examples and bounds. `docs/openapi.json` is a copy of it all.

use std::collections::{BTreeMap, HashMap};

use http::Method;
use poem::endpoint::BoxEndpoint;
use poem_openapi::{
    OpenApi, OpenApiService,
    registry::{
        MetaApi, MetaHeader, MetaMediaType, MetaOperation, MetaOperationParam, MetaParamIn, MetaPath, MetaRequest,
        MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, MetaSecurityScheme, MetaTag, Registry,
    },
    types::Type,
};
use wasmwiz_events::key::Scope;

use crate::{
    problem::{Kind, MEDIA_TYPE},
    router, views,
    writes::Writes,
};

mod details;
mod finish;
mod links;

/// A request's id, for examples.
const REQUEST_ID: &str = "26f1d0a5a0f44b0d9e0c6a1f4b8c2d3e";

/// The name of the security scheme.
const API_KEY: &str = "api_key";

/// What the document says about one route.
pub(crate) struct Operation {
    meta: MetaOperation,
    register: Vec<fn(&mut Registry)>,
    problems: Vec<Kind>,
    /// Does it do no harm to send it twice, so that it takes no idempotency key?
    is_harmless: bool,
}

impl Operation {
    /// An operation that does not say more than its name.
    pub(crate) fn new(id: &'static str, tag: &'static str, summary: &'static str) -> Self {
        let meta = MetaOperation {
            method: Method::GET,
            tags: vec![tag],
            summary: Some(summary),
            description: None,
            external_docs: None,
            params: Vec::new(),
            request: None,
            responses: MetaResponses { responses: Vec::new() },
            deprecated: false,
            security: Vec::new(),
            operation_id: Some(id),
            code_samples: Vec::new(),
        };
        Self { meta, register: vec![views::Problem::register], problems: Vec::new(), is_harmless: false }
    }

    /// What is worth knowing beside the summary.
    pub(crate) fn describe(mut self, text: &'static str) -> Self {
        self.meta.description = Some(text);
        self
    }

    /// A query parameter. It may be repeated when `T` is a list.
    pub(crate) fn query<T: Type>(self, name: &str, description: &str) -> Self {
        self.param(MetaParamIn::Query, name, description, T::schema_ref(), false)
    }

    /// A resource that is read with its tag.
    pub(crate) fn tagged(self) -> Self {
        let about = "Tags that the caller has: the answer is a 304 without a body when one of them is the resource's.";
        self.param(MetaParamIn::Header, "If-None-Match", about, String::schema_ref(), false)
            .answers_nothing(304, "The caller has it already")
            .with_header("ETag", "Names this state of the resource, for If-None-Match and If-Match.")
    }

    /// A change of a resource that has a tag.
    pub(crate) fn conditional(self) -> Self {
        let about = "The tag of the state that the caller has seen; when it is another by now, nothing is done.";
        self.param(MetaParamIn::Header, "If-Match", about, String::schema_ref(), false)
            .problem(&[Kind::PreconditionFailed, Kind::InvalidHeader])
    }

    /// `limit` and `cursor`.
    pub(crate) fn paged(self) -> Self {
        let mut limit = MetaSchema::new("integer");
        (limit.minimum, limit.maximum, limit.default) = (Some(1.0), Some(200.0), Some(50.into()));
        let limit = MetaSchemaRef::Inline(Box::new(limit));
        self.param(MetaParamIn::Query, "limit", "How many items at most.", limit, false)
            .query::<String>("cursor", "Where to go on: next_cursor of the page before, unchanged.")
            .problem(&[Kind::InvalidQuery, Kind::MalformedCursor])
    }

    /// A header of the request.
    pub(crate) fn header(self, name: &str, description: &str) -> Self {
        self.param(MetaParamIn::Header, name, description, String::schema_ref(), false)
    }

    fn param(mut self, at: MetaParamIn, name: &str, about: &str, schema: MetaSchemaRef, required: bool) -> Self {
        self.meta.params.push(MetaOperationParam {
            name: name.to_owned(),
            schema,
            in_type: at,
            description: Some(about.to_owned()),
            required,
            deprecated: false,
            explode: true,
            style: None,
        });
        self
    }

    /// A JSON body.
    pub(crate) fn takes_json<T: Type>(mut self, required: bool) -> Self {
        self.register.push(T::register);
        let content = vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }];
        self.meta.request = Some(MetaRequest { description: None, content, required });
        let problems = [Kind::InvalidBody, Kind::BodyTooLarge, Kind::UnsupportedMediaType, Kind::BodyTooSlow];
        let needed = if required { &[Kind::EmptyBody, Kind::LengthRequired][..] } else { &[] };
        self.problem(&problems).problem(needed)
    }

    /// A body of bytes, of one of these media types.
    pub(crate) fn takes_bytes(mut self, media_types: &[&'static str], about: &'static str, required: bool) -> Self {
        let content = media_types.iter().map(|content_type| MetaMediaType { content_type, schema: binary() }).collect();
        self.meta.request = Some(MetaRequest { description: Some(about), content, required });
        self.problem(&[Kind::BodyTooLarge, Kind::TooManyBodies, Kind::BodyTooSlow])
    }

    /// A body of parts.
    pub(crate) fn takes_parts(mut self, about: &'static str, schema: MetaSchema) -> Self {
        let schema = MetaSchemaRef::Inline(Box::new(schema));
        let content = vec![MetaMediaType { content_type: "multipart/form-data", schema }];
        self.meta.request = Some(MetaRequest { description: Some(about), content, required: true });
        self.problem(&[
            Kind::BrokenMultipart,
            Kind::InvalidBody,
            Kind::LengthRequired,
            Kind::BodyTooLarge,
            Kind::UnsupportedMediaType,
            Kind::TooManyBodies,
            Kind::BodyTooSlow,
        ])
    }

    /// An answer of JSON.
    pub(crate) fn answers<T: Type>(mut self, status: u16, about: &'static str) -> Self {
        self.register.push(T::register);
        self.content(status, about, Some(MetaMediaType { content_type: "application/json", schema: T::schema_ref() }))
    }

    /// An answer that is a page of a list.
    pub(crate) fn answers_page<T: Type>(mut self, about: &'static str) -> Self {
        self.register.push(T::register);
        let mut items = MetaSchema::new("array");
        items.items = Some(Box::new(T::schema_ref()));
        let mut cursor = MetaSchema::new("string");
        cursor.nullable = true;
        let mut page = MetaSchema::new("object");
        page.required = vec!["items", "next_cursor"];
        page.properties = [("items", items), ("next_cursor", cursor)]
            .map(|(name, schema)| (name, MetaSchemaRef::Inline(Box::new(schema))))
            .into();
        let schema = MetaSchemaRef::Inline(Box::new(page));
        self.content(200, about, Some(MetaMediaType { content_type: "application/json", schema }))
            .with_header("Link", "The next page, rel=\"next\", when there is one.")
    }

    /// An answer of bytes.
    pub(crate) fn answers_bytes(self, status: u16, media_type: &'static str, about: &'static str) -> Self {
        self.content(status, about, Some(MetaMediaType { content_type: media_type, schema: binary() }))
    }

    /// An answer that is a stream of server-sent events: the schema is that of one of them.
    pub(crate) fn answers_events(self, status: u16, about: &'static str) -> Self {
        let mut event = MetaSchema::new("object");
        event.properties = ["id", "event", "data"].map(|field| (field, String::schema_ref())).to_vec();
        event.required = vec!["id", "event", "data"];
        let schema = MetaSchemaRef::Inline(Box::new(event));
        self.content(status, about, Some(MetaMediaType { content_type: "text/event-stream", schema }))
    }

    /// An answer without a body.
    pub(crate) fn answers_nothing(self, status: u16, about: &'static str) -> Self {
        self.content(status, about, None)
    }

    fn content(mut self, status: u16, about: &'static str, content: Option<MetaMediaType>) -> Self {
        let responses = &mut self.meta.responses.responses;
        match responses.iter_mut().find(|response| response.status == Some(status)) {
            Some(response) => response.content.extend(content),
            None => responses.push(MetaResponse {
                description: about,
                status: Some(status),
                status_range: None,
                content: content.into_iter().collect(),
                headers: Vec::new(),
            }),
        }
        self
    }

    /// A header of all answers that are named so far.
    pub(crate) fn with_header(mut self, name: &str, about: &str) -> Self {
        for response in &mut self.meta.responses.responses {
            response.headers.push(header(name, about));
        }
        self
    }

    /// What can be wrong.
    pub(crate) fn problem(mut self, kinds: &[Kind]) -> Self {
        self.problems.extend(kinds);
        self
    }

    /// It may be sent again without harm: it takes no idempotency key.
    pub(crate) fn harmless(mut self) -> Self {
        self.is_harmless = true;
        self
    }

    /// Asks for a credential, with whatever scopes.
    pub(crate) fn of_any_key(mut self) -> Self {
        self.meta.security.push(HashMap::from([(API_KEY, vec![])]));
        self.problem(&[Kind::Unauthenticated, Kind::TooManyAttempts, Kind::IssuerUnavailable, Kind::TenantSuspended])
            .problem(&[Kind::InvalidQuery, Kind::NodeBusy, Kind::TooManyBodies, Kind::Unavailable])
            .problem(&[Kind::DeadlinePassed])
            .problem(&[Kind::InvalidHeader])
    }

    /// Completes the operation with what its route says.
    fn complete(
        mut self,
        method: &Method,
        path: &str,
        scope: Option<Scope>,
        writes: Writes,
    ) -> (MetaOperation, Vec<fn(&mut Registry)>) {
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let schema = if name == "version" { u32::schema_ref() } else { String::schema_ref() };
            self = self.param(MetaParamIn::Path, name, parameter(name), schema, true);
        }
        if let Some(scope) = scope {
            self.meta.security.push(HashMap::from([(API_KEY, vec![])]));
            let about = "Answer only from views that have come this far: Wasmwiz-Position of a write, unchanged.";
            if *method == Method::GET {
                self = self.param(MetaParamIn::Header, "Wasmwiz-Min-Position", about, String::schema_ref(), false);
                self = self.problem(&[Kind::MalformedPosition, Kind::NotThereYet]);
            } else {
                self = self.with_header("Wasmwiz-Position", "Where the log has it; for Wasmwiz-Min-Position of reads.");
            }
            if *method == Method::POST && !self.is_harmless {
                let about = "Names this request, so that sending it again within 24 hours gives the same answer and does \
                     nothing more: 1 to 255 characters of printable ASCII, drawn anew for each request.";
                self = self.param(MetaParamIn::Header, "Idempotency-Key", about, String::schema_ref(), false);
                self = self.with_header("Idempotency-Replayed", "true: the answer is that of an earlier request.");
                self = self.problem(&[Kind::InvalidHeader, Kind::RequestInProgress]);
                self = self.problem(&[Kind::IdempotencyKeyReused, Kind::TooManyIdempotencyKeys]);
            }
            let operator = if scope == Scope::Operator { &[Kind::NotAnOperator][..] } else { &[] };
            self = self.problem(&[Kind::Unauthenticated, Kind::MissingScope, Kind::TenantSuspended]).problem(operator);
            self = self.problem(&[Kind::InvalidQuery, Kind::NodeBusy, Kind::TooManyBodies, Kind::Unavailable]);
            self = self.problem(&[Kind::DeadlinePassed, Kind::TooManyAttempts, Kind::IssuerUnavailable]);
        }
        if writes.wants_room() {
            self = self.problem(&[Kind::NodeStorageFull]);
        }
        // What the outermost layer refuses, whatever the route.
        self = self.problem(&[Kind::MalformedRequest, Kind::InvalidHeader, Kind::UriTooLong, Kind::HeadersTooLarge]);
        if *method != Method::GET {
            self = self.problem(&[Kind::UnsupportedEncoding]);
        }
        self = self.problem(&[Kind::Internal]);
        self.meta.method = method.clone();
        let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
        self.problems.iter().for_each(|kind| by_status.entry(kind.status().as_u16()).or_default().push(*kind));
        for (status, mut kinds) in by_status {
            kinds.sort_unstable();
            kinds.dedup();
            let about = kinds.first().and_then(|kind| kind.status().canonical_reason()).unwrap_or("A problem");
            let media_type = MetaMediaType { content_type: MEDIA_TYPE, schema: problem_of(&kinds) };
            self = self.content(status, about, Some(media_type));
        }
        (self.meta, self.register)
    }
}

fn header(name: &str, about: &str) -> MetaHeader {
    MetaHeader {
        name: name.to_owned(),
        description: Some(about.to_owned()),
        required: false,
        deprecated: false,
        schema: String::schema_ref(),
    }
}

fn binary() -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")))
}

/// A problem document whose type is one of these.
fn problem_of(kinds: &[Kind]) -> MetaSchemaRef {
    let mut type_uri = MetaSchema::new("string");
    type_uri.enum_items = kinds.iter().map(|kind| kind.type_uri().into()).collect();
    let mut narrowed = MetaSchema::new("object");
    narrowed.properties = vec![("type", MetaSchemaRef::Inline(Box::new(type_uri)))];
    let mut schema = MetaSchema::ANY;
    schema.all_of = vec![views::Problem::schema_ref(), MetaSchemaRef::Inline(Box::new(narrowed))];
    MetaSchemaRef::Inline(Box::new(schema))
}

const fn parameter(name: &str) -> &'static str {
    match name.as_bytes() {
        b"tenant" => "The tenant's id.",
        b"key_id" => "The key's id.",
        b"name" => "The module's name.",
        b"version" => "The module's version.",
        b"execution_id" => "The execution's id.",
        _ => "",
    }
}

/// All routes, for poem-openapi.
struct Documented;

impl OpenApi for Documented {
    fn meta() -> Vec<MetaApi> {
        let mut paths: Vec<MetaPath> = Vec::new();
        for route in router::table() {
            let (operation, _) = (route.document)().complete(&route.method, route.path, route.scope, route.writes);
            match paths.iter_mut().find(|path| path.path == route.path) {
                Some(path) => path.operations.push(operation),
                None => paths.push(MetaPath { path: route.path.to_owned(), operations: vec![operation] }),
            }
        }
        vec![MetaApi { paths }]
    }

    fn register(registry: &mut Registry) {
        for route in router::table() {
            let (_, register) = (route.document)().complete(&route.method, route.path, route.scope, route.writes);
            register.iter().for_each(|register| register(registry));
        }
        for schema in registry.schemas.values_mut() {
            mark_nullable(schema);
        }
        let tags = [
            ("executions", "Run modules, and read what ran."),
            ("modules", "Publish and read modules."),
            ("keys", "Issue, list and revoke API keys, and exchange them for tokens."),
            ("usage", "What executions cost."),
            ("audit", "The tenant's history, event by event."),
            ("tenants", "Operate the platform."),
            ("health", "Probes, and this document."),
        ];
        for (name, description) in tags {
            registry.create_tag(MetaTag { name, description: Some(description), external_docs: None });
        }
        registry.create_security_scheme(
            API_KEY,
            MetaSecurityScheme {
                ty: "http",
                description: Some(
                    "Authorization: Bearer <API key or token>. A key is written ww_<key id>_<secret><checksum>; a token is a \
                     JWT of POST /v1/tokens or of an issuer that the node believes.",
                ),
                name: None,
                key_in: None,
                scheme: Some("bearer"),
                bearer_format: Some("ww_<key id>_<secret><checksum>, or JWT"),
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

/// A member that may be absent from a resource is written as null.
fn mark_nullable(schema: &mut MetaSchema) {
    let required = schema.required.clone();
    for (name, member) in &mut schema.properties {
        if required.contains(name) {
            continue;
        }
        match member {
            MetaSchemaRef::Inline(member) => member.nullable = true,
            MetaSchemaRef::Reference(_) => {
                let mut nullable = MetaSchema::ANY;
                nullable.nullable = true;
                nullable.all_of = vec![member.clone()];
                *member = MetaSchemaRef::Inline(Box::new(nullable));
            }
        }
    }
}

fn service() -> OpenApiService<Documented, ()> {
    OpenApiService::new(Documented, "WasmWiz", "1").server("/").description(
        "Run WebAssembly modules. Every execution can be run again, every record can be proven. Errors are \
         application/problem+json documents with a stable type.",
    )
}

/// The OpenAPI document as JSON, the same at every call.
pub fn openapi_document() -> String {
    finish::finish(&service().spec())
}

/// A page that shows the document without loading anything.
pub(crate) fn page() -> String {
    let service = service();
    service.swagger_ui_html().replace(&service.spec(), &openapi_document())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_same_at_every_call_and_names_every_route() {
        let document = openapi_document();
        assert_eq!(document, openapi_document());
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        for route in router::table() {
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            assert!(operation["operationId"].is_string(), "{} {}", route.method, route.path);
            let secured = operation["security"].is_array();
            let wanted = route.scope.is_some() || route.path == "/v1/tokens";
            assert_eq!(secured, wanted, "{} {}", route.method, route.path);
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{} {}", route.method, route.path);
            assert!(!secured || responses.contains_key("401"), "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn an_operation_has_one_id() {
        let mut ids: Vec<_> = router::table().iter().map(|route| (route.document)().meta.operation_id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn the_copy_in_the_tree_is_the_document_that_is_served() {
        let copy = include_str!("../../docs/openapi.json");
        assert!(
            copy.trim_end() == openapi_document(),
            "the API has changed: run `cargo xtask openapi` and read the diff"
        );
    }

    #[test]
    fn the_page_shows_the_whole_document() {
        assert!(page().contains(&openapi_document()));
    }

    #[test]
    fn no_resource_is_xml() {
        assert!(!openapi_document().to_lowercase().contains("/xml"));
    }
}
