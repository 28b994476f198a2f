//! This machine's Docker engine: what a kubelet would ask its container runtime for.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};

use super::{
    File,
    secrets::Secrets,
    set::{Holds, Pod, Volume},
    volumes,
};
use crate::{
    process::{command, read, works},
    workspace,
};

/// Docker's processor time is in shares of 1024 a processor.
const SHARES: u64 = 1_024;

/// The most processes of a pod, as a kubelet's `podPidsLimit` would have it.
const PROCESSES_MAX: &str = "4096";

/// The engine, and what one trial calls its things there.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    /// How all names of the trial begin.
    trial: String,
}

/// How a command of a pod ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained of.
    pub(crate) stderr: String,
}

impl Engine {
    /// Makes the network of a namespace.
    pub(super) fn new(namespace: &str) -> anyhow::Result<Self> {
        ensure!(works(command("docker").arg("version")), "no docker engine answers");
        let security = read(command("docker").args(["info", "--format", "{{.SecurityOptions}}"]))?;
        ensure!(security.contains("seccomp"), "the engine has no seccomp profile, and pods ask for its default");
        let engine = Self { trial: format!("{namespace}-{}", std::process::id()) };
        read(command("docker").args(["network", "create", "--label", &engine.label(), &engine.trial]))?;
        Ok(engine)
    }

    fn label(&self) -> String {
        format!("dev.wasmwiz.trial={}", self.trial)
    }

    /// How to look at it, and how to clean up after a trial that was killed.
    pub(super) fn hint(&self) -> String {
        format!("docker ps --filter label={}", self.label())
    }

    pub(super) fn container(&self, pod: &str) -> String {
        format!("{}-{pod}", self.trial)
    }

    fn volume(&self, pod: &str, volume: &Volume) -> String {
        format!("{}-{pod}-{}", self.trial, volume.name)
    }

    /// Makes the volumes of a pod that are not there, and lays settings and Secrets out in them.
    pub(super) fn mount(&self, pod: &Pod, file: &File, secrets: &Secrets) -> anyhow::Result<()> {
        for volume in &pod.volumes {
            let name = self.volume(&pod.name, volume);
            if works(command("docker").args(["volume", "inspect", &name])) {
                continue;
            }
            read(command("docker").args(["volume", "create", "--label", &self.label(), &name]))?;
            let folder = Staging::make(&name)?;
            match &volume.holds {
                Holds::Claim => volumes::lay_out_empty(&folder.0)?,
                Holds::Settings(settings) => {
                    let files = file.settings.get(settings).with_context(|| format!("no ConfigMap {settings}"))?;
                    let files: Vec<_> =
                        files.iter().map(|(name, text)| (name.clone(), text.as_bytes().to_vec())).collect();
                    volumes::lay_out(&folder.0, &files, 0o644)?;
                }
                Holds::Secrets(sources, mode) => {
                    let mut files = Vec::new();
                    for source in sources {
                        let values = secrets.get(&source.secret)?;
                        match &source.items[..] {
                            [] => files.extend(values.iter().map(|(key, value)| (key.clone(), value.clone()))),
                            items => {
                                for (key, path) in items {
                                    let value =
                                        values.get(key).with_context(|| format!("{} has no {key}", source.secret))?;
                                    files.push((path.clone(), value.clone()));
                                }
                            }
                        }
                    }
                    volumes::lay_out(&folder.0, &files, *mode)?;
                }
            }
            volumes::fill(&name, &folder.1, pod.group, &pod.image)?;
        }
        Ok(())
    }

    /// Everything of a pod but its name, its volumes that it keeps, and what it runs.
    fn confined(&self, pod: &Pod) -> Vec<String> {
        let (user, group) = pod.user;
        let (least, most) = pod.cpu_millis;
        let mut words: Vec<String> =
            ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"].map(str::to_owned).into();
        let mut say = |name: &str, value: String| words.extend([name.to_owned(), value]);
        say("--label", self.label());
        say("--network", self.trial.clone());
        say("--user", format!("{user}:{group}"));
        say("--group-add", pod.group.to_string());
        say("--cpus", format!("{}.{:03}", most / 1_000, most % 1_000));
        say("--cpu-shares", (least * SHARES / 1_000).max(2).to_string());
        // As much again of swap is nothing: no page of a guest is ever swapped.
        say("--memory", pod.memory_bytes.to_string());
        say("--memory-swap", pod.memory_bytes.to_string());
        say("--pids-limit", PROCESSES_MAX.to_owned());
        for (name, value) in &pod.environment {
            say("--env", format!("{name}={value}"));
        }
        for volume in pod.volumes.iter().filter(|volume| volume.holds != Holds::Claim) {
            say("--mount", self.mounted(pod, volume));
        }
        words
    }

    fn mounted(&self, pod: &Pod, volume: &Volume) -> String {
        let read_only = if volume.read_only { ",readonly" } else { "" };
        // A kubelet copies nothing of an image into a volume.
        format!("type=volume,source={},target={},volume-nocopy{read_only}", self.volume(&pod.name, volume), volume.path)
    }

