//! The containers of a trial: three servers of the log and three nodes, on networks that only this machine reaches.
//!
//! They are those of `examples/compose.yaml`, with the files that it mounts. All that a trial makes has its prefix and
//! its label, and goes with [`Stage`].

use std::{
    iter,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, ensure};

use super::load::now;
use crate::{
    image::trial,
    k8s::http::get,
    process::{command, read, works},
    workspace,
};

/// How many nodes, and how many servers.
pub(super) const EACH: usize = 3;

/// The networks: where nodes are asked, and where nodes and servers are among themselves.
const API: &str = "api";
const LOG: &str = "log";

/// The volume of all nodes, each of which has a folder of its own in it.
const NODES: &str = "nodes";

/// Files of the workspace, and where containers have them.
const NODE_FILE: &str = "examples/compose/wasmwiz.toml";
const SERVER_FILE: &str = "examples/compose/nats.conf";
const NODE_SETTINGS: &str = "/etc/wasmwiz/wasmwiz.toml";
const SERVER_SETTINGS: &str = "/etc/nats/nats.conf";

/// What nodes have beside the file: one that was killed is given shards again at once. Otherwise those of the later
/// kills would own nothing, as a node that was lost waits for longer each time.
const SETTLES: [&str; 2] = ["WASMWIZ_CLUSTER__TENURE_MS=0", "WASMWIZ_CLUSTER__FLAP_BACKOFF_MS=0"];

/// Ports: of a node's API, and of what a server tells of itself.
const API_PORT: u16 = 8080;
const MONITOR_PORT: u16 = 8222;

/// Bounds of a node, as in `examples/compose.yaml`.
const BOUNDS: [&str; 4] = ["--pids-limit", "512", "--memory", "2g"];

/// How long a server may take to answer, a node to be ready, and the history to be verified. Far more than they need,
/// on a machine that has other things to do.
const SERVER_WITHIN: Duration = Duration::from_secs(90);
const NODE_WITHIN: Duration = Duration::from_secs(300);
const VERIFIED_WITHIN: Duration = Duration::from_secs(300);

/// How long the engine may take to see that a node that it killed is dead.
const KILLED_WITHIN: Duration = Duration::from_secs(30);

/// How long is waited between two questions.
const BETWEEN: Duration = Duration::from_millis(250);

/// Longer than a node takes to stop (`shutdown.within_ms`, 25 seconds).
const GRACE_SECONDS: &str = "40";

/// How many lines of a container's last words are shown.
const LINES: &str = "40";

/// What the engine has of one trial.
#[derive(Debug)]
pub(super) struct Stage {
    /// How all names of it begin.
    prefix: String,
}

/// The numbers of nodes, and of servers.
pub(super) const fn numbers() -> RangeInclusive<usize> {
    1..=EACH
}

/// What a node is called.
pub(super) fn node(number: usize) -> String {
    format!("node-{number}")
}

fn server(number: usize) -> String {
    format!("nats-{number}")
}

/// A file of the workspace, where a container has it.
fn mounted(file: &str, target: &str) -> String {
    format!("type=bind,source={},target={target},readonly", workspace::root().join(file).display())
}

