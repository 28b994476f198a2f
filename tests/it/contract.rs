//! The HTTP contract, held against the document that describes it: by requests that are made of it, by its own schema, and
//! by a client that is made of it. No route is named here, so that new ones are held against it, too.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use wasmwiz_events::key::{Scope, Scopes};
use wasmwiz_tests::{
    chance::{Chance, setting},
    guests,
    harness::NodeProcess,
    python,
    tenants::{Tenant, register},
};

/// How many requests are made of each operation, as tests/contract/schemathesis.toml says, unless the variable says otherwise.
const EXAMPLES: (&str, u64) = ("WASMWIZ_TESTS_CONTRACT_EXAMPLES", 150);

/// How long so many requests may take all together, in seconds. Generous: they take about a quarter of it on two cores.
const DEADLINE_SECONDS: u64 = 420;

/// How long any other program may take.
const SHORT: Duration = Duration::from_secs(60);

/// How many requests there are at least.
const CASES_MIN: u64 = 5_000;

/// Of all answers at most this share, in percent, may be a limit: the rest has been looked at.
const LIMITED_MAX_PERCENT: u64 = 5;

/// What can only be done while an execution waits or runs, which no document can name: here a 409 shows that one was found.
const IN_TIME: [&str; 1] = ["cancelExecution"];

/// What can only be done where a log is damaged, which none is here: a 404 shows that it was asked for by the rules.
const WHERE_DAMAGED: [&str; 1] = ["skipCommit"];

/// How many answers of each status every operation gave.
type Statuses = BTreeMap<String, BTreeMap<String, u64>>;

#[tokio::test]
async fn whatever_is_asked_the_answer_is_one_that_the_document_describes() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let tenant = register(&node.operator()?, "Contract", "enterprise").await?;
    let folder = tempfile::tempdir()?;
    let statuses = exercise(&node, &tenant, folder.path()).await?;

    let count = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        statuses.values().flatten().filter(|(status, _)| wanted(status)).map(|(_, count)| count).sum()
    };
    let (cases, good, limited) = (count(&|_| true), count(&|status| status.starts_with('2')), count(&|s| s == "429"));
    println!(
        "contract: {cases} requests to {} operations, {good} answered with 2xx, {limited} with 429",
        statuses.len()
    );
    ensure!(cases >= CASES_MIN, "{cases} requests are too few: raise max-examples in tests/contract/schemathesis.toml");
    ensure!(limited * 100 <= cases * LIMITED_MAX_PERCENT, "{limited} of {cases} answers are limits and show nothing");
    let unreached: Vec<_> = statuses
        .iter()
        .filter(|(operation, statuses)| {
            let late = IN_TIME.contains(&operation.as_str());
            let damaged = WHERE_DAMAGED.contains(&operation.as_str());
            let reached =
                |status: &str| status.starts_with('2') || late && status == "409" || damaged && status == "404";
            !statuses.keys().any(|status| reached(status))
        })
        .map(|(operation, statuses)| format!("{operation} {statuses:?}"))
        .collect();
    ensure!(unreached.is_empty(), "never answered with 2xx, so never reached: {}", unreached.join("; "));
    Ok(())
}

/// Lets schemathesis send its requests, and gives how they were answered.
async fn exercise(node: &NodeProcess, tenant: &Tenant, folder: &Path) -> anyhow::Result<Statuses> {
    let modules = folder.join("modules");
    fs::create_dir(&modules)?;
    for guest in [guests::ECHO, guests::GREETER, guests::EXIT7, guests::TRAP] {
        fs::write(modules.join(guest.name), guest.wasm()?)?;
    }
    let published = tenant.client.put_module("echo", guests::ECHO.wasm()?).await?;
    published.is(201)?;
    let position = published.header("wasmwiz-position").context("a write without a position")?;
    // The key of most requests cannot revoke itself; the one that manages keys is protected by the hooks.
    let scopes = Scopes::TENANT.iter().filter(|scope| *scope != Scope::KeysManage);
    let scopes: Vec<_> = scopes.map(Scope::as_str).collect();
    let issued = tenant.client.post_json("/v1/keys", &json!({"name": "worker", "scopes": scopes})).await?.is(201)?;
    let (worker, worker_id) = (issued["secret"].as_str().context("a secret")?, issued["id"].as_str().context("an id")?);
    let ready = node.ready();
    let operator = ready.operator_token.as_deref().context("the node gave no operator token")?;
    let operator_id = operator.split('_').nth(1).context("not a key")?;
    let report = folder.join("report.json");
    let sources = python::root().join("tests/contract");
    let mut command = python::command()?;
    let python_path = extended(&command, &sources);
    command
        .args(["-m", "schemathesis.cli", "--no-color", "--config-file"])
        .arg(sources.join("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", ready.url)])
        .current_dir(folder)
        .env("PYTHONPATH", python_path)
        .env("WASMWIZ_CONTRACT_KEY", worker)
        .env("WASMWIZ_CONTRACT_MANAGER", &tenant.key.secret)
        .env("WASMWIZ_CONTRACT_OPERATOR", operator)
        .env(
            "WASMWIZ_CONTRACT_PROTECTED",
            json!([tenant.id, tenant.key.id, worker_id, operator_id, "system"]).to_string(),
        )
        .env("WASMWIZ_CONTRACT_POSITION", position)
        .env("WASMWIZ_CONTRACT_MODULES", &modules)
        .env("WASMWIZ_CONTRACT_REPORT", &report)
        .env("NO_PROXY", "*");
    let examples = setting(EXAMPLES.0, EXAMPLES.1)?;
    if examples != EXAMPLES.1 {
        // Then it is a search for what nobody has thought of, and not the same at every run.
        let seed = u32::try_from(Chance::printed()?.next() >> 32)?;
        command.args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string()]);
    }
    let deadline = Duration::from_secs(DEADLINE_SECONDS.max(DEADLINE_SECONDS * examples / EXAMPLES.1));
    let ended = python::run(&mut command, deadline).await?;
    ensure!(ended.code == Some(0), "the API is not as its document says:\n{}\n{}", ended.stdout, ended.stderr);
    let report = fs::read(&report).context("schemathesis left no count of its requests")?;
    serde_json::from_slice(&report).context("the count of the requests is not of its shape")
}

