//! Every route on one screen: method, path, the scope it needs, its handler, and its page in the document.

use http::Method;
use poem::{Endpoint, EndpointExt as _, Request, Response, Route as Tree, endpoint::BoxEndpoint};
use wasmwiz_events::key::Scope::{self, *};

use crate::{
    auth::{self, Caller},
    gateway::Gateway,
    idempotency,
    lease::{Asking, Lease},
    middleware::RouteLabel,
    openapi::Operation,
    position,
    problem::Problem,
    routes::{audit, cluster, docs, executions, health, keys, modules, projections, tenants, tokens, usage},
    writes::Writes,
};

/// All routes that face clients.
pub(crate) fn table() -> Vec<Route> {
    let (get, post) = (Method::GET, Method::POST);
    let (put, patch, delete) = (Method::PUT, Method::PATCH, Method::DELETE);
    vec![
        open(&get, "/livez", health::livez, health::livez_doc),
        open(&get, "/readyz", health::readyz, health::readyz_doc),
        open(&get, "/health", health::health, health::health_doc),
        open(&get, "/openapi.json", docs::document, docs::document_doc),
        open(&get, "/docs", docs::page, docs::page_doc),
        key(&post, "/v1/tenants", Operator, tenants::register, tenants::register_doc),
        key(&get, "/v1/tenants", Operator, tenants::list, tenants::list_doc),
        key(&get, "/v1/tenants/{tenant}", Operator, tenants::get, tenants::get_doc),
        key(&patch, "/v1/tenants/{tenant}", Operator, tenants::change, tenants::change_doc),
        key(&post, "/v1/tenants/{tenant}/suspend", Operator, tenants::suspend, tenants::suspend_doc)
            .writing(Writes::Ends),
        key(&post, "/v1/tenants/{tenant}/resume", Operator, tenants::resume, tenants::resume_doc).writing(Writes::Ends),
        key(&get, "/v1/cluster", Operator, cluster::show, cluster::show_doc),
        key(&get, "/v1/views", Operator, projections::list, projections::list_doc),
        key(&post, "/v1/views/retry", Operator, projections::retry, projections::retry_doc).writing(Writes::Ends),
        key(&post, "/v1/views/skip", Operator, projections::skip, projections::skip_doc).writing(Writes::Ends),
        key(&post, "/v1/keys", KeysManage, keys::issue, keys::issue_doc),
        key(&get, "/v1/keys", KeysManage, keys::list, keys::list_doc),
        key(&get, "/v1/keys/{key_id}", KeysManage, keys::get, keys::get_doc),
        key(&post, "/v1/keys/{key_id}/rotate", KeysManage, keys::rotate, keys::rotate_doc),
        key(&delete, "/v1/keys/{key_id}", KeysManage, keys::revoke, keys::revoke_doc).writing(Writes::Ends),
        any_key(&post, "/v1/tokens", tokens::issue, tokens::issue_doc).writing(Writes::Nothing),
        open(&get, "/.well-known/jwks.json", tokens::keys, tokens::keys_doc),
        key(&get, "/v1/modules", ModulesRead, modules::list, modules::list_doc),
        key(&put, "/v1/modules/{name}", ModulesWrite, modules::publish, modules::publish_doc).writing(Writes::Bytes),
        key(&get, "/v1/modules/{name}", ModulesRead, modules::get, modules::get_doc),
        key(&delete, "/v1/modules/{name}", ModulesWrite, modules::delete, modules::delete_doc).writing(Writes::Ends),
        key(&get, "/v1/modules/{name}/versions", ModulesRead, modules::versions, modules::versions_doc),
        key(&get, "/v1/modules/{name}/versions/{version}/wasm", ModulesRead, modules::wasm, modules::wasm_doc),
        key(&post, "/v1/modules/{name}/executions", ExecutionsRun, executions::run, executions::run_doc)
            .writing(Writes::Bytes),
        key(&post, "/v1/executions", ExecutionsRun, executions::run_upload, executions::run_upload_doc)
            .writing(Writes::Bytes),
        key(&get, "/v1/executions", ExecutionsRead, executions::list, executions::list_doc),
        key(&get, "/v1/executions/{execution_id}", ExecutionsRead, executions::get, executions::get_doc),
        key(&delete, "/v1/executions/{execution_id}", ExecutionsRun, executions::cancel, executions::cancel_doc)
            .writing(Writes::Ends),
        key(&post, "/v1/executions/{execution_id}/verify", ExecutionsRead, executions::verify, executions::verify_doc)
            .writing(Writes::Bytes),
        key_with(
            &post,
            "/v1/executions/{execution_id}/rerun",
            (ExecutionsRun, ExecutionsRead),
            executions::rerun,
            executions::rerun_doc,
        )
        .writing(Writes::Bytes),
        key(&get, "/v1/executions/{execution_id}/events", ExecutionsRead, executions::events, executions::events_doc),
        key(&get, "/v1/executions/{execution_id}/stdin", ExecutionsRead, executions::stdin, executions::stdin_doc),
        key(&get, "/v1/executions/{execution_id}/stdout", ExecutionsRead, executions::stdout, executions::stdout_doc),
        key(&get, "/v1/executions/{execution_id}/stderr", ExecutionsRead, executions::stderr, executions::stderr_doc),
        key(&get, "/v1/usage", UsageRead, usage::report, usage::report_doc),
        key(&get, "/v1/audit", AuditRead, audit::list, audit::list_doc),
        key(&get, "/v1/audit/stream", AuditRead, audit::stream, audit::stream_doc),
        key(&get, "/v1/audit/head", AuditRead, audit::head, audit::head_doc),
    ]
}

