//! An image as a cluster: three nodes over three servers of the log, as containers on networks that only this machine
//! reaches.
//!
//! Any node answers any request; what a killed node served is served elsewhere; nodes are replaced under load. What
//! callers were told is what every node shows in the end.

mod load;
mod record;
mod stage;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use self::{
    load::{Load, MIN_POSITION, execute, now, positioned},
    stage::{EACH, Stage, node, numbers},
};
use super::servers;
use crate::{
    k8s::{
        http::{Request, get},
        trial::{ADMIN, Stand, Tenant, entities, register},
    },
    workspace,
};

/// So many tenants, each with a caller, that a node which owns none of them is no chance: two thirds to the power of
/// it, one in a thousand.
const TENANTS: usize = 18;

/// The least entities that a node has to have before it is killed. One may be that of the platform itself.
const OWNED_MIN: f64 = 2.0;

/// How long a node that has come back may take until it owns them, and how long is waited between two looks.
const OWNED_WITHIN: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(250);

/// How long a node's views may be behind what another has written, on a machine that has other things to do.
const BEHIND_WITHIN: Duration = Duration::from_secs(60);

/// How many answers each caller waits for after a node was replaced: with all nodes more than a thousand, so that the
/// rate of errors means something.
const ANSWERS: usize = 24;

/// Starts a cluster of an image, or first of another one, and shows all that. `kills` is how often a node is killed.
///
/// # Errors
/// Says what does not hold, and what the nodes said last.
pub(super) fn run(image: &str, from: Option<&str>, kills: u32) -> anyhow::Result<()> {
    for image in [Some(image), from].into_iter().flatten() {
        Stand { image: image.to_owned(), servers: servers::NAME.to_owned() }.images()?;
    }
    let stage = Stage::begin()?;
    let told = tell(&stage, image, from, kills);
    if told.is_err() {
        eprintln!("image: {}", stage.last_words());
    }
    told
}

/// The image is what is shown: another one, from which nodes are replaced, comes before all else.
fn tell(stage: &Stage, image: &str, from: Option<&str>, kills: u32) -> anyhow::Result<()> {
    stage.start_servers(servers::NAME)?;
    eprintln!("image: {EACH} servers of the log answer");
    for number in numbers() {
        let of = from.unwrap_or(image);
        stage.create_node(number, of)?;
        let took = stage.start_node(number)?;
        eprintln!("image: {} of {of} is ready after {:.1} s", node(number), took.as_secs_f64());
    }
    let mut story = Story::begin(stage)?;
    if from.is_some() {
        story.replaced(Some(image))?;
    }
    numbers().try_for_each(|number| stage.is_confined(number))?;
    story.any_node()?;
    story.killed(kills)?;
    if from.is_none() {
        story.replaced(None)?;
    }
    story.ended(image)
}

/// What is known of a trial so far.
struct Story<'s> {
    stage: &'s Stage,
    operator: String,
    echo: Vec<u8>,
    /// Those with callers.
    tenants: Vec<Tenant>,
    /// All whose records are looked at.
    all: Vec<Tenant>,
    /// The outcome of each execution that was answered.
    told: BTreeMap<String, String>,
}

impl<'s> Story<'s> {
    /// Registers the tenants, at one node after the other, and waits until every node knows them.
    fn begin(stage: &'s Stage) -> anyhow::Result<Self> {
        let echo =
            wat::parse_file(workspace::root().join("examples/echo.wat")).context("examples/echo.wat is no module")?;
        let operator = operator(stage)?;
        let nodes = stage.addresses_but(None)?;
        let mut story = Self { stage, operator, echo, tenants: Vec::new(), all: Vec::new(), told: BTreeMap::new() };
        for (number, at) in (0..TENANTS).zip(nodes.iter().cycle()) {
            let (tenant, _) = story.tenant(*at, &format!("Caller {number}"))?;
            for other in &nodes {
                patiently(|| get("/v1/executions?limit=1", &tenant.key).json(*other, 200))?;
            }
            story.tenants.push(tenant);
        }
        Ok(story)
    }

