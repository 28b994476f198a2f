//! `wasmwiz dev`: a whole platform in one process, for trying out.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{Args, builder::TypedValueParser as _};
use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde::{Deserialize, de::DeserializeOwned};
use wasmwiz_events::{
    digest::Digest,
    feed::FeedConfig,
    key::{Scope, Scopes},
    nats::NatsConfig,
};

use super::output;
use crate::{
    app::{self, App},
    bootstrap,
    config::{Config, TelemetryConfig},
    ready::Ready,
    telemetry,
};

mod beside;
mod cluster;
mod process;
mod servers;

const GREETER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/greeter.wasm"));
const ECHO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/echo.wasm"));

/// How much longer than its nodes may take to stop, whoever started them waits for that before they are killed.
const STOP_BEYOND: Duration = Duration::from_secs(15);

/// The tenant that everything here belongs to.
const TENANT: &str = "dev";

/// Start a platform to try out.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wasmwiz dev\n  wasmwiz dev --nats\n  wasmwiz dev --nodes 3\n  \
                        wasmwiz dev --listen 127.0.0.1:0 --data /tmp/wiz --ready-file ready.json\n\nThe data folder keeps everything: start again and the history goes on. Delete it \
                        to begin anew.")]
pub struct Dev {
    /// Where the API listens. Port 0 takes any free one. Without it, listen.api of the environment or the file, or
    /// 127.0.0.1:8080.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where metrics and probes listen. Without it, listen.admin of the environment or the file, or any free port.
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// Where everything is kept. Without it, node.data_dir of the environment or the file, or .wasmwiz.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write this file, as JSON, once the node serves.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// A configuration file, under the environment and the flags above.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Start a nats-server beside it, feed its events to that, and print how to subscribe. Both end together.
    #[arg(long, group = "servers")]
    nats: bool,
    /// Start a cluster instead: this many nodes (1, 3 or 5), each with a nats-server of its own, all as processes of this
    /// machine.
    #[arg(long, value_name = "COUNT", group = "servers", conflicts_with_all = ["config", "admin_listen"],
          value_parser = clap::builder::PossibleValuesParser::new(["1", "3", "5"]).map(|count| count.parse::<u16>().unwrap_or(1)))]
    nodes: Option<u16>,
    /// The nats-server for either; one on the PATH if it is left out, or the one in .tools/bin.
    #[arg(long, value_name = "FILE", requires = "servers")]
    nats_server: Option<PathBuf>,
}