/// What a handler gives.
pub(crate) type Answer = Result<Response, Problem>;

/// One row of the table.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// As the document writes it: parameters in braces.
    pub(crate) path: &'static str,
    /// What the caller needs; `None`: no scope, and no key either unless its document asks for one.
    pub(crate) scope: Option<Scope>,
    /// A second scope that it needs.
    pub(crate) also: Option<Scope>,
    /// What it writes at most. Of a route that does not say it: nothing when it is a GET, otherwise an event.
    pub(crate) writes: Writes,
    pub(crate) document: fn() -> Operation,
    endpoint: Make,
}

/// What makes the endpoint of a route.
type Make = Box<dyn FnOnce(&Gateway, Writes) -> BoxEndpoint<'static>>;

impl Route {
    /// The same with what it writes at most.
    fn writing(self, writes: Writes) -> Self {
        Self { writes, ..self }
    }
}

/// A route for everybody.
fn open<F, Fut>(method: &Method, path: &'static str, run: F, document: fn() -> Operation) -> Route
where
    F: Fn(Gateway, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let endpoint = |gateway: &Gateway, _| Open { gateway: gateway.clone(), run }.boxed();
    let (method, writes) = (method.clone(), Writes::Nothing);
    Route { method, path, scope: None, also: None, writes, document, endpoint: Box::new(endpoint) }
}

/// A route for callers whose key has `scope`.
fn key<F, Fut>(method: &Method, path: &'static str, scope: Scope, run: F, document: fn() -> Operation) -> Route
where
    F: Fn(Gateway, Caller, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    secured(method, path, (Some(scope), None), run, document)
}

/// A route for callers whose key has both scopes.
fn key_with<F, Fut>(
    method: &Method,
    path: &'static str,
    (scope, also): (Scope, Scope),
    run: F,
    document: fn() -> Operation,
) -> Route
where
    F: Fn(Gateway, Caller, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    secured(method, path, (Some(scope), Some(also)), run, document)
}

/// A route for every caller who is known, whatever the scopes.
fn any_key<F, Fut>(method: &Method, path: &'static str, run: F, document: fn() -> Operation) -> Route
where
    F: Fn(Gateway, Caller, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    secured(method, path, (None, None), run, document)
}

fn secured<F, Fut>(
    method: &Method,
    path: &'static str,
    (scope, also): (Option<Scope>, Option<Scope>),
    run: F,
    document: fn() -> Operation,
) -> Route
where
    F: Fn(Gateway, Caller, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let endpoint =
        move |gateway: &Gateway, writes| Secured { gateway: gateway.clone(), scope, also, writes, run }.boxed();
    let writes = if *method == Method::GET { Writes::Nothing } else { Writes::Event };
    Route { method: method.clone(), path, scope, also, writes, document, endpoint: Box::new(endpoint) }
}

struct Open<F> {
    gateway: Gateway,
    run: F,
}

impl<F, Fut> Endpoint for Open<F>
where
    F: Fn(Gateway, Request) -> Fut + Send + Sync,
    Fut: Future<Output = Answer> + Send,
{
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok((self.run)(self.gateway.clone(), request).await.unwrap_or_else(Problem::into_response))
    }
}

struct Secured<F> {
    gateway: Gateway,
    /// What the caller needs, if anything beside being known.
    scope: Option<Scope>,
    /// And what else.
    also: Option<Scope>,
    writes: Writes,
    run: F,
}

impl<F, Fut> Secured<F>
where
    F: Fn(Gateway, Caller, Request) -> Fut + Send + Sync,
    Fut: Future<Output = Answer> + Send,
{
    async fn answer(&self, request: Request) -> Answer {
        let deps = self.gateway.deps();
        self.gateway.require_keys()?;
        let shown = auth::Shown::by(&request);
        let caller = auth::authenticate(&self.gateway, &shown).await?;
        let tenant = caller.tenant_id().clone();
        let lease = {
            let (gateway, tenant) = (self.gateway.clone(), tenant.clone());
            Lease::new(move || gateway.is_active(&tenant))
        };
        if let Some(asking) = request.data::<Asking>() {
            asking.rests_on(lease.clone());
        }
        match self.answer_to(caller, request).await {
            Ok(mut response) => {
                response.set_data(lease);
                Ok(response)
            }
            Err(problem) => {
                self.gateway.denials().count(&tenant, problem.kind(), deps.clock.now());
                Err(problem)
            }
        }
    }

    async fn answer_to(&self, caller: Caller, request: Request) -> Answer {
        let deps = self.gateway.deps();
        caller.authorise(self.scope)?;
        caller.authorise(self.also)?;
        idempotency::check(request.method(), request.headers())?;
        // Of one that may have been answered before, that is looked for first: telling it again writes nothing.
        let may_be_done = self.writes == Writes::Bytes && request.headers().contains_key(idempotency::KEY);
        if !may_be_done {
            self.writes.require(deps.dispatch.space().level())?;
        }
        if request.method() == Method::GET
            && let Some(wanted) = position::wanted(request.headers())?
        {
            // A view that is waited for writes at every commit; nobody makes it do so for what is not in the log.
            if wanted > deps.log.tail().await? {
                return Err(Problem::not_there_yet());
            }
            let wait = std::time::Duration::from_millis(self.gateway.config().position_wait_ms);
            deps.views.wait_for(wanted, wait).await?;
        }
        (self.run)(self.gateway.clone(), caller, request).await
    }
}

impl<F, Fut> Endpoint for Secured<F>
where
    F: Fn(Gateway, Caller, Request) -> Fut + Send + Sync,
    Fut: Future<Output = Answer> + Send,
{
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok(self.answer(request).await.unwrap_or_else(Problem::into_response))
    }
}

/// The methods of one path.
struct Methods {
    path: &'static str,
    allow: String,
    by_method: Vec<(Method, BoxEndpoint<'static>)>,
}

impl Endpoint for Methods {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        // A HEAD is a GET whose body hyper leaves out.
        if request.method() == Method::HEAD {
            request.set_method(Method::GET);
        }
        let found = self.by_method.iter().find(|(method, _)| method == request.method());
        let mut response = match found {
            Some((_, endpoint)) => endpoint.call(request).await?,
            None => Problem::method_not_allowed(&self.allow).into_response(),
        };
        response.set_data(RouteLabel(self.path));
        Ok(response)
    }
}

/// What finds the route of a request.
struct Router(Tree);

impl Endpoint for Router {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let answer = self.0.call(request).await;
        Ok(answer.unwrap_or_else(|error| Problem::from_poem(&error).into_response()))
    }
}