    /// Registers a tenant at a node, which publishes the echo there. Gives the position of that.
    fn tenant(&mut self, at: SocketAddr, name: &str) -> anyhow::Result<(Tenant, String)> {
        let tenant = patiently(|| register(at, &self.operator, name))?;
        let headers = [("Content-Type", "application/wasm")];
        let (path, body) = ("/v1/modules/echo", self.echo.as_slice());
        let request = Request { method: "PUT", path, key: &tenant.key, headers: &headers, body };
        let (_, position) = patiently(|| positioned(&request, at, 201))?;
        self.all.push(tenant.clone());
        Ok((tenant, position.with_context(|| format!("{at}{path} is answered without a position"))?))
    }

    /// Any node answers any request, and shows what another has written when it is asked by its position.
    fn any_node(&mut self) -> anyhow::Result<()> {
        let nodes = self.stage.addresses_but(None)?;
        let first = nodes.first().copied().context("there is no node to ask")?;
        let (tenant, published) = self.tenant(first, "Any node")?;
        let mut read = 0_u32;
        for (number, at) in numbers().zip(&nodes) {
            let name = format!("any-node-{number}");
            let ran = patiently(|| execute(*at, &tenant.key, &name, Some(&published)))?;
            ensure!(ran.outcome == "succeeded", "an echo at {} ended as {}", node(number), ran.outcome);
            let position = ran.position.with_context(|| format!("{} names no position", node(number)))?;
            let path = format!("/v1/executions/{}", ran.id);
            let headers = [(MIN_POSITION, position.as_str())];
            let request = Request { method: "GET", path: &path, key: &tenant.key, headers: &headers, body: &[] };
            for other in nodes.iter().filter(|other| *other != at) {
                let shown = patiently(|| request.json(*other, 200))?;
                let outcome = shown.get("outcome").and_then(Value::as_str);
                ensure!(outcome == Some("succeeded"), "{other} shows what ran at {at} as {shown}");
                read += 1;
            }
            self.told.insert(ran.id, ran.outcome);
        }
        eprintln!(
            "image: any node answers any request: a module that {} took ran on all {EACH}, and {read} reads at the \
             others by position showed what was written",
            node(1)
        );
        Ok(())
    }

    /// Nodes are killed, one after the other, under load.
    fn killed(&mut self, kills: u32) -> anyhow::Result<()> {
        let load = Load::begin("kill", self.stage.addresses_but(None)?, &self.tenants);
        load.each_answered(2)?;
        let mut longest = Duration::ZERO;
        for (kill, number) in (1..=kills).zip(numbers().cycle()) {
            let owned = self.owned(number)?;
            load.nodes_are(self.stage.addresses_but(Some(number))?);
            let then = now();
            self.stage.kill_node(number)?;
            load.each_answered(2)?;
            let outage = load.outage(then).context("a caller has no answer to what it sent after a kill")?;
            longest = longest.max(outage.longest);
            let back = self.stage.start_node(number)?;
            eprintln!(
                "image: kill {kill} of {kills}: {} was killed with {owned} entities; all tenants were served by the \
                 others after {:.1} s, the longest that one waited was {:.1} s; it is back after {:.1} s",
                node(number),
                outage.served_after.as_secs_f64(),
                outage.longest.as_secs_f64(),
                back.as_secs_f64()
            );
            load.nodes_are(self.stage.addresses_but(None)?);
            load.each_answered(2)?;
        }
        let told = load.end()?;
        eprintln!("image: {kills} kills: {}; the longest wait was {:.1} s", told.line(), longest.as_secs_f64());
        self.told.extend(told.outcomes()?);
        Ok(())
    }