    /// Makes the container of a pod.
    pub(super) fn create(&self, pod: &Pod) -> anyhow::Result<()> {
        let mut create = command("docker");
        create.args(["create", "--name", &self.container(&pod.name), "--hostname", &pod.name]).args(self.confined(pod));
        for name in &pod.names {
            create.args(["--network-alias", name]);
        }
        for volume in pod.volumes.iter().filter(|volume| volume.holds == Holds::Claim) {
            create.args(["--mount", &self.mounted(pod, volume)]);
        }
        read(create.arg(&pod.image).args(&pod.arguments)).map(|_| ())
    }

    /// Runs another command of a pod's image as the pod would, beside it: with its settings and Secrets, and without what it keeps.
    pub(super) fn once(&self, pod: &Pod, arguments: &[&str]) -> anyhow::Result<Said> {
        let mut once = command("docker");
        let output = once.args(["run", "--rm"]).args(self.confined(pod)).arg(&pod.image).args(arguments).output();
        let output = output.context("cannot start docker")?;
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Said { code: output.status.code(), stdout, stderr })
    }

    /// Starts it, and gives its address.
    pub(super) fn start(&self, pod: &Pod) -> anyhow::Result<IpAddr> {
        let container = self.container(&pod.name);
        read(command("docker").args(["start", &container]))?;
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = read(command("docker").args(["inspect", "--format", format, &container]))?;
        // One that has ended at once has none any more.
        Ok(address.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])))
    }

    /// Ends when the container does, and prints its exit code.
    pub(super) fn waiting(&self, pod: &Pod) -> anyhow::Result<Child> {
        let mut wait = command("docker");
        let wait = wait.args(["wait", &self.container(&pod.name)]).stdout(Stdio::piped()).stderr(Stdio::null());
        wait.spawn().context("cannot start docker")
    }

    /// Tells it to stop, and kills it when its time is over.
    pub(super) fn stop(&self, pod: &Pod) -> anyhow::Result<()> {
        let grace = pod.grace.as_secs().to_string();
        read(command("docker").args(["stop", "--time", &grace, &self.container(&pod.name)])).map(|_| ())
    }

    /// Its last words.
    pub(super) fn words(&self, pod: &str, lines: u32) -> String {
        let mut logs: Command = command("docker");
        let output = logs.args(["logs", "--tail", &lines.to_string(), &self.container(pod)]).output();
        let output = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }

    pub(super) fn remove(&self, pod: &Pod) -> anyhow::Result<()> {
        read(command("docker").args(["rm", "--force", &self.container(&pod.name)])).map(|_| ())
    }

    /// Takes away all that this trial has made.
    pub(super) fn clear(&self) {
        let label = format!("label={}", self.label());
        for (list, remove) in [
            (&["ps", "--all", "--quiet"][..], &["rm", "--force", "--volumes"][..]),
            (&["volume", "ls", "--quiet"], &["volume", "rm", "--force"]),
            (&["network", "ls", "--quiet"], &["network", "rm"]),
        ] {
            let names = read(command("docker").args(list).args(["--filter", &label])).unwrap_or_default();
            let names: Vec<_> = names.split_whitespace().collect();
            if !names.is_empty() && !works(command("docker").args(remove).args(&names)) {
                eprintln!("k8s: the engine keeps something of this trial: {}", self.hint());
            }
        }
    }
}

/// Where the files of a volume are laid out, for its owner alone. It goes when this does.
struct Staging(PathBuf, PathBuf);

impl Staging {
    fn make(volume: &str) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let outer = workspace::root().join("target/k8s").join(volume);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&outer);
        made.with_context(|| format!("cannot create {}", outer.display()))?;
        Ok(Self(outer.join(volumes::FILLED), outer))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing to be done about it, and no reason to fail: the folder is its owner's.
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::{pods::Images, render::TARGETS};

    #[test]
    fn a_pod_has_no_right_no_way_to_one_and_nothing_to_write_to_but_what_it_keeps() {
        let file = File::read(&TARGETS[2].read(workspace::root()).unwrap()).unwrap();
        let images = Images { nodes: "ours:1".to_owned(), servers: "nats:local".to_owned() };
        let engine = Engine { trial: "t".to_owned() };
        for set in ["nats", "wasmwiz"] {
            let pod = file.set(set).unwrap().pod(0, &images).unwrap();
            let words = engine.confined(&pod);
            let has = |pair: [&str; 2]| words.windows(2).any(|found| found == pair);
            assert!(has(["--cap-drop", "ALL"]) && has(["--security-opt", "no-new-privileges"]), "{words:?}");
            assert!(words.contains(&"--read-only".to_owned()) && has(["--user", "65532:65532"]), "{words:?}");
            assert!(has(["--cpus", "1.000"]) && has(["--cpu-shares", "1024"]), "{words:?}");
            assert!(has(["--memory", "2147483648"]) && has(["--memory-swap", "2147483648"]), "{words:?}");
            let mounts: Vec<_> = words.iter().filter(|word| word.starts_with("type=volume")).collect();
            assert!(mounts.len() >= 3 && mounts.iter().all(|mount| mount.ends_with(",readonly")), "{mounts:?}");
            let claims: Vec<_> = pod.volumes.iter().filter(|volume| volume.holds == Holds::Claim).collect();
            assert!(claims.len() == 1 && !claims[0].read_only, "{claims:?}");
        }
    }
}