impl Stage {
    /// Makes the networks and the volumes.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn begin() -> anyhow::Result<Self> {
        let stage = Self { prefix: format!("wasmwiz-fleet-{}", std::process::id()) };
        let label = stage.label();
        eprintln!("image: look with `docker ps --all --filter label={label}`");
        for network in [API, LOG] {
            let name = stage.named(network);
            read(command("docker").args(["network", "create", "--internal", "--label", &label, &name]))?;
        }
        for volume in iter::once(NODES.to_owned()).chain(numbers().map(server)) {
            read(command("docker").args(["volume", "create", "--label", &label, &stage.named(&volume)]))?;
        }
        Ok(stage)
    }

    fn label(&self) -> String {
        format!("dev.wasmwiz.trial={}", self.prefix)
    }

    fn named(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// What every container has: its names, a network, and no right that it does not need.
    fn confined(&self, name: &str, network: &str) -> Vec<String> {
        let mut words: Vec<String> =
            ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"].map(str::to_owned).into();
        let mut say = |option: &str, value: String| words.extend([option.to_owned(), value]);
        say("--name", self.named(name));
        say("--hostname", name.to_owned());
        say("--label", self.label());
        say("--network", self.named(network));
        say("--network-alias", name.to_owned());
        words
    }

    /// How a server is created.
    fn server_words(&self, number: usize, image: &str) -> Vec<String> {
        let name = server(number);
        let mut words = vec!["create".to_owned()];
        words.extend(self.confined(&name, LOG));
        let mounts =
            [format!("type=volume,source={},target=/data", self.named(&name)), mounted(SERVER_FILE, SERVER_SETTINGS)];
        mounts.into_iter().for_each(|mount| words.extend(["--mount".to_owned(), mount]));
        words.extend([image, "--config", SERVER_SETTINGS, "--name", &name].map(str::to_owned));
        words
    }

    /// How a node is created.
    fn node_words(&self, number: usize, image: &str) -> Vec<String> {
        let (name, folder) = (node(number), folder_of(number));
        let mut words = vec!["create".to_owned()];
        words.extend(self.confined(&name, API));
        words.extend(BOUNDS.map(str::to_owned));
        let mounts = [
            format!("type=volume,source={},target=/var/lib/wasmwiz", self.named(NODES)),
            mounted(NODE_FILE, NODE_SETTINGS),
        ];
        mounts.into_iter().for_each(|mount| words.extend(["--mount".to_owned(), mount]));
        let mut variables = vec![format!("WASMWIZ_NODE__NAME={name}"), format!("WASMWIZ_NODE__DATA_DIR={folder}")];
        // The first one draws the keys that sign tokens, and all of them have the same.
        if number != 1 {
            variables.push(format!("WASMWIZ_AUTH__TOKEN_KEYS_DIR={}/token-keys", folder_of(1)));
        }
        variables.extend(SETTLES.map(str::to_owned));
        variables.into_iter().for_each(|variable| words.extend(["--env".to_owned(), variable]));
        words.extend([image, "node", "--config", NODE_SETTINGS].map(str::to_owned));
        words
    }

    /// How the history is verified: by a program beside the nodes.
    fn verification_words(&self, image: &str) -> Vec<String> {
        let mut words = ["run", "--detach"].map(str::to_owned).to_vec();
        words.extend(self.confined("audit", LOG));
        words.extend(["--env".to_owned(), "WASMWIZ_NODE__NAME=audit".to_owned()]);
        words.extend(["--mount".to_owned(), mounted(NODE_FILE, NODE_SETTINGS)]);
        words.extend([image, "audit", "verify", "--config", NODE_SETTINGS].map(str::to_owned));
        words
    }

    /// Starts all servers, and waits until they answer.
    ///
    /// # Errors
    /// Says which one does not, and what it said last.
    pub(super) fn start_servers(&self, image: &str) -> anyhow::Result<()> {
        for number in numbers() {
            read(command("docker").args(self.server_words(number, image)))?;
        }
        // All of them first: each waits for the others.
        for number in numbers() {
            read(command("docker").args(["start", &self.named(&server(number))]))?;
        }
        for number in numbers() {
            let name = server(number);
            let at = SocketAddr::new(self.address_in(&name, LOG)?, MONITOR_PORT);
            self.until_answers(&name, at, "/healthz", SERVER_WITHIN)?;
        }
        Ok(())
    }

    /// Makes the container of a node, which is in both networks.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn create_node(&self, number: usize, image: &str) -> anyhow::Result<()> {
        let name = node(number);
        read(command("docker").args(self.node_words(number, image)))?;
        let (network, container) = (self.named(LOG), self.named(&name));
        read(command("docker").args(["network", "connect", "--alias", &name, &network, &container]))?;
        Ok(())
    }

    /// Takes the container of a node away. What it keeps stays.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn remove_node(&self, number: usize) -> anyhow::Result<()> {
        read(command("docker").args(["rm", &self.named(&node(number))])).map(drop)
    }

    /// Starts a node, and waits until it is ready. Gives how long that took.
    ///
    /// # Errors
    /// When it is not in time; says what it said last.
    pub(super) fn start_node(&self, number: usize) -> anyhow::Result<Duration> {
        let (name, begun) = (node(number), now());
        read(command("docker").args(["start", &self.named(&name)]))?;
        let at = self.address(number)?;
        self.until_answers(&name, at, "/readyz", NODE_WITHIN)?;
        Ok(begun.elapsed())
    }

    /// Kills a node: SIGKILL.
    ///
    /// # Errors
    /// When it is not dead afterwards.
    pub(super) fn kill_node(&self, number: usize) -> anyhow::Result<()> {
        let name = node(number);
        read(command("docker").args(["kill", "--signal", "KILL", &self.named(&name)]))?;
        let begun = now();
        while self.inspect(&name, "{{.State.Running}}")? == "true" {
            ensure!(
                begun.elapsed() < KILLED_WITHIN,
                "{name} was killed, and runs: does the engine do what it is told?"
            );
            sleep(BETWEEN);
        }
        Ok(())
    }

    /// Tells a node to stop. Gives how long that took.
    ///
    /// # Errors
    /// When it does not end by itself and with 0.
    pub(super) fn stop_node(&self, number: usize) -> anyhow::Result<Duration> {
        let (name, told) = (node(number), now());
        read(command("docker").args(["stop", "--time", GRACE_SECONDS, &self.named(&name)]))?;
        let code = self.inspect(&name, "{{.State.ExitCode}}")?;
        ensure!(code == "0", "{name} was told to stop, and ended with {code}; its last words:\n{}", self.words(&name));
        Ok(told.elapsed())
    }

    /// Where a node answers. It may be another address after each start.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn address(&self, number: usize) -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::new(self.address_in(&node(number), API)?, API_PORT))
    }

    /// Where all nodes answer, without one of them.
    ///
    /// # Errors
    /// When one of those does not run.
    pub(super) fn addresses_but(&self, but: Option<usize>) -> anyhow::Result<Vec<SocketAddr>> {
        numbers().filter(|number| Some(*number) != but).map(|number| self.address(number)).collect()
    }

    fn address_in(&self, name: &str, network: &str) -> anyhow::Result<IpAddr> {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", self.named(network));
        let address = self.inspect(name, &format)?.parse::<IpAddr>();
        address.with_context(|| format!("{name} has no address, it ended; its last words:\n{}", self.words(name)))
    }

    fn inspect(&self, name: &str, format: &str) -> anyhow::Result<String> {
        read(command("docker").args(["inspect", "--type", "container", "--format", format, &self.named(name)]))
    }

    fn until_answers(&self, name: &str, at: SocketAddr, path: &str, within: Duration) -> anyhow::Result<()> {
        let begun = now();
        while !get(path, "").send(at).is_ok_and(|answer| answer.status == 200) {
            let state = self.inspect(name, "{{.State.Status}}")?;
            ensure!(state == "running", "{name} is {state}; its last words:\n{}", self.words(name));
            ensure!(
                begun.elapsed() < within,
                "http://{at}{path} of {name} is not answered with 200 within {} s; its last words:\n{}",
                within.as_secs(),
                self.words(name)
            );
            sleep(BETWEEN);
        }
        Ok(())
    }

    /// The kernel has to confirm that a node has no right that it does not need.
    ///
    /// # Errors
    /// Says what it has.
    pub(super) fn is_confined(&self, number: usize) -> anyhow::Result<()> {
        trial::is_confined(&self.named(&node(number))).with_context(|| node(number))
    }

    /// The operator's key, which the first node prints at its first start; nothing as long as it has not.
    ///
    /// # Errors
    /// When the engine has no log of it.
    pub(super) fn operator(&self) -> anyhow::Result<Option<String>> {
        let printed = read(command("docker").args(["logs", &self.named(&node(1))]))?;
        Ok(printed.split_whitespace().find(|word| word.starts_with("ww_")).map(str::to_owned))
    }

    /// Has the history verified by a program of the image, beside the nodes. Gives its verdict.
    ///
    /// # Errors
    /// When something is wrong with the history; says what.
    pub(super) fn verified(&self, image: &str) -> anyhow::Result<String> {
        let begun = now();
        read(command("docker").args(self.verification_words(image)))?;
        while self.inspect("audit", "{{.State.Running}}")? == "true" {
            let within = VERIFIED_WITHIN.as_secs();
            ensure!(begun.elapsed() < VERIFIED_WITHIN, "the history is not verified within {within} s");
            sleep(BETWEEN);
        }
        let code = self.inspect("audit", "{{.State.ExitCode}}")?;
        ensure!(code == "0", "the history is not intact, `audit verify` ended with {code}:\n{}", self.words("audit"));
        let said = read(command("docker").args(["logs", &self.named("audit")]))?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }

    /// A container's last words.
    fn words(&self, name: &str) -> String {
        let output = command("docker").args(["logs", "--tail", LINES, &self.named(name)]).output();
        let output = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }

    /// The last words of all nodes, for whoever looks into a failure.
    pub(super) fn last_words(&self) -> String {
        let words = numbers().map(|number| format!("{} said last:\n{}", node(number), self.words(&node(number))));
        words.collect::<Vec<_>>().join("\n")
    }
}