    /// Waits until a node has tenants: to kill another would show nothing. Gives how many entities it has.
    fn owned(&self, number: usize) -> anyhow::Result<f64> {
        let at = SocketAddr::new(self.stage.address(number)?.ip(), ADMIN);
        let begun = now();
        loop {
            let metrics = get("/metrics", "").send(at).with_context(|| format!("{} has no metrics", node(number)))?;
            let owned = entities(&String::from_utf8_lossy(&metrics.body));
            if let Some(owned) = owned.filter(|owned| *owned >= OWNED_MIN) {
                return Ok(owned);
            }
            let within = OWNED_WITHIN.as_secs();
            ensure!(
                begun.elapsed() < OWNED_WITHIN,
                "{} owns {owned:?} entities {within} s after it came back: look at `wasmwiz cluster status`",
                node(number)
            );
            sleep(BETWEEN);
        }
    }

    /// Every node is stopped and started, one after the other, under load; with another image if one is given.
    fn replaced(&mut self, by: Option<&str>) -> anyhow::Result<()> {
        let load = Load::begin("replace", self.stage.addresses_but(None)?, &self.tenants);
        load.each_answered(2)?;
        for number in numbers() {
            // A load balancer does so when a node says that it is not ready any more.
            load.nodes_are(self.stage.addresses_but(Some(number))?);
            load.each_answered(1)?;
            let stopped = self.stage.stop_node(number)?;
            if let Some(image) = by {
                self.stage.remove_node(number)?;
                self.stage.create_node(number, image)?;
            }
            let back = self.stage.start_node(number)?;
            eprintln!(
                "image: {} stopped in order in {:.1} s, and is ready{} after {:.1} s",
                node(number),
                stopped.as_secs_f64(),
                by.map_or(String::new(), |image| format!(" as {image}")),
                back.as_secs_f64()
            );
            load.nodes_are(self.stage.addresses_but(None)?);
            load.each_answered(ANSWERS)?;
        }
        let told = load.end()?;
        eprintln!("image: all nodes were replaced under load: {}", told.line());
        self.told.extend(told.undisturbed()?);
        Ok(())
    }

    /// Every node shows what was answered, and the chain holds.
    fn ended(&self, image: &str) -> anyhow::Result<()> {
        let recorded = record::recorded(&self.stage.addresses_but(None)?, &self.all, &self.told)?;
        eprintln!(
            "image: all {EACH} nodes show the same {} events and the {} executions that were answered, each accepted \
             and ended once ({} lost)",
            recorded.events, recorded.executions, recorded.lost
        );
        eprintln!("image: `audit verify` beside the nodes: {}", self.stage.verified(image)?);
        Ok(())
    }
}

/// The operator's key. A node prints it at its first start, soon after it is ready.
fn operator(stage: &Stage) -> anyhow::Result<String> {
    let begun = now();
    loop {
        if let Some(key) = stage.operator()? {
            return Ok(key);
        }
        if is_over(begun) {
            bail!("{} prints no operator's key at its first start", node(1));
        }
        sleep(BETWEEN);
    }
}

/// Asks again while a node is behind another: it says so by 503 where a position was named, and by 401 to a key that it
/// does not know yet.
fn patiently<T>(ask: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = now();
    loop {
        match ask() {
            Err(error) if is_behind(&format!("{error:#}")) && !is_over(begun) => sleep(BETWEEN),
            answered => return answered,
        }
    }
}

fn is_over(begun: Instant) -> bool {
    begun.elapsed() > BEHIND_WITHIN
}

fn is_behind(said: &str) -> bool {
    ["answered with 401", "answered with 503"].iter().any(|status| said.contains(status))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_node_that_is_behind_is_asked_again_and_one_that_refuses_is_not() {
        let asked = Cell::new(0);
        let answers = |first: &'static str| {
            asked.set(0);
            patiently(|| {
                asked.set(asked.get() + 1);
                if asked.get() == 1 {
                    Err(anyhow::anyhow!("GET a is answered with {first}, and not with 200"))
                } else {
                    Ok(())
                }
            })
        };
        answers("503").unwrap();
        assert_eq!(asked.get(), 2);
        answers("401").unwrap();
        assert_eq!(asked.get(), 2);
        assert!(answers("404").is_err());
        assert_eq!(asked.get(), 1);
    }
}
