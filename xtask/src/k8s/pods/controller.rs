//! What the controller of StatefulSets does: pods are started all at once, and replaced one after the other, the highest first.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::{
    File, Images,
    engine::{Engine, Said},
    kubelet::{Board, Gone, Kubelet, now},
    secrets::Secrets,
    service::Service,
};

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);

/// How many lines of a pod's last words are shown when it does not come up.
const LINES: u32 = 40;

/// A namespace of a cluster, as far as one machine has it.
#[derive(Debug)]
pub(crate) struct Stage {
    file: File,
    secrets: Secrets,
    engine: Engine,
    board: Board,
    /// By name. What a pod is goes with it.
    pods: BTreeMap<String, Kubelet>,
}

/// A pod that went, in time or not.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// Its name.
    pub(crate) pod: String,
    /// Its exit code; none where the engine does not say.
    pub(crate) exit_code: Option<i32>,
    /// How long it took.
    pub(crate) took: Duration,
    /// How long it may take.
    pub(crate) grace: Duration,
    /// Had it been ready?
    pub(crate) was_available: bool,
}

impl Stage {
    pub(super) fn new(file: File, secrets: Secrets) -> anyhow::Result<Self> {
        let engine = Engine::new(&file.namespace)?;
        eprintln!("k8s: look with `{}`", engine.hint());
        Ok(Self { file, secrets, engine, board: Board::default(), pods: BTreeMap::new() })
    }

    /// How many pods a StatefulSet has.
    pub(crate) fn replicas(&self, set: &str) -> anyhow::Result<u32> {
        Ok(self.file.set(set)?.replicas)
    }