/// Where python looks for modules: also in `folder`.
fn extended(command: &tokio::process::Command, folder: &Path) -> std::ffi::OsString {
    let given = command.as_std().get_envs().find(|(name, _)| *name == "PYTHONPATH").and_then(|(_, value)| value);
    let mut path = folder.as_os_str().to_owned();
    if let Some(given) = given {
        path.push(":");
        path.push(given);
    }
    path
}

#[tokio::test]
async fn the_document_is_one_and_its_examples_are_what_its_schemas_say() -> anyhow::Result<()> {
    let document = wasmwiz_gateway::openapi_document();
    let mut command = python::command()?;
    command.arg(python::root().join("tests/contract/document.py"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run python: run `cargo xtask setup`")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let written = async move { stdin.write_all(document.as_bytes()).await };
    let (written, output) = tokio::join!(written, tokio::time::timeout(SHORT, child.wait_with_output()));
    let output = output.context("the check of the document did not end")??;
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{told}");
    written.context("the document was not read to its end")?;
    println!("document: {told}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_made_of_the_document_runs_the_quick_start() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let (folder, examples) = (tempfile::tempdir()?, python::root().join("examples"));
    let (document, module) = (folder.path().join("openapi.json"), folder.path().join("hello.wasm"));
    fs::write(&document, wasmwiz_gateway::openapi_document())?;
    fs::write(&module, guests::GREETER.wasm()?)?;
    let settings = examples.join("openapi-python-client.json");
    // Without being told of the media type of modules a generator leaves out how they are read, and nothing else.
    let plain = folder.path().join("plain.json");
    let mut told: serde_json::Value = serde_json::from_slice(&fs::read(&settings)?)?;
    told.as_object_mut().context("the settings are an object")?.remove("content_type_overrides");
    fs::write(&plain, told.to_string())?;
    for (settings, version) in [(&plain, None), (&settings, Some("--fail-on-warning"))] {
        let mut generate = python::command()?;
        generate.args(["-m", "openapi_python_client", "generate", "--meta", "none", "--overwrite"]).args(version);
        generate.arg("--path").arg(&document).arg("--config").arg(settings);
        generate.args(["--output-path", "wasmwiz_client"]).current_dir(folder.path());
        let made = python::run(&mut generate, SHORT).await?;
        ensure!(made.code == Some(0), "no client can be made of the document:\n{}\n{}", made.stdout, made.stderr);
        // Each begins with nothing.
        let tenant = register(&node.operator()?, "Quick", "enterprise").await?;
        run_quick_start(&node, &tenant, folder.path(), &module).await?;
    }
    Ok(())
}

/// Runs the quick start with the client that is in the folder.
async fn run_quick_start(node: &NodeProcess, tenant: &Tenant, folder: &Path, module: &Path) -> anyhow::Result<()> {
    let mut quickstart = python::command()?;
    quickstart.arg(python::root().join("examples/quickstart.py")).arg(&node.ready().url).arg(module);
    quickstart.current_dir(folder);
    quickstart.env("WASMWIZ_KEY", &tenant.key.secret).env("NO_PROXY", "*");
    let ran = python::run(&mut quickstart, SHORT).await?;
    ensure!(ran.code == Some(0), "the quick-start fails:\n{}\n{}", ran.stdout, ran.stderr);
    for part in ["published hello version 1", "succeeded, 'Hello, WasmWiz!\\n'", "listed 1 executions", "of hello"] {
        ensure!(ran.stdout.contains(part), "the quick-start does not say `{part}`:\n{}", ran.stdout);
    }
    Ok(())
}
