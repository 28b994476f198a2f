//! The story, step by step.

use std::{collections::BTreeMap, fs, io::Write as _, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Arguments, callers::Callers};
use crate::{
    deploy::{
        Deployment,
        record::{Kind, Record},
    },
    k8s::{
        http::{Request, get},
        pods::{Images, controller::Stage},
        policy::{ENVIRONMENTS, Environment},
        render::TARGETS,
        trial::{self, NODES, Tenant, UP_WITHIN, until_known},
    },
    process::{command, describe, read},
    smoke, workspace,
};

/// How long one pod may take until it is replaced and available. More than a deployment waits, for a machine that has other things
/// to do.
const POD_WITHIN: Duration = Duration::from_secs(300);

/// How long the pod of a broken build is waited for.
const BROKEN_WITHIN: Duration = Duration::from_secs(45);

/// How many tenants callers are, and how many answers each caller waits for between two steps.
const TENANTS: u32 = 3;
const ANSWERS: u64 = 40;

/// What a build is called that does not start: a setting that there is not is refused.
const BROKEN: &str = "wasmwiz:broken";
const BREAK: &str = "ENV WASMWIZ_NODE__NO_SUCH_SETTING=1";

/// A page of executions.
const PAGE: &str = "/v1/executions?limit=200";

pub(super) fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let new = arguments.images.images()?;
    let previous = arguments.previous.clone().unwrap_or_else(|| format!("{}-before", tagged(&new.nodes)));
    if arguments.previous.is_none() {
        eprintln!("rehearsal: no previous version is given; {} takes its place under the name {previous}", new.nodes);
        read(command("docker").args(["tag", &new.nodes, &previous]))?;
    }
    let broken = broken(&new.nodes)?;
    let with = |nodes: &str| Images { nodes: nodes.to_owned(), servers: new.servers.clone() };
    let output = workspace::root().join(&arguments.output);
    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    let [staging, production] = &ENVIRONMENTS;

    let mut stage = begun(staging, &new)?;
    Change { environment: staging, kind: Kind::Deployment, image: &new.nodes, reason: "", file: "1-staging" }
        .write(&output, |record| comes_up(&mut stage, &new, record))?;
    trial::down(&mut stage)?;
    drop(stage);

    let (old, broken) = (with(&previous), with(&broken));
    let mut stage = begun(production, &old)?;
    Change { environment: production, kind: Kind::Deployment, image: &previous, reason: "", file: "2-production" }
        .write(&output, |record| comes_up(&mut stage, &old, record))?;
    let service = stage.service(NODES)?;
    let operator = trial::operator(&stage)?;
    let tenants = tenants(service.address(), &operator)?;
    let callers = Callers::begin(service.address(), &tenants, arguments.callers);
    callers.each_answered(ANSWERS)?;

    let rolls = |stage: &mut Stage, images: &Images, record: &mut Record| {
        record.step("the nodes, under load", || stage.roll(NODES, images, POD_WITHIN)).map(|_| ())?;
        record.step("answers to every caller", || callers.each_answered(ANSWERS))?;
        record.step("smoke", || smoke::try_platform(&url(service.address()), &operator, None))
    };
    Change { environment: production, kind: Kind::Deployment, image: &new.nodes, reason: "", file: "3-update" }
        .write(&output, |record| rolls(&mut stage, &new, record))?;

    let refused =
        Change { environment: production, kind: Kind::Deployment, image: &broken.nodes, reason: "", file: "4-broken" }
            .write(&output, |record| {
                record.step("the nodes, under load", || stage.roll(NODES, &broken, BROKEN_WITHIN)).map(|_| ())
            });
    let refused = refused.err().context("a build that does not start was taken for one that does")?;
    eprintln!("rehearsal: as it has to: {refused:#}");
    callers.each_answered(ANSWERS)?;
    let reason = "the build before does not start";
    Change { environment: production, kind: Kind::Rollback, image: &new.nodes, reason, file: "5-back" }
        .write(&output, |record| rolls(&mut stage, &new, record))?;

    let reason = "the rehearsal goes back to the version before";
    Change { environment: production, kind: Kind::Rollback, image: &previous, reason, file: "6-rollback" }.write(
        &output,
        |record| {
            record.step("compatibility, by the older program", || can_read(&stage, &old))?;
            rolls(&mut stage, &old, record)
        },
    )?;

    let told = callers.end()?;
    eprintln!("rehearsal: {}", told.line());
    is_recorded(service.address(), &tenants, &told.outcomes)?;
    is_intact(&stage, &old)?;
    drop(service);
    trial::down(&mut stage)?;
    told.is_well()?;
    eprintln!("rehearsal: every answer is in the log, no execution was lost; records are in {}", output.display());
    Ok(())
}

fn begun(environment: &Environment, images: &Images) -> anyhow::Result<Stage> {
    let target = TARGETS.iter().find(|target| target.folder.ends_with(environment.name));
    let target = target.with_context(|| format!("nothing is rendered for {}", environment.name))?;
    trial::begun(&workspace::root().join(target.file), images)
}

fn comes_up(stage: &mut Stage, images: &Images, record: &mut Record) -> anyhow::Result<()> {
    for set in [trial::SERVERS, NODES] {
        record.step(&format!("pods of {set}"), || {
            stage.start(set, images)?;
            stage.await_available(set, UP_WITHIN).map(|_| ())
        })?;
    }
    let (service, operator) = (stage.service(NODES)?, trial::operator(stage)?);
    record.step("smoke", || smoke::try_platform(&url(service.address()), &operator, None))
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// One change of an environment, and its record.
struct Change<'c> {
    environment: &'c Environment,
    kind: Kind,
    image: &'c str,
    reason: &'c str,
    file: &'c str,
}