impl Dev {
    /// Runs the platform.
    ///
    /// # Errors
    /// When it cannot start, or its log fails.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.settings()?;
        if self.nats || self.nodes.is_some() {
            return self.run_with_servers(config);
        }
        // It is its own client, and does not know who signed the certificate.
        ensure!(
            config.listen.tls.is_none(),
            "wasmwiz dev serves in the clear; leave listen.tls out, or start wasmwiz node"
        );
        let _telemetry = telemetry::init(&config.telemetry, &config.node.name)?;
        app::run(&config, async |app: &App| {
            let (ready, api_key) = keys(app, &config).await?;
            // The platform is beside it: no certificates are needed, and there may be none on this machine. Nor does a
            // proxy that the environment names get the key.
            let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
            let platform = Platform { url: ready.url.clone(), api_key, http };
            platform.show().await.context("the platform started, and its first execution failed")?;
            if let Some(path) = &self.ready_file {
                ready.write(path).with_context(|| format!("{} cannot be written", path.display()))?;
            }
            Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Dev {
    /// Runs what needs servers of NATS: nodes and servers are processes of their own, and this one starts and stops them.
    fn run_with_servers(self, config: Config) -> anyhow::Result<ExitCode> {
        let Self { ready_file, nats_server, nodes, config: file, .. } = self;
        let stop_within = Duration::from_millis(config.shutdown.within_ms).saturating_add(STOP_BEYOND);
        let warnings = TelemetryConfig { filter: "warn".into(), ..TelemetryConfig::default() };
        let _telemetry = telemetry::init(&warnings, &config.node.name)?;
        let (listen, admin, data) = (config.listen.api, config.listen.admin, config.node.data_dir);
        if let Some(nodes) = nodes {
            let plan = cluster::Plan { nodes, listen, data, ready_file, nats_server, stop_within };
            app::runtime()?.block_on(cluster::run(&plan))?;
            return Ok(ExitCode::SUCCESS);
        }
        ensure!(
            config.feed.nats == NatsConfig::default(),
            "feed.nats is set, and --nats starts a bus of its own: leave one of them out"
        );
        let is_sized = config.feed.max_bytes != FeedConfig::default().max_bytes;
        let plan = beside::Plan { config: file, listen, admin, data, ready_file, nats_server, is_sized, stop_within };
        app::runtime()?.block_on(beside::run(&plan))
    }

    /// Flags over the environment over the file over what suits somebody who tries it out.
    fn settings(&self) -> anyhow::Result<Config> {
        let mut defaults = Config::default();
        defaults.listen.admin = SocketAddr::from(([127, 0, 0, 1], 0));
        defaults.telemetry.filter = "warn".into();
        // No load balancer has to look elsewhere first.
        defaults.shutdown.announce_ms = 0;
        let mut config = Config::load_over(defaults, self.config.as_deref())?.config;
        config.listen.api = self.listen.unwrap_or(config.listen.api);
        config.listen.admin = self.admin_listen.unwrap_or(config.listen.admin);
        if let Some(data) = &self.data {
            config.node.data_dir.clone_from(data);
        }
        Ok(config)
    }
}

/// Registers the tenant and issues this start's keys; earlier ones stay valid.
async fn keys(app: &App, config: &Config) -> anyhow::Result<(Ready, String)> {
    let drawn = bootstrap::operator(app, config).await?;
    let operator = match drawn {
        Some(key) => key,
        None => {
            let key = bootstrap::draw(app);
            let new = bootstrap::new_key(&key, "dev operator", Scopes::NONE.with(Scope::Operator));
            bootstrap::issue(app, wasmwiz_actors::tenant::SYSTEM, new).await?;
            key
        }
    };
    bootstrap::register(app, TENANT, "Development", None).await?;
    let key = bootstrap::draw(app);
    let issued = bootstrap::issue(app, TENANT, bootstrap::new_key(&key, "dev", Scopes::TENANT)).await;
    let issued = issued.context("delete the data folder to begin anew, or revoke keys with DELETE /v1/keys/{id}")?;
    app.until_visible(issued.position).await?;
    app.until_keys_are_known().await;
    let ready = Ready {
        tenant: Some(TENANT.into()),
        api_key: Some(key.text().to_owned()),
        operator_token: Some(operator.text().to_owned()),
        ..app.ready()
    };
    Ok((ready, key.text().to_owned()))
}

/// The platform as its users see it: over HTTP.
struct Platform {
    url: String,
    api_key: String,
    http: reqwest::Client,
}

/// What the platform says of a module.
#[derive(Deserialize)]
struct Module {
    version: u32,
    digest: String,
}

/// What it says of an execution.
#[derive(Deserialize)]
struct Execution {
    id: String,
    outcome: String,
    stdout: String,
}

/// What it says of the history.
#[derive(Deserialize)]
struct History {
    items: Vec<Recorded>,
}

/// What it says of one event.
#[derive(Deserialize)]
struct Recorded {
    revision: u64,
    time: String,
    #[serde(rename = "type")]
    kind: String,
    actor: String,
}

impl Platform {
    /// Shows what the platform does, and prints what to try next.
    async fn show(&self) -> anyhow::Result<()> {
        output::line(format_args!("WasmWiz {} serves on {}\n", env!("CARGO_PKG_VERSION"), self.url));
        match self.demonstrate().await {
            // It can be read all the same.
            Err(error) if error.is::<NoRoom>() => output::line(format_args!("\nNothing was executed. {error}")),
            demonstrated => demonstrated?,
        }
        output::line(format_args!("\nAPI key   {}   (shown once; earlier ones stay valid)", self.api_key));
        output::line("\nTry it:");
        output::line(format_args!(
            "  curl -sS {}/v1/modules/greeter/executions -H 'Authorization: Bearer {}' -d 'Ada'",
            self.url, self.api_key
        ));
        output::line("\nRun your own module, without publishing it first:");
        output::line(format_args!(
            "  curl -sS {}/v1/executions -H 'Authorization: Bearer {}' -F wasm=@your.wasm -F input='some input'",
            self.url, self.api_key
        ));
        output::line(format_args!("\nDocumentation: {}/docs   Stop with Ctrl-C.", self.url));
        Ok(())
    }

    /// Publishes the examples whose names are free, runs one, and prints what happened.
    async fn demonstrate(&self) -> anyhow::Result<()> {
        let is_ours = self.offer("greeter", GREETER).await?;
        self.offer("echo", ECHO).await?;
        let (execution, position) = match is_ours {
            true => self.execute("greeter", "WasmWiz").await?,
            false => self.upload(GREETER, "WasmWiz").await?,
        };
        let Execution { id, outcome, stdout } = execution;
        let what = if is_ours { "greeter" } else { "the example, uploaded for this once," };
        output::line(format_args!("\nexecuted  {what} with \"WasmWiz\" on standard input; id {id}"));
        output::line(format_args!("outcome   {outcome}"));
        output::line(format_args!("stdout    {}", stdout.trim_end()));
        ensure!(outcome == "succeeded", "the greeter did not succeed: {outcome}");
        output::line("\nThe events it caused, from the tenant's hash-chained history:");
        output::line(self.events(&id, &position).await?.trim_end());
        Ok(())
    }

    /// Publishes an example if its name is free. Says whether the name is the example's: a module of the user's own stays
    /// as it is.
    async fn offer(&self, name: &str, wasm: &'static [u8]) -> anyhow::Result<bool> {
        let there = self.http.get(format!("{}/v1/modules/{name}", self.url)).bearer_auth(&self.api_key).send().await?;
        let ours = Digest::of(wasm).to_string();
        if there.status() != StatusCode::NOT_FOUND {
            let Module { version, digest } = read(there).await?.0;
            let (is_ours, size) = (digest == ours, wasm.len());
            output::line(match is_ours {
                true => format!("module    {name} v{version}  {digest}  ({size} bytes)"),
                false => format!(
                    "module    {name} v{version}  {digest}  is your own, and stays: the example is not published"
                ),
            });
            return Ok(is_ours);
        }
        let request = self.http.put(format!("{}/v1/modules/{name}", self.url)).body(wasm);
        let (module, _): (Module, _) = self.send(request.header("content-type", "application/wasm")).await?;
        let Module { version, digest } = module;
        output::line(format_args!("module    {name} v{version}  {digest}  ({} bytes)", wasm.len()));
        Ok(true)
    }

    /// Runs a module that is not published.
    async fn upload(&self, wasm: &'static [u8], stdin: &'static str) -> anyhow::Result<(Execution, String)> {
        let form = Form::new().part("wasm", Part::bytes(wasm).file_name("example.wasm")).text("input", stdin);
        self.send(self.http.post(format!("{}/v1/executions", self.url)).multipart(form)).await
    }

    async fn execute(&self, module: &str, stdin: &'static str) -> anyhow::Result<(Execution, String)> {
        let request = self.http.post(format!("{}/v1/modules/{module}/executions", self.url));
        self.send(request.body(stdin)).await
    }

    async fn events(&self, execution: &str, position: &str) -> anyhow::Result<String> {
        let request = self.http.get(format!("{}/v1/audit?subject=executions/{execution}", self.url));
        let (history, _): (History, _) = self.send(request.header("wasmwiz-min-position", position)).await?;
        let mut table = String::new();
        for Recorded { revision, time, kind, actor } in history.items.iter().rev() {
            writeln!(table, "  revision {revision:<4} {time}  {kind}  by {actor}")?;
        }
        ensure!(!table.is_empty(), "the audit history shows no event of the execution");
        Ok(table)
    }

    /// Sends a request and gives its JSON answer and its position.
    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(T, String)> {
        read(request.bearer_auth(&self.api_key).send().await?).await
    }
}

/// The node's disk is nearly full: what it said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoRoom(String);

/// Reads a JSON answer and its position.
async fn read<T: DeserializeOwned>(response: reqwest::Response) -> anyhow::Result<(T, String)> {
    let status = response.status();
    let position = response.headers().get("wasmwiz-position");
    let position = position.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = response.bytes().await?;
    if status == StatusCode::INSUFFICIENT_STORAGE {
        return Err(NoRoom(String::from_utf8_lossy(&body).into_owned()).into());
    }
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok((serde_json::from_slice(&body)?, position))
}
