//! The story, step by step.

use std::{collections::BTreeMap, fs, io::Write as _, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Arguments, callers::Callers};
use crate::{
    deploy::{
        Deployment,
        record::{Kind, Previous, Record},
    },
    k8s::{
        http::{Request, get},
        pods::{Images, controller::Stage},
        policy::{ENVIRONMENTS, Environment},
        render::TARGETS,
        trial::{self, NODES, Tenant, UP_WITHIN, until_known},
    },
    process::{command, describe, read, works},
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

/// A build that must not stay.
struct Broken {
    /// What it is called.
    name: &'static str,
    /// What its image has more than the good one's.
    line: &'static str,
    /// How long its pods are waited for.
    within: Duration,
    /// What is said of it.
    said: &'static str,
    /// Why it is taken back.
    reason: &'static str,
    /// The records of both.
    files: [&'static str; 2],
}

/// One does not start: a setting that there is not is refused. One starts and is ready, and does not do what it is there for: it takes
/// no module of the tier that the smoke test has.
const BROKEN: [Broken; 2] = [
    Broken {
        name: "wasmwiz:does-not-start",
        line: "ENV WASMWIZ_NODE__NO_SUCH_SETTING=1",
        within: BROKEN_WITHIN,
        said: "is not available after",
        reason: "the build before does not start",
        files: ["4-does-not-start", "5-back"],
    },
    Broken {
        name: "wasmwiz:does-not-serve",
        line: "ENV WASMWIZ_TIERS__FREE__MODULE_BYTES=1",
        within: POD_WITHIN,
        said: "is answered with 413, and not with 201",
        reason: "the build before fails the smoke test",
        files: ["6-does-not-serve", "7-back"],
    },
];

/// A page of executions.
const PAGE: &str = "/v1/executions?limit=200";

pub(super) fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let new = arguments.images.images()?;
    let previous = arguments.previous.clone().unwrap_or_else(|| format!("{}-before", tagged(&new.nodes)));
    if arguments.previous.is_none() {
        eprintln!("rehearsal: no previous version is given; {} takes its place under the name {previous}", new.nodes);
        read(command("docker").args(["tag", &new.nodes, &previous]))?;
    }
    let output = workspace::root().join(&arguments.output);
    fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
    let [staging, production] = &ENVIRONMENTS;

    let mut world = World::begun(staging, &new, &output)?;
    world.deployed("1-staging", &new)?;
    trial::down(&mut world.stage)?;
    drop(world);

    let old = Images { nodes: previous, servers: new.servers.clone() };
    let mut world = World::begun(production, &old, &output)?;
    world.deployed("2-production", &old)?;
    let service = world.stage.service(NODES)?;
    let tenants = tenants(service.address(), &world.operator)?;
    let callers = Callers::begin(service.address(), &tenants, arguments.callers);
    let went = world.under_load(&old, &new, service.address(), &callers);
    let told = callers.end()?;
    eprintln!("rehearsal: {}", told.line());
    told.said.iter().for_each(|said| eprintln!("rehearsal:   failed: {said}"));
    went?;
    is_recorded(service.address(), &tenants, &told.outcomes)?;
    world.is_intact(&old)?;
    drop(service);
    trial::down(&mut world.stage)?;
    told.is_well()?;
    eprintln!("rehearsal: every answer is in the log, no execution was lost; records are in {}", output.display());
    Ok(())
}

/// An environment, and what runs in it.
struct World<'w> {
    environment: &'static Environment,
    stage: Stage,
    operator: String,
    output: &'w Path,
    running: Option<Previous>,
}

/// One change of it.
struct Change<'c> {
    kind: Kind,
    images: &'c Images,
    reason: &'c str,
    file: &'c str,
}

impl<'c> Change<'c> {
    const fn forward(images: &'c Images, file: &'c str) -> Self {
        Self { kind: Kind::Deployment, images, reason: "", file }
    }

    const fn back(images: &'c Images, reason: &'c str, file: &'c str) -> Self {
        Self { kind: Kind::Rollback, images, reason, file }
    }
}

impl<'w> World<'w> {
    fn begun(environment: &'static Environment, images: &Images, output: &'w Path) -> anyhow::Result<Self> {
        let target = TARGETS.iter().find(|target| target.folder.ends_with(environment.name));
        let target = target.with_context(|| format!("nothing is rendered for {}", environment.name))?;
        let stage = trial::begun(&workspace::root().join(target.file), images)?;
        let operator = trial::operator(&stage)?;
        Ok(Self { environment, stage, operator, output, running: None })
    }

    /// The first time: the log's servers, the nodes, and the smoke test.
    fn deployed(&mut self, file: &str, images: &Images) -> anyhow::Result<()> {
        self.change(&Change::forward(images, file), |world, record| {
            for set in [trial::SERVERS, NODES] {
                record.step(&format!("pods of {set}"), || {
                    world.stage.start(set, images)?;
                    world.stage.await_available(set, UP_WITHIN).map(|_| ())
                })?;
            }
            let service = world.stage.service(NODES)?;
            record.step("smoke", || smoke::try_platform(&url(service.address()), &world.operator, None))
        })
    }