impl Change<'_> {
    fn write(&self, output: &Path, act: impl FnOnce(&mut Record) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { environment, kind, image, reason, file } = self;
        eprintln!("rehearsal: {} of {image} to {}", kind.noun(), environment.name);
        let label = "{{ index .Config.Labels \"org.opencontainers.image.revision\" }}";
        let inspect = |format: &str| read(command("docker").args(["image", "inspect", "--format", format, image]));
        let deployment = Deployment {
            kind: *kind,
            // No registry has it: the engine's own id of it stands for its digest.
            repository: "localhost/wasmwiz".parse()?,
            digest: inspect("{{.Id}}")?.parse()?,
            revision: inspect(label)?,
            reason: (*reason).to_owned(),
            manifests_of_revision: false,
            version: None,
            servers: false,
        };
        let record_file = output.join(format!("{file}.json"));
        let mut record = Record::begun(environment, &deployment, "rehearsal", image, Some(record_file))?;
        record.changes()?;
        let outcome = act(&mut record);
        record.end(&outcome)?;
        let summary = output.join(format!("{file}.md"));
        fs::write(&summary, record.to_markdown()).with_context(|| format!("cannot write {}", summary.display()))?;
        outcome
    }
}

/// The name of an image with its tag.
fn tagged(image: &str) -> String {
    if image.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// Builds the same program so that it does not start.
fn broken(of: &str) -> anyhow::Result<String> {
    let mut build = command("docker");
    build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", BROKEN, "-"]);
    let mut building = build.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("cannot start docker")?;
    let mut dockerfile = building.stdin.take().context("docker reads nothing")?;
    dockerfile.write_all(format!("FROM {of}\n{BREAK}\n").as_bytes()).context("docker reads no Dockerfile")?;
    drop(dockerfile);
    let built = building.wait().context("docker does not end")?;
    ensure!(built.success(), "`{}` ended with {built}", describe(&build));
    Ok(BROKEN.to_owned())
}

/// Registers tenants that have the echo.
fn tenants(service: SocketAddr, operator: &str) -> anyhow::Result<Vec<Tenant>> {
    let echo =
        wat::parse_file(workspace::root().join("examples/echo.wat")).context("examples/echo.wat is no module")?;
    let publish = |number: u32| {
        let tenant = trial::register(service, operator, &format!("Caller {number}"))?;
        let headers = [("Content-Type", "application/wasm")];
        let request =
            Request { method: "PUT", path: "/v1/modules/echo", key: &tenant.key, headers: &headers, body: &echo };
        until_known(|| request.json(service, 201))?;
        // Each node has its own view of keys: every one has to know this one before answers are counted.
        for _ in 0..10 {
            until_known(|| get(PAGE, &tenant.key).json(service, 200))?;
        }
        Ok(tenant)
    };
    (0..TENANTS).map(publish).collect()
}

/// Asks the program of an image whether it can read the log that another has written.
fn can_read(stage: &Stage, images: &Images) -> anyhow::Result<()> {
    let said = stage.once(NODES, images, &["compat", "check", "--config", SETTINGS, "--output", "json"])?;
    ensure!(said.code == Some(0), "{} cannot read the log: {} {}", images.nodes, said.stdout, said.stderr);
    eprintln!(
        "rehearsal: {} says of the log: {}",
        images.nodes,
        said.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    Ok(())
}

const SETTINGS: &str = "/etc/wasmwiz/settings/wasmwiz.toml";

/// Every answer is in the record with its outcome, and nothing else is.
fn is_recorded(service: SocketAddr, tenants: &[Tenant], told: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut recorded = BTreeMap::new();
    for tenant in tenants {
        let mut path = PAGE.to_owned();
        loop {
            let page = get(&path, &tenant.key).json(service, 200)?;
            for item in page.pointer("/items").and_then(Value::as_array).into_iter().flatten() {
                let text = |field: &str| item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
                recorded.insert(text("id"), text("outcome"));
            }
            let Some(next) = page.get("next_cursor").and_then(Value::as_str) else { break };
            path = format!("{PAGE}&cursor={next}");
        }
    }
    let missing = told.iter().filter(|(id, outcome)| recorded.get(*id) != Some(*outcome)).collect::<Vec<_>>();
    ensure!(missing.is_empty(), "{} answers are not recorded as they were given: {missing:?}", missing.len());
    let lost = recorded.values().filter(|outcome| *outcome == "lost").count();
    ensure!(lost == 0, "{lost} executions are lost");
    let more = recorded.keys().filter(|id| !told.contains_key(*id)).collect::<Vec<_>>();
    ensure!(more.is_empty(), "{} executions are recorded that nobody was told of: {more:?}", more.len());
    eprintln!("rehearsal: {} executions are recorded as they were answered, each once", recorded.len());
    Ok(())
}

/// The history is verified, by the program that runs.
fn is_intact(stage: &Stage, images: &Images) -> anyhow::Result<()> {
    let said = stage.once(NODES, images, &["audit", "verify", "--config", SETTINGS])?;
    ensure!(said.code == Some(0), "the history is not intact: {} {}", said.stdout, said.stderr);
    eprintln!("rehearsal: {}", said.stdout.lines().last().unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_tag() {
        assert_eq!((tagged("a").as_str(), tagged("a:b").as_str()), ("a:latest", "a:b"));
    }
}