/// The folder of a node in the volume of all.
fn folder_of(number: usize) -> String {
    format!("/var/lib/wasmwiz/{}", node(number))
}

impl Drop for Stage {
    /// Takes away all that this trial has made.
    fn drop(&mut self) {
        let label = format!("label={}", self.label());
        for (list, remove) in [
            (&["ps", "--all", "--quiet"][..], &["rm", "--force", "--volumes"][..]),
            (&["volume", "ls", "--quiet"], &["volume", "rm", "--force"]),
            (&["network", "ls", "--quiet"], &["network", "rm"]),
        ] {
            let names = read(command("docker").args(list).args(["--filter", &label])).unwrap_or_default();
            let names: Vec<_> = names.split_whitespace().collect();
            if !names.is_empty() && !works(command("docker").args(remove).args(&names)) {
                eprintln!(
                    "image: the engine keeps something of this trial: `docker {} --filter {label}`",
                    list.join(" ")
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that the engine knows nothing of, and is not asked to clear away.
    fn stage() -> std::mem::ManuallyDrop<Stage> {
        std::mem::ManuallyDrop::new(Stage { prefix: "t".to_owned() })
    }

    fn has(words: &[String], pair: [&str; 2]) -> bool {
        words.windows(2).any(|found| found == pair)
    }

    fn mounts(words: &[String]) -> Vec<&String> {
        words.iter().filter(|word| word.starts_with("type=")).collect()
    }

    #[test]
    fn a_container_has_no_right_a_name_of_the_trial_and_one_place_to_write_to() {
        let stage = stage();
        for words in [stage.node_words(2, "ours:1"), stage.server_words(2, "nats:1")] {
            assert!(words.contains(&"--read-only".to_owned()) && has(&words, ["--cap-drop", "ALL"]), "{words:?}");
            assert!(has(&words, ["--security-opt", "no-new-privileges"]), "{words:?}");
            assert!(has(&words, ["--label", "dev.wasmwiz.trial=t"]), "{words:?}");
            let found = mounts(&words);
            let written: Vec<_> = found.iter().filter(|mount| !mount.ends_with(",readonly")).collect();
            assert!(found.len() == 2 && written.len() == 1, "{found:?}");
            assert!(!words.iter().any(|word| word == "--publish" || word == "--privileged"), "{words:?}");
        }
        let words = stage.verification_words("ours:1");
        assert!(mounts(&words).iter().all(|mount| mount.ends_with(",readonly")), "{words:?}");
        assert_eq!(words[words.len() - 4..], ["audit", "verify", "--config", NODE_SETTINGS]);
    }

    #[test]
    fn nodes_are_asked_in_one_network_and_servers_are_only_in_the_other() {
        let stage = stage();
        let (node, server) = (stage.node_words(3, "ours:1"), stage.server_words(3, "nats:1"));
        assert!(has(&node, ["--network", "t-api"]) && has(&node, ["--name", "t-node-3"]), "{node:?}");
        assert!(has(&server, ["--network", "t-log"]) && has(&server, ["--name", "t-nats-3"]), "{server:?}");
        // The name comes twice: of the container, and of the server that runs in it.
        assert_eq!(server[server.len() - 5..], ["nats:1", "--config", SERVER_SETTINGS, "--name", "nats-3"]);
        assert_eq!(node[node.len() - 4..], ["ours:1", "node", "--config", NODE_SETTINGS]);
    }

    #[test]
    fn the_first_node_draws_the_keys_that_all_have() {
        let stage = stage();
        let keys = "WASMWIZ_AUTH__TOKEN_KEYS_DIR=/var/lib/wasmwiz/node-1/token-keys";
        for (number, others) in [(1, false), (2, true), (3, true)] {
            let words = stage.node_words(number, "ours:1");
            assert_eq!(has(&words, ["--env", keys]), others, "{words:?}");
            assert!(has(&words, ["--env", &format!("WASMWIZ_NODE__DATA_DIR=/var/lib/wasmwiz/node-{number}")]));
        }
    }

    #[test]
    fn the_files_that_containers_mount_are_there() {
        for file in [NODE_FILE, SERVER_FILE] {
            assert!(workspace::root().join(file).is_file(), "{file}");
        }
    }
}