    /// Everything that is done while callers go on.
    fn under_load(&mut self, old: &Images, new: &Images, at: SocketAddr, callers: &Callers) -> anyhow::Result<()> {
        callers.each_answered(ANSWERS)?;
        self.change(&Change::forward(new, "3-update"), |world, record| {
            world.replaced(new, POD_WITHIN, at, callers, record)
        })?;
        for Broken { name, line, within, said, reason, files: [there, back] } in BROKEN {
            build(&new.nodes, name, line)?;
            let images = Images { nodes: name.to_owned(), servers: new.servers.clone() };
            let refused = self.change(&Change::forward(&images, there), |world, record| {
                world.replaced(&images, within, at, callers, record)
            });
            let refused = refused.err().with_context(|| format!("{name} was taken for one that does"))?;
            ensure!(
                format!("{refused:#}").contains(said),
                "{name} fails for another reason than it has to: {refused:#}"
            );
            eprintln!("rehearsal: as it has to: {refused:#}");
            callers.each_answered(ANSWERS)?;
            self.change(&Change::back(new, reason, back), |world, record| {
                world.replaced(new, POD_WITHIN, at, callers, record)
            })?;
            // Nothing runs it any more; an engine that keeps it all the same is no fault.
            let _ = works(command("docker").args(["image", "rm", name]));
        }
        let reason = "the rehearsal goes back to the version before";
        self.change(&Change::back(old, reason, "8-rollback"), |world, record| {
            record.step("compatibility, by the older program", || world.can_read(old))?;
            world.replaced(old, POD_WITHIN, at, callers, record)
        })
    }

    /// All nodes by others, and whether they do what they are there for.
    fn replaced(
        &mut self,
        images: &Images,
        pod_within: Duration,
        at: SocketAddr,
        callers: &Callers,
        record: &mut Record,
    ) -> anyhow::Result<()> {
        for stopped in record.step("the nodes, under load", || self.stage.roll(NODES, images, pod_within))? {
            // One that never started has nothing to hand over.
            if stopped.was_available {
                stopped.in_order()?;
            }
        }
        record.step("answers to every caller", || callers.each_answered(ANSWERS))?;
        record.step("smoke", || smoke::try_platform(&url(at), &self.operator, None))
    }

    /// Does it, and writes down what came of it.
    fn change(
        &mut self,
        change: &Change<'_>,
        act: impl FnOnce(&mut Self, &mut Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Change { kind, images, reason, file } = change;
        let image = &images.nodes;
        eprintln!("rehearsal: {} of {image} to {}", kind.noun(), self.environment.name);
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
        let record_file = self.output.join(format!("{file}.json"));
        let mut record = Record::begun(self.environment, &deployment, "rehearsal", image, Some(record_file))?;
        record.previous =
            self.running.replace(Previous { image: record.image().to_owned(), revision: Some(deployment.revision) });
        record.changes()?;
        let outcome = act(self, &mut record);
        record.end(&outcome)?;
        let summary = self.output.join(format!("{file}.md"));
        fs::write(&summary, record.to_markdown()).with_context(|| format!("cannot write {}", summary.display()))?;
        outcome
    }

    /// Asks the program of an image whether it can read the log that another has written.
    fn can_read(&self, images: &Images) -> anyhow::Result<()> {
        let said = self.stage.once(NODES, images, &["compat", "check", "--config", SETTINGS])?;
        ensure!(said.code == Some(0), "{} cannot read the log: {} {}", images.nodes, said.stdout, said.stderr);
        eprintln!("rehearsal: {}", said.stdout.lines().last().unwrap_or_default());
        Ok(())
    }

    /// The history is verified, by the program that runs.
    fn is_intact(&self, images: &Images) -> anyhow::Result<()> {
        let said = self.stage.once(NODES, images, &["audit", "verify", "--config", SETTINGS])?;
        ensure!(said.code == Some(0), "the history is not intact: {} {}", said.stdout, said.stderr);
        eprintln!("rehearsal: {}", said.stdout.lines().last().unwrap_or_default());
        Ok(())
    }
}

const SETTINGS: &str = "/etc/wasmwiz/settings/wasmwiz.toml";

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The name of an image with its tag.
fn tagged(image: &str) -> String {
    if image.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// Builds the same program so that it must not stay.
fn build(of: &str, name: &str, line: &str) -> anyhow::Result<()> {
    let mut build = command("docker");
    build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", name, "-"]);
    let mut building = build.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("cannot start docker")?;
    let mut dockerfile = building.stdin.take().context("docker reads nothing")?;
    dockerfile.write_all(format!("FROM {of}\n{line}\n").as_bytes()).context("docker reads no Dockerfile")?;
    drop(dockerfile);
    let built = building.wait().context("docker does not end")?;
    ensure!(built.success(), "`{}` ended with {built}", describe(&build));
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_tag() {
        assert_eq!((tagged("a").as_str(), tagged("a:b").as_str()), ("a:latest", "a:b"));
    }
}
