//! An image, started as it is meant to run: nothing to write to but its volume, no right that it does not need, and bounds on
//! what it takes. It has to call itself healthy, to answer the request that the README shows, and to stop in order.

use std::{
    fs,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::{
    process::{command, read, run as run_command},
    workspace,
};

/// How a node is meant to be run. The volume takes the image's own folder, with its owner.
const HARDENED: [&str; 16] = [
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--pids-limit",
    "512",
    "--cpus",
    "1",
    "--memory",
    "2g",
    "--health-interval",
    "2s",
    "--publish",
    "127.0.0.1::8080",
    "--detach",
];

/// What the kernel says of a process that has no rights and cannot get any.
const CONFINED: [(&str, &str); 4] =
    [("Uid:", "65532"), ("Gid:", "65532"), ("CapEff:", "0000000000000000"), ("NoNewPrivs:", "1")];

/// How the README's request begins, and where it is sent.
const REQUEST: &str = "curl -sS http://127.0.0.1:8080/v1/executions ";
const ADDRESS: &str = "127.0.0.1:8080";

/// The module that the README's request uploads. Here it is one that gives back what it reads.
const MODULE: &str = "wordcount.wasm";

/// How often it is asked how it is, and how long is waited between.
const ASKED: u32 = 90;
const BETWEEN: Duration = Duration::from_secs(2);

/// Longer than a node takes to stop (`shutdown.*`, 25 seconds).
const GRACE_SECONDS: &str = "40";

pub(super) fn run(image: &str) -> anyhow::Result<()> {
    eprintln!("image: starting {image}");
    let container = read(command("docker").arg("run").args(HARDENED).arg(image))?;
    let tried = is_well(&container)
        .and_then(|()| is_confined(&container))
        .and_then(|()| serves(&container))
        .and_then(|()| stops(&container));
    if tried.is_err() {
        run_command(command("docker").args(["logs", "--tail", "50", &container]))?;
    }
    run_command(command("docker").args(["rm", "--force", "--volumes", &container]).stdout(Stdio::null()))?;
    tried
}

fn is_well(container: &str) -> anyhow::Result<()> {
    let user = inspect(container, "{{.Config.User}}")?;
    ensure!(user == "65532:65532", "it runs as {user:?}");
    for _ in 0..ASKED {
        match inspect(container, "{{.State.Status}} {{.State.Health.Status}}")?.as_str() {
            "running healthy" => {
                eprintln!("image: it calls itself healthy");
                return Ok(());
            }
            "running starting" | "running unhealthy" => sleep(BETWEEN),
            other => bail!("it is {other}"),
        }
    }
    bail!("it does not become healthy in {} seconds", BETWEEN.as_secs() * u64::from(ASKED))
}

/// What the engine was asked for, the kernel has to confirm.
///
/// # Errors
/// Says what the kernel says instead.
pub(crate) fn is_confined(container: &str) -> anyhow::Result<()> {
    let written = read(command("docker").args(["diff", container]))?;
    let mounts = inspect(container, "{{range .Mounts}}{{println .Destination}}{{end}}")?;
    let written = beside(&written, &mounts);
    ensure!(written.is_empty(), "it writes beside its volumes: {written:?}");
    let file = format!("/proc/{}/status", inspect(container, "{{.State.Pid}}")?);
    let Ok(status) = fs::read_to_string(&file) else {
        eprintln!("image: its process is on another machine, and what it may do there was not looked at");
        return Ok(());
    };
    for (name, value) in CONFINED {
        let found = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let is_so = found.split_whitespace().next().is_some_and(|first| first == value);
        ensure!(is_so, "the kernel says {name} {}, and not {value}", found.trim());
    }
    eprintln!(
        "image: it runs as 65532:65532, without a capability and a way to one, and has written nothing beside its volume"
    );
    Ok(())
}

/// What of the engine's list of changes is no place where something is mounted, and on no way to one: the engine makes those.
fn beside<'d>(changes: &'d str, mounts: &str) -> Vec<&'d str> {
    let is_on_the_way = |path: &str| {
        mounts
            .lines()
            .any(|mount| mount.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    let changes = changes.lines().filter_map(|line| Some((line, line.split_once(' ')?.1)));
    changes.filter(|(_, path)| !is_on_the_way(path)).map(|(line, _)| line).collect()
}

/// Registers a tenant with the operator's key, which the first start prints, and runs a module as the README shows.
fn serves(container: &str) -> anyhow::Result<()> {
    let published = read(command("docker").args(["port", container, "8080/tcp"]))?;
    let address = published.lines().next().context("the engine publishes no port")?;
    let printed = read(command("docker").args(["logs", container]))?;
    let operator = printed.split_whitespace().find(|word| word.starts_with("ww_")).context("no operator's key")?;
    let tenants = format!("http://{address}/v1/tenants");
    let (bearer, json) = (format!("Authorization: Bearer {operator}"), "Content-Type: application/json");
    let mut register = command("curl");
    register.args(["-sS", "--fail-with-body", &tenants, "-H", &bearer, "-H", json]);
    let registered = read(register.args(["-d", r#"{"name": "Trial", "tier": "free"}"#]))?;
    let registered: Value = serde_json::from_str(&registered).context("the registered tenant is no JSON")?;
    let key = registered.pointer("/initial_key/secret").and_then(Value::as_str).context("the tenant has no key")?;

    let readme = fs::read_to_string(workspace::root().join("README.md")).context("cannot read README.md")?;
    let request = request_of(&readme).context("the README shows no request that uploads a module")?;
    let folder = workspace::root().join("target/image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let echo =
        wat::parse_file(workspace::root().join("examples/echo.wat")).context("examples/echo.wat is no module")?;
    fs::write(folder.join(MODULE), echo).context("cannot write the module")?;
    fs::write(folder.join("README.md"), &readme).context("cannot write the input")?;
    let mut asking = command("sh");
    asking.current_dir(&folder).env("KEY", key).args(["-c", &request.replace(ADDRESS, address)]);
    let answer = read(&mut asking)?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))?;
    let (outcome, stdout) = (answer.get("outcome"), answer.get("stdout").and_then(Value::as_str));
    ensure!(outcome.is_some_and(|outcome| outcome == "succeeded"), "`{request}` is answered with {answer}");
    ensure!(stdout == Some(&readme), "the echo of the README is not the README: {stdout:?}");
    eprintln!("image: it answers `{request}`: succeeded, {} bytes", readme.len());
    Ok(())
}

/// The request of the README that uploads a module and runs it.
fn request_of(readme: &str) -> Option<&str> {
    readme.lines().find(|line| line.starts_with(REQUEST) && line.contains(MODULE))
}

fn stops(container: &str) -> anyhow::Result<()> {
    let told = now();
    run_command(command("docker").args(["stop", "--time", GRACE_SECONDS, container]).stdout(Stdio::null()))?;
    let took = told.elapsed();
    let code = inspect(container, "{{.State.ExitCode}}")?;
    ensure!(code == "0", "it was told to stop, and ended with {code}");
    eprintln!("image: it stops in order, in {:.1} of {GRACE_SECONDS} seconds", took.as_secs_f64());
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a chore tells people how long it took; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}

fn inspect(container: &str, what: &str) -> anyhow::Result<String> {
    read(command("docker").args(["inspect", "--format", what, container])).context("docker does not know the container")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_where_something_is_mounted_are_no_changes_and_all_else_is_one() {
        let changes = "A /data\nC /etc\nA /etc/nats\nA /etc/nats/tls\nA /tmp/x\nA /dat\nA /data/x";
        assert_eq!(beside(changes, "/data\n/etc/nats/tls\n"), ["A /tmp/x", "A /dat", "A /data/x"]);
        assert_eq!(beside("", ""), [""; 0]);
    }

    #[test]
    fn the_request_of_the_readme_is_one_that_a_trial_can_send() {
        let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
        let request = request_of(&readme).unwrap();
        assert!(request.contains("$KEY") && request.contains("@README.md") && request.contains(ADDRESS), "{request}");
    }
}
