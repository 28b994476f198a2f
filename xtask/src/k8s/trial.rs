//! `cargo xtask k8s try`: the containers of a rendered file, started by this machine's Docker engine.

use std::{fs, net::SocketAddr, path::PathBuf, thread::sleep, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{
    http::{Request, get},
    pods::{
        File, Images,
        controller::{Stage, Stopped},
    },
};
use crate::{
    image::{servers, trial},
    process::{command, works},
    smoke,
};

/// Start every container of a rendered manifest with this machine's Docker engine, and see the cluster form
///
/// Each pod of the file is a container with exactly its arguments, variables, user, mounts, limits, root that cannot be written
/// to, capabilities and names; its probes are asked, and it is stopped in its time, as a kubelet would. Secrets are drawn for the
/// trial. Only the images are others. A field that is not known is refused, and what a cluster would do besides is printed. The
/// servers of the log come up, then the nodes; each node has to pass the smoke test and to own tenants; then all stop in order.
/// Wants docker, openssl, tar and curl, and the images: `cargo xtask image` and `cargo xtask image --servers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The rendered file, for instance k8s/production-deployment.yaml
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pub(super) images: Stand,
}

/// What stands for the images of a file.
#[derive(Debug, clap::Args)]
pub(crate) struct Stand {
    /// What stands for our own image
    #[arg(long, value_name = "IMAGE", default_value = "wasmwiz:local")]
    pub(crate) image: String,
    /// What stands for the image of the log's servers
    #[arg(long, value_name = "IMAGE", default_value = servers::NAME)]
    pub(crate) servers: String,
}

/// The StatefulSets of both environments.
pub(super) const SERVERS: &str = "nats";
pub(super) const NODES: &str = "wasmwiz";

/// How long all pods of a StatefulSet may take. Far more than they need, on a machine that has other things to do.
pub(super) const UP_WITHIN: Duration = Duration::from_secs(600);

/// So many tenants that a node which owns none of them is no chance: one in ten thousand.
const TENANTS: u32 = 30;

/// How long views may take to know a key, and how long is waited between.
const KNOWN_WITHIN: u32 = 120;
const BETWEEN: Duration = Duration::from_millis(500);

impl Stand {
    /// # Errors
    /// When the engine does not have one of them.
    pub(crate) fn images(&self) -> anyhow::Result<Images> {
        for (image, made) in [(&self.image, "cargo xtask image"), (&self.servers, "cargo xtask image --servers")] {
            let is_there = works(command("docker").args(["image", "inspect", image]));
            ensure!(is_there, "the engine has no image {image}: `{made}` builds one");
        }
        Ok(Images { nodes: self.image.clone(), servers: self.servers.clone() })
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let images = arguments.images.images()?;
    let mut stage = begun(&arguments.file, &images)?;
    up(&mut stage, &images)?;
    let operator = operator(&stage)?;
    for (node, address) in stage.addresses(NODES)? {
        smoke::try_platform(&format!("http://{address}"), &operator, None).with_context(|| node.clone())?;
    }
    all_own_tenants(&stage, &operator)?;
    for container in stage.containers() {
        trial::is_confined(&container).with_context(|| container.clone())?;
    }
    let ended: u32 = [SERVERS, NODES].map(|set| stage.restarts(set)).into_iter().sum::<Result<_, _>>()?;
    ensure!(ended == 0, "containers ended by themselves {ended} times");
    down(&mut stage)?;
    eprintln!("k8s: {} makes a platform", arguments.file.display());
    Ok(())
}

/// Reads a file, says what is not done with it, and draws its secrets.
pub(super) fn begun(file: &std::path::Path, images: &Images) -> anyhow::Result<Stage> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let read = File::read(&text).with_context(|| file.display().to_string())?;
    eprintln!("k8s: {} with {} and {} for its images; a cluster also", file.display(), images.nodes, images.servers);
    read.left.iter().for_each(|does| eprintln!("k8s:   {does}"));
    read.stage(images)
}

/// The log's servers, then the nodes: the order of a deployment.
pub(super) fn up(stage: &mut Stage, images: &Images) -> anyhow::Result<()> {
    for set in [SERVERS, NODES] {
        stage.start(set, images)?;
        let took = stage.await_available(set, UP_WITHIN)?;
        eprintln!("k8s: {} pods of {set} are available after {:.1} s", stage.replicas(set)?, took.as_secs_f64());
    }
    Ok(())
}

/// The nodes, then the servers, the highest first.
pub(super) fn down(stage: &mut Stage) -> anyhow::Result<()> {
    for set in [NODES, SERVERS] {
        for stopped in stage.stop(set)? {
            stopped.in_order()?;
            let Stopped { pod, took, grace, .. } = stopped;
            eprintln!("k8s: {pod} stopped in order, in {:.1} of {} s", took.as_secs_f64(), grace.as_secs());
        }
    }
    Ok(())
}

pub(super) fn operator(stage: &Stage) -> anyhow::Result<String> {
    Ok(String::from_utf8(stage.secret("wasmwiz-auth", "operator-key")?.to_vec())?)
}

/// A tenant and its first key.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) key: String,
}

/// Registers a tenant: a node that has only just started may not know the operator's key yet.
pub(crate) fn register(address: SocketAddr, operator: &str, name: &str) -> anyhow::Result<Tenant> {
    let body = json!({ "name": name, "tier": "enterprise" }).to_string();
    let headers = [("Content-Type", "application/json")];
    let request =
        Request { method: "POST", path: "/v1/tenants", key: operator, headers: &headers, body: body.as_bytes() };
    let registered = until_known(|| request.json(address, 201))?;
    let key = registered.pointer("/initial_key/secret").and_then(Value::as_str).context("the tenant has no key")?;
    Ok(Tenant { key: key.to_owned() })
}

/// Asks again while a key is not known: each node has its own view of keys, and follows the log.
pub(super) fn until_known(ask: impl Fn() -> anyhow::Result<Value>) -> anyhow::Result<Value> {
    for _ in 0..KNOWN_WITHIN {
        match ask() {
            Err(error) if format!("{error:#}").contains("answered with 401") => sleep(BETWEEN),
            answered => return answered,
        }
    }
    ask()
}

/// The nodes are one cluster: registered at one of them, tenants are owned by all.
fn all_own_tenants(stage: &Stage, operator: &str) -> anyhow::Result<()> {
    let nodes = stage.addresses(NODES)?;
    let Some((_, first)) = nodes.first() else { bail!("there are no nodes") };
    for number in 0..TENANTS {
        register(*first, operator, &format!("Trial {number}"))?;
    }
    let mut owned = Vec::new();
    for (node, address) in &nodes {
        let metrics = get("/metrics", "").send(SocketAddr::new(address.ip(), ADMIN)).with_context(|| node.clone())?;
        let entities =
            entities(&String::from_utf8_lossy(&metrics.body)).with_context(|| format!("{node} counts no entities"))?;
        owned.push(format!("{node} {entities}"));
        ensure!(entities > 0.0, "{node} owns none of {TENANTS} tenants that were registered at another node");
    }
    eprintln!("k8s: {TENANTS} tenants were registered at one node, and all own some: {}", owned.join(", "));
    Ok(())
}

/// The port of the admin listener.
pub(crate) const ADMIN: u16 = 9090;

/// The entities in a node's memory.
pub(crate) fn entities(metrics: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix("wasmwiz_entities ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_read_from_the_metrics() {
        let metrics = "# TYPE wasmwiz_entities gauge\nwasmwiz_entities_more 1\nwasmwiz_entities 12\n";
        assert_eq!((entities(metrics), entities("")), (Some(12.0), None));
    }
}
