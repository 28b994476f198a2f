//! A StatefulSet, and what each of its pods is to be.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Images, probe::Probes};
use crate::k8s::manifest::{Document, at, bytes, items};

/// A StatefulSet of pods of one container.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) replicas: u32,
    /// How long a pod has to be ready until it counts.
    pub(super) min_ready: Duration,
    /// The headless service that gives its pods their names.
    service: String,
    /// Where the service with an address of its own sends what its clients send: a port of the pods.
    pub(super) port: Option<u16>,
    /// All headless services that have its pods.
    services: Vec<String>,
    namespace: String,
    pod: Value,
    claims: Vec<String>,
}

/// What a pod is to be.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// What it is called in the network, in all the forms that its search domains make good.
    pub(super) names: Vec<String>,
    /// User and group.
    pub(super) user: (u64, u64),
    /// The group that its volumes belong to.
    pub(super) group: u64,
    pub(super) volumes: Vec<Volume>,
    /// Processor time, in thousandths of a processor: the least and the most.
    pub(super) cpu_millis: (u64, u64),
    pub(super) memory_bytes: u64,
    pub(super) probes: Probes,
    pub(super) grace: Duration,
}

/// Where something is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) read_only: bool,
    pub(super) holds: Holds,
}

/// What is in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holds {
    /// What the pod keeps from one of its lives to the next.
    Claim,
    /// The files of a ConfigMap.
    Settings(String),
    /// Keys of Secrets, with the mode of their files.
    Secrets(Vec<Source>, u32),
}

/// A Secret, and which of its keys are which files; all of them where none are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) secret: String,
    pub(super) items: Vec<(String, String)>,
}

/// The mode of files of a Secret where none is said: 0644.
const MODE: u64 = 0o644;

impl Set {
    /// # Errors
    /// When a value of it cannot be carried out.
    pub(super) fn read(set: &Document, services: &[&Document]) -> anyhow::Result<Self> {
        let labels = set.at("/spec/template/metadata/labels");
        ensure!(set.at("/spec/selector/matchLabels") == labels, "{} selects other pods than its own", set.title());
        let has = |service: &&&Document| {
            let selector = service.at("/spec/selector").as_object();
            selector.is_some_and(|selector| selector.iter().all(|(name, value)| labels.get(name) == Some(value)))
        };
        let is_headless = |service: &&&Document| service.text("/spec/clusterIP") == "None";
        let (headless, addressed): (Vec<&&Document>, Vec<&&Document>) =
            services.iter().filter(has).partition(is_headless);
        let services: Vec<_> = headless.iter().map(|one| one.name().to_owned()).collect();
        let service = set.text("/spec/serviceName").to_owned();
        ensure!(services.contains(&service), "{}: no headless service {service} has its pods", set.title());
        let pod = set.pod().context("no pod")?.clone();
        ensure!(
            items(pod.get("containers")).count() == 1,
            "{}: pods of one container alone are known here",
            set.title()
        );
        let claims = items(Some(set.at("/spec/volumeClaimTemplates")));
        let port = addressed.first().map(|service| port_of(at(&pod, "/containers/0"), service.at("/spec/ports/0")));
        Ok(Self {
            name: set.name().to_owned(),
            replicas: number(set.at("/spec/replicas"))?.try_into()?,
            min_ready: Duration::from_secs(number(set.at("/spec/minReadySeconds"))?),
            port: port.transpose().with_context(|| set.title())?,
            service,
            services,
            namespace: set.namespace().to_owned(),
            claims: claims.map(|claim| text(claim, "/metadata/name")).collect::<Result<_, _>>()?,
            pod,
        })
    }

