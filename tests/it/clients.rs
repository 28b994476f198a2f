//! The quick start with the programs that people use, against a live node. One that a machine lacks is skipped with a word.

use std::{ffi::OsStr, fs, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
};
use wasmwiz_tests::{
    guests,
    harness::{Launch, NodeProcess},
    python,
};

/// How long one program may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// What each of them says at its end.
const RAN: &str = "the quick start ran";

/// What Chromium is called where Debian installs it.
const BROWSERS: [&str; 2] = ["chromium", "chromium-browser"];

#[tokio::test]
async fn curl_runs_the_quick_start() -> anyhow::Result<()> {
    quick_start(program("curl").map(|_| Command::new("bash")), "curl.sh").await
}

#[tokio::test]
async fn python_httpx_runs_the_quick_start() -> anyhow::Result<()> {
    quick_start(Some(python::command()?), "with_httpx.py").await
}

#[tokio::test]
async fn fetch_of_node_runs_the_quick_start() -> anyhow::Result<()> {
    quick_start(program("node").map(Command::new), "fetch.mjs").await
}

async fn quick_start(interpreter: Option<Command>, script: &str) -> anyhow::Result<()> {
    let Some(mut command) = interpreter else {
        eprintln!("clients: {script} is skipped, this machine lacks its program");
        return Ok(());
    };
    let (node, folder) = (NodeProcess::dev().await?, tempfile::tempdir()?);
    let module = folder.path().join("module.wasm");
    fs::write(&module, guests::GREETER.wasm()?)?;
    command.arg(scripts().join(script)).current_dir(folder.path()).kill_on_drop(true);
    command.env("URL", &node.ready().url).env("KEY", key(&node)?).env("MODULE", &module).env("NO_PROXY", "*");
    let ended = python::run(&mut command, DEADLINE).await?;
    ensure!(ended.code == Some(0), "{script} ended with {:?}:\n{}\n{}", ended.code, ended.stdout, ended.stderr);
    ensure!(ended.stdout.contains(RAN), "{script} says only: {}", ended.stdout);
    Ok(())
}

#[tokio::test]
async fn a_form_of_a_browser_uploads_a_module() -> anyhow::Result<()> {
    let Some(browser) = BROWSERS.into_iter().find_map(program) else {
        println!("clients: the form of a browser is skipped, this machine lacks Chromium");
        return Ok(());
    };
    let page = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", page.local_addr()?);
    let origins = format!("[\"{origin}\"]");
    let node = Launch::dev()?.variable("WASMWIZ_GATEWAY__CORS__ALLOWED_ORIGINS", origins).start().await?;
    let module = STANDARD.encode(guests::GREETER.wasm()?);
    let settings = json!({"url": node.ready().url, "key": key(&node)?, "module": module}).to_string();
    let html = fs::read_to_string(scripts().join("form.html"))?;
    let serving = tokio::spawn(serve(page, html, settings));
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--virtual-time-budget=20000"]);
    command
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .args(["--dump-dom", &origin])
        .kill_on_drop(true);
    let ended = python::run(&mut command, DEADLINE).await?;
    serving.abort();
    ensure!(ended.stdout.contains("200 Hello, form!"), "the page says:\n{}\n{}", ended.stdout, ended.stderr);
    Ok(())
}

/// Serves a page and its settings, one request a connection.
async fn serve(listener: TcpListener, html: String, settings: String) -> anyhow::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut head = vec![0; 16 << 10];
        let count = stream.read(&mut head).await?;
        let asked = String::from_utf8_lossy(head.get(..count).unwrap_or_default()).into_owned();
        let (media_type, body) = if asked.starts_with("GET /settings.json ") {
            ("application/json", &settings)
        } else {
            ("text/html", &html)
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn scripts() -> PathBuf {
    python::root().join("tests/clients")
}

fn key(node: &NodeProcess) -> anyhow::Result<&str> {
    node.ready().api_key.as_deref().context("dev gives a key")
}

/// Where the program of this name is, if it is anywhere.
fn program(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name.as_ref())).find(|program| program.is_file())
}