/// Builds the routes of `table`.
pub(crate) fn build(table: Vec<Route>, gateway: &Gateway) -> impl Endpoint<Output = Response> + 'static {
    let mut paths: Vec<Methods> = Vec::new();
    for Route { method, path, writes, endpoint, .. } in table {
        let endpoint = (method, endpoint(gateway, writes));
        match paths.iter_mut().find(|methods| methods.path == path) {
            Some(methods) => methods.by_method.push(endpoint),
            None => paths.push(Methods { path, allow: String::new(), by_method: vec![endpoint] }),
        }
    }
    let tree = paths.into_iter().fold(Tree::new(), |tree, mut methods| {
        let mut names: Vec<_> = methods.by_method.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        methods.allow = names.join(", ");
        tree.at(methods.path.replace('{', ":").replace('}', ""), methods)
    });
    Router(tree)
}

/// The routes of the admin listener.
pub(crate) fn admin(
    gateway: &Gateway,
    metrics: impl Fn() -> Response + Send + Sync + 'static,
) -> impl Endpoint<Output = Response> + 'static {
    let get = Method::GET;
    let text = move |_, _| std::future::ready(Ok(metrics()));
    let table = vec![
        open(&get, "/livez", health::livez, health::livez_doc),
        open(&get, "/readyz", health::readyz, health::readyz_doc),
        open(&get, "/metrics", text, health::metrics_doc),
    ];
    build(table, gateway)
}