    /// The pod of that number.
    ///
    /// # Errors
    /// When a value of it cannot be carried out.
    pub(super) fn pod(&self, number_of: u32, images: &Images) -> anyhow::Result<Pod> {
        let name = format!("{}-{number_of}", self.name);
        let container = at(&self.pod, "/containers/0");
        let limits = at(container, "/resources/limits");
        let arguments = items(container.get("args")).filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let environment = items(container.get("env")).map(|variable| variable_of(variable, &name));
        let environment = environment.collect::<anyhow::Result<Vec<_>>>()?;
        let expands = |text: &String| text.contains("$(");
        let no_expansion = !arguments.iter().chain(environment.iter().map(|(_, value)| value)).any(expands);
        ensure!(no_expansion, "{name}: references `$(…)` in arguments and variables are not known here");
        let id = |of: &str| number(at(&self.pod, &format!("/securityContext/{of}")));
        let user = (id("runAsUser")?, id("runAsGroup")?);
        ensure!(user.0 != 0, "{name} is not to run as root");
        Ok(Pod {
            image: images.stands_for(&text(container, "/image")?)?.to_owned(),
            names: self.names(&name),
            user,
            group: id("fsGroup")?,
            volumes: items(container.get("volumeMounts")).map(|mount| self.volume(mount)).collect::<Result<_, _>>()?,
            cpu_millis: (millis(at(container, "/resources/requests/cpu"))?, millis(at(limits, "/cpu"))?),
            memory_bytes: bytes(at(limits, "/memory")).with_context(|| format!("{name} has no limit of memory"))?,
            probes: Probes::read(container)?,
            grace: Duration::from_secs(number(at(&self.pod, "/terminationGracePeriodSeconds"))?),
            arguments,
            environment,
            name,
        })
    }

    /// The pod's own names, and those that it shares with the other pods of its services. A pod that asks has the search domains
    /// `NAMESPACE.svc.cluster.local`, `svc.cluster.local` and `cluster.local`.
    fn names(&self, pod: &str) -> Vec<String> {
        let own = format!("{pod}.{}", self.service);
        let forms = |name: &str| {
            let Self { namespace, .. } = self;
            [
                String::new(),
                format!(".{namespace}"),
                format!(".{namespace}.svc"),
                format!(".{namespace}.svc.cluster.local"),
            ]
            .map(|domain| format!("{name}{domain}"))
        };
        std::iter::once(&own).chain(&self.services).flat_map(|name| forms(name)).collect()
    }

    fn volume(&self, mount: &Value) -> anyhow::Result<Volume> {
        let name = text(mount, "/name")?;
        let volume = items(self.pod.get("volumes")).find(|volume| at(volume, "/name") == name.as_str());
        let holds = match volume {
            None if self.claims.contains(&name) => Holds::Claim,
            None => anyhow::bail!("nothing is mounted by the name {name}"),
            Some(volume) => {
                holds(volume).with_context(|| format!("the volume {name} holds nothing that is known here"))?
            }
        };
        Ok(Volume { path: text(mount, "/mountPath")?, read_only: at(mount, "/readOnly") == true, holds, name })
    }
}

/// The container's port that a service's port stands for.
fn port_of(container: &Value, port: &Value) -> anyhow::Result<u16> {
    let target = at(port, "/targetPort");
    let named = items(container.get("ports")).find(|named| at(named, "/name") == target);
    let named = named.with_context(|| format!("a service sends to the port {target}, which the pods do not have"))?;
    Ok(number(at(named, "/containerPort"))?.try_into()?)
}

fn holds(volume: &Value) -> Option<Holds> {
    let mode = |of: &Value| u32::try_from(at(of, "/defaultMode").as_u64().unwrap_or(MODE)).ok();
    if let Some(settings) = volume.get("configMap") {
        return Some(Holds::Settings(settings.get("name")?.as_str()?.to_owned()));
    }
    if let Some(secret) = volume.get("secret") {
        let source = source(secret.get("secretName")?.as_str()?, secret);
        return Some(Holds::Secrets(vec![source], mode(secret)?));
    }
    let projected = volume.get("projected")?;
    let sources = items(projected.get("sources"));
    let sources = sources.map(|of| Some(source(at(of, "/secret/name").as_str()?, of.get("secret")?)));
    Some(Holds::Secrets(sources.collect::<Option<_>>()?, mode(projected)?))
}

fn source(name: &str, of: &Value) -> Source {
    let text = |item: &Value, field: &str| at(item, field).as_str().unwrap_or_default().to_owned();
    let items = items(of.get("items")).map(|item| (text(item, "/key"), text(item, "/path")));
    Source { secret: name.to_owned(), items: items.collect() }
}

/// A variable's name and value.
fn variable_of(variable: &Value, pod: &str) -> anyhow::Result<(String, String)> {
    let name = text(variable, "/name")?;
    let is_name = variable.get("valueFrom").is_some();
    let value = if is_name { pod.to_owned() } else { text(variable, "/value")? };
    Ok((name, value))
}