    /// Starts all pods of a StatefulSet at once, as their policy has it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(crate) fn start(&mut self, set: &str, images: &Images) -> anyhow::Result<()> {
        (0..self.replicas(set)?).try_for_each(|number| self.start_pod(set, number, images))
    }

    fn start_pod(&mut self, set: &str, number: u32, images: &Images) -> anyhow::Result<()> {
        let pod = self.file.set(set)?.pod(number, images)?;
        self.engine.mount(&pod, &self.file, &self.secrets)?;
        self.engine.create(&pod)?;
        let kubelet = Kubelet::begin(set, pod, &self.engine, &self.board);
        self.pods.insert(kubelet.pod.name.clone(), kubelet);
        Ok(())
    }

    /// Waits until all pods of a StatefulSet count as available.
    ///
    /// # Errors
    /// Says which one is not in time, and what it said last.
    pub(crate) fn await_available(&self, set: &str, within: Duration) -> anyhow::Result<Duration> {
        let begun = now();
        for number in 0..self.replicas(set)? {
            self.await_pod(set, number, begun, within)?;
        }
        Ok(begun.elapsed())
    }

    fn await_pod(&self, set: &str, number: u32, begun: Instant, within: Duration) -> anyhow::Result<()> {
        let (name, min_ready) = (format!("{set}-{number}"), self.file.set(set)?.min_ready);
        loop {
            let standing = self.board.get(&name);
            let ready = standing.as_ref().and_then(|standing| standing.ready_since);
            if ready.is_some_and(|since| since.elapsed() >= min_ready) {
                return Ok(());
            }
            if begun.elapsed() > within {
                let words = self.engine.words(&name, LINES);
                let (restarts, code) = standing.map_or((0, None), |standing| (standing.restarts, standing.exit_code));
                let ended = code.map_or(String::new(), |code| format!(", the last time with {code}"));
                bail!(
                    "{name} is not available after {} s; it ended {restarts} times{ended}; its last words:\n{words}",
                    within.as_secs()
                );
            }
            sleep(TICK);
        }
    }

    /// Replaces each pod of a StatefulSet whose image is to be another, the highest first, and waits for each until it counts. A pod
    /// that never became ready makes room, as a deployment sees to.
    ///
    /// # Errors
    /// When one does not come up in time: those below it stay as they are.
    pub(crate) fn roll(&mut self, set: &str, images: &Images, pod_within: Duration) -> anyhow::Result<Vec<Stopped>> {
        let mut stopped = Vec::new();
        for number in (0..self.replicas(set)?).rev() {
            let name = format!("{set}-{number}");
            let wanted = self.file.set(set)?.pod(number, images)?.image;
            if self.pods.get(&name).is_some_and(|kubelet| kubelet.pod.image == wanted) {
                continue;
            }
            let gone = self.take_away(&name)?;
            let begun = now();
            self.start_pod(set, number, images)?;
            self.await_pod(set, number, begun, pod_within)?;
            eprintln!(
                "k8s: {name} stopped in {:.1} s with {}, and is available as {wanted} after {:.1} s",
                gone.took.as_secs_f64(),
                gone.exit_code.map_or("no code".to_owned(), |code| code.to_string()),
                begun.elapsed().as_secs_f64()
            );
            stopped.push(gone);
        }
        Ok(stopped)
    }

    fn take_away(&mut self, name: &str) -> anyhow::Result<Stopped> {
        let kubelet = self.pods.remove(name).with_context(|| format!("there is no pod {name}"))?;
        let pod = kubelet.pod.clone();
        let was_available = self.board.get(name).is_some_and(|standing| standing.ready_since.is_some());
        let Gone { exit_code, took } = kubelet.end()?;
        self.engine.remove(&pod)?;
        Ok(Stopped { pod: pod.name, exit_code, took, grace: pod.grace, was_available })
    }

    /// Stops all pods of a StatefulSet, the highest first.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(crate) fn stop(&mut self, set: &str) -> anyhow::Result<Vec<Stopped>> {
        let numbers = (0..self.replicas(set)?).rev();
        numbers.map(|number| self.take_away(&format!("{set}-{number}"))).collect()
    }

    /// Where each pod of a StatefulSet answers its clients.
    ///
    /// # Errors
    /// When no service names a port of it, or a pod has no address.
    pub(crate) fn addresses(&self, set: &str) -> anyhow::Result<Vec<(String, SocketAddr)>> {
        let port = self.file.set(set)?.port.with_context(|| format!("no service has clients of {set}"))?;
        let names = (0..self.replicas(set)?).map(|number| format!("{set}-{number}"));
        names
            .map(|name| {
                let address = self.board.get(&name).and_then(|standing| standing.address);
                let address = address.with_context(|| format!("{name} has no address"))?;
                Ok((name, SocketAddr::new(address, port)))
            })
            .collect()
    }

    /// Opens the service that its clients come by.
    ///
    /// # Errors
    /// When the file has none.
    pub(crate) fn service(&self, set: &str) -> anyhow::Result<Open> {
        let port = self.file.set(set)?.port.with_context(|| format!("no service has clients of {set}"))?;
        Service::open(self.board.clone(), set.to_owned(), port).map(Open)
    }

    /// Runs another command of that image as a pod of the StatefulSet would.
    ///
    /// # Errors
    /// When the engine does not run it. Any exit code is an answer.
    pub(crate) fn once(&self, set: &str, images: &Images, arguments: &[&str]) -> anyhow::Result<Said> {
        self.engine.once(&self.file.set(set)?.pod(0, images)?, arguments)
    }

    /// What the engine calls the containers.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.pods.keys().map(|pod| self.engine.container(pod)).collect()
    }

    /// How often containers of a StatefulSet ended by themselves.
    pub(crate) fn restarts(&self, set: &str) -> anyhow::Result<u32> {
        let names = (0..self.replicas(set)?).map(|number| format!("{set}-{number}"));
        Ok(names.filter_map(|name| self.board.get(&name)).map(|standing| standing.restarts).sum())
    }

    /// The value of a Secret.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn secret(&self, secret: &str, key: &str) -> anyhow::Result<&[u8]> {
        let value = self.secrets.get(secret)?.get(key);
        value.map(Vec::as_slice).with_context(|| format!("{secret} has no {key}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let pods = std::mem::take(&mut self.pods);
        pods.values().for_each(Kubelet::leave);
        for kubelet in pods.into_values() {
            // What is left of it is taken away below.
            let _ = kubelet.end();
        }
        self.engine.clear();
    }
}

/// A service that is open as long as this is kept.
#[derive(Debug)]
pub(crate) struct Open(Service);

impl Open {
    /// Where it is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.0.address
    }
}

impl Stopped {
    /// # Errors
    /// When it was killed, or ended with an error.
    pub(crate) fn in_order(&self) -> anyhow::Result<()> {
        let Self { pod, exit_code, took, grace, .. } = self;
        ensure!(
            *exit_code == Some(0),
            "{pod} was told to stop, and ended with {exit_code:?} after {took:?} of {grace:?}"
        );
        Ok(())
    }
}