fn text(value: &Value, pointer: &str) -> anyhow::Result<String> {
    at(value, pointer).as_str().map(str::to_owned).with_context(|| format!("{pointer} is missing, or no text"))
}

pub(super) fn number(value: &Value) -> anyhow::Result<u64> {
    value.as_u64().with_context(|| format!("{value} stands where a number has to"))
}

/// A quantity of processor time, in thousandths: `"1"`, `500m`.
fn millis(quantity: &Value) -> anyhow::Result<u64> {
    let text = quantity.as_str().unwrap_or_default();
    let read = match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => text.parse::<u64>().ok().map(|whole| whole * 1_000),
    };
    read.with_context(|| format!("{quantity} is no quantity of processor time that is known here"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        k8s::{pods::File, render::TARGETS},
        workspace,
    };

    fn pod(environment: &str, set: &str, number: u32) -> Pod {
        let target = TARGETS.iter().find(|target| target.folder.ends_with(environment)).unwrap();
        let file = File::read(&target.read(workspace::root()).unwrap()).unwrap();
        let images = Images { nodes: "ours:1".to_owned(), servers: "nats:local".to_owned() };
        file.set(set).unwrap().pod(number, &images).unwrap()
    }

    #[test]
    fn a_node_of_production_is_what_the_file_says() {
        let pod = pod("production", "wasmwiz", 2);
        assert_eq!((pod.name.as_str(), pod.image.as_str()), ("wasmwiz-2", "ours:1"));
        assert_eq!(pod.arguments, ["node", "--config", "/etc/wasmwiz/settings/wasmwiz.toml"]);
        assert!(pod.environment.contains(&("WASMWIZ_NODE__NAME".to_owned(), "wasmwiz-2".to_owned())));
        assert_eq!((pod.user, pod.group, pod.memory_bytes), ((65_532, 65_532), 65_532, 2 << 30));
        assert_eq!((pod.cpu_millis, pod.grace), ((1_000, 1_000), Duration::from_secs(40)));
        let full = "wasmwiz-2.wasmwiz-nodes.wasmwiz-production.svc.cluster.local";
        for name in [full, "wasmwiz-2.wasmwiz-nodes", "wasmwiz-nodes.wasmwiz-production.svc"] {
            assert!(pod.names.iter().any(|found| found == name), "{name}: {:?}", pod.names);
        }
        let at = |path: &str| pod.volumes.iter().find(|volume| volume.path == path).unwrap();
        assert_eq!((&at("/var/lib/wasmwiz").holds, at("/var/lib/wasmwiz").read_only), (&Holds::Claim, false));
        let item = |name: &str| (name.to_owned(), name.to_owned());
        let sources = [("wasmwiz-nats", "node.seed"), ("nats-tls", "ca.crt")];
        let sources = sources.map(|(secret, key)| Source { secret: secret.to_owned(), items: vec![item(key)] });
        assert_eq!(at("/etc/wasmwiz/nats").holds, Holds::Secrets(sources.to_vec(), 0o440));
        assert!(at("/etc/wasmwiz/nats").read_only);
    }

    #[test]
    fn clients_of_the_service_reach_the_port_of_the_api_and_the_servers_have_no_such_service() {
        let text = TARGETS[2].read(workspace::root()).unwrap();
        let file = File::read(&text).unwrap();
        assert_eq!((file.set("wasmwiz").unwrap().port, file.set("nats").unwrap().port), (Some(8080), None));
        let other = text.replace("targetPort: api", "targetPort: other");
        assert!(format!("{:#}", File::read(&other).unwrap_err()).contains("which the pods do not have"));
    }

    #[test]
    fn a_server_of_staging_has_its_own_name_and_that_of_all() {
        let pod = pod("staging", "nats", 0);
        assert_eq!((pod.cpu_millis, pod.memory_bytes), ((250, 250), 512 << 20));
        assert!(pod.names.contains(&"nats-0.nats".to_owned()) && pod.names.contains(&"nats".to_owned()));
        assert!(pod.environment.contains(&("POD_NAME".to_owned(), "nats-0".to_owned())));
    }

    #[test]
    fn processor_time_is_in_thousandths() {
        assert_eq!((millis(&json!("1")).unwrap(), millis(&json!("250m")).unwrap()), (1_000, 250));
        assert!(millis(&json!("0.5")).is_err() && millis(&json!(1)).is_err());
    }
}
