//! What a kubelet does for one pod: it starts the container, asks its probes, starts it again, and stops it in its time.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use super::{
    engine::Engine,
    probe::{Health, Probe},
    set::Pod,
};

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);

/// How long it waits before it starts a container again that has ended: twice as long each time, up to the second. From the
/// kubelet, which begins at once after the first end.
const BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// The longest answer that a probe reads.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// How a pod is.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// Of which StatefulSet.
    pub(super) set: String,
    pub(super) address: Option<IpAddr>,
    /// Since when it is ready.
    pub(super) ready_since: Option<Instant>,
    /// Since when it is told to go.
    pub(super) leaving: Option<Instant>,
    /// How often its container ended by itself or for its probes, and with what the last time.
    pub(super) restarts: u32,
    pub(super) exit_code: Option<i32>,
}

/// How long a service still sends to a pod that was told to go: proxies hear of it one after the other.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// How all pods are.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<BTreeMap<String, Standing>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, pod: &str) -> Option<Standing> {
        self.lock().get(pod).cloned()
    }

    fn change(&self, pod: &str, change: impl FnOnce(&mut Standing)) {
        if let Some(standing) = self.lock().get_mut(pod) {
            change(standing);
        }
    }

    /// The addresses of the pods of a set to which a service sends.
    pub(super) fn endpoints(&self, set: &str) -> Vec<IpAddr> {
        let board = self.lock();
        let stays = |pod: &&Standing| pod.leaving.is_none_or(|since| since.elapsed() < HEARD_WITHIN);
        let serves = |pod: &&Standing| pod.set == set && pod.ready_since.is_some() && stays(pod);
        board.values().filter(serves).filter_map(|pod| pod.address).collect()
    }
}

/// One pod, looked after.
#[derive(Debug)]
pub(super) struct Kubelet {
    pub(super) pod: Pod,
    board: Board,
    thread: JoinHandle<anyhow::Result<()>>,
}

/// How a pod went when it was told to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    pub(super) exit_code: Option<i32>,
    pub(super) took: Duration,
}

impl Kubelet {
    /// Looks after a pod whose container is made.
    pub(super) fn begin(set: &str, pod: Pod, engine: &Engine, board: &Board) -> Self {
        let standing = Standing {
            set: set.to_owned(),
            address: None,
            ready_since: None,
            leaving: None,
            restarts: 0,
            exit_code: None,
        };
        board.lock().insert(pod.name.clone(), standing);
        let keeper = Keeper { pod: pod.clone(), engine: engine.clone(), board: board.clone() };
        Self { pod, board: board.clone(), thread: thread::spawn(move || keeper.keep()) }
    }

    /// Tells the pod to go: services forget it soon.
    pub(super) fn leave(&self) {
        self.board.change(&self.pod.name, |standing| {
            standing.leaving.get_or_insert_with(now);
        });
    }

    /// The pod goes; says how.
    pub(super) fn end(self) -> anyhow::Result<Gone> {
        let told = now();
        self.leave();
        self.thread.join().map_err(|_| anyhow!("what looks after {} panicked", self.pod.name))??;
        let exit_code = self.board.lock().remove(&self.pod.name).and_then(|standing| standing.exit_code);
        Ok(Gone { exit_code, took: told.elapsed() })
    }
}

struct Keeper {
    pod: Pod,
    engine: Engine,
    board: Board,
}

impl Keeper {
    fn leaves(&self) -> bool {
        self.board.get(&self.pod.name).is_none_or(|standing| standing.leaving.is_some())
    }

    fn keep(&self) -> anyhow::Result<()> {
        let mut backoff = Duration::ZERO;
        loop {
            let code = self.live()?;
            let leaves = self.leaves();
            self.board.change(&self.pod.name, |standing| {
                standing.ready_since = None;
                standing.exit_code = code;
                standing.restarts += u32::from(!leaves);
            });
            let until = now() + backoff;
            while !self.leaves() && now() < until {
                sleep(TICK);
            }
            if self.leaves() {
                return Ok(());
            }
            backoff = (backoff * 2).clamp(BACKOFF, BACKOFF_MAX);
        }
    }

    /// One life of the container. Gives its exit code.
    fn live(&self) -> anyhow::Result<Option<i32>> {
        let address = self.engine.start(&self.pod)?;
        self.board.change(&self.pod.name, |standing| standing.address = Some(address));
        let mut waiting = self.engine.waiting(&self.pod)?;
        let (begun, mut health, mut stopped) = (now(), Health::default(), false);
        let probes = &self.pod.probes;
        while waiting.try_wait().context("docker does not wait")?.is_none() {
            if !stopped && self.leaves() {
                self.engine.stop(&self.pod)?;
                stopped = true;
            }
            if let Some(which) = health.due(probes, begun.elapsed()).filter(|_| !stopped) {
                let asked_at = begun.elapsed();
                let well = answers(SocketAddr::new(address, probes.get(which).port), probes.get(which));
                let again = health.saw(probes, which, well, asked_at);
                let ready = health.ready;
                self.board.change(&self.pod.name, |standing| {
                    standing.ready_since = if ready { standing.ready_since.or_else(|| Some(now())) } else { None };
                });
                if again {
                    eprintln!("k8s: {} failed its {which:?} probe, and is started again", self.pod.name);
                    self.engine.stop(&self.pod)?;
                    stopped = true;
                }
            }
            sleep(TICK);
        }
        let mut code = String::new();
        if let Some(mut said) = waiting.stdout.take() {
            said.read_to_string(&mut code).context("docker does not say how a container ended")?;
        }
        Ok(code.trim().parse().ok())
    }
}

/// Is a probe's request answered with a status from 200 to 399?
fn answers(address: SocketAddr, probe: &Probe) -> bool {
    let asked = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, probe.timeout)?;
        stream.set_read_timeout(Some(probe.timeout))?;
        stream.set_write_timeout(Some(probe.timeout))?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/trial\r\nConnection: close\r\n\r\n",
            probe.path
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    asked().is_ok_and(|answer| is_well(&answer))
}

fn is_well(answer: &[u8]) -> bool {
    let head = String::from_utf8_lossy(answer.get(..answer.len().min(64)).unwrap_or_default()).into_owned();
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    status.is_some_and(|status| (200..400).contains(&status))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a chore waits for bounded times; nothing of the product is decided by it"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_takes_what_a_kubelet_takes() {
        for (answer, well) in [
            ("HTTP/1.1 200 OK\r\n", true),
            ("HTTP/1.1 302 Found\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n", false),
            ("HTTP/1.1 404 Not Found\r\n", false),
            ("", false),
            ("SSH-2.0 200", false),
        ] {
            assert_eq!(is_well(answer.as_bytes()), well, "{answer}");
        }
    }

    #[test]
    fn a_service_sends_to_the_ready_that_stay_or_have_only_just_been_told_to_go() {
        let board = Board::default();
        let gone = now().checked_sub(2 * HEARD_WITHIN).unwrap();
        let standing = |set: &str, last: u8, ready: bool, leaving: Option<Instant>| Standing {
            set: set.to_owned(),
            address: Some(IpAddr::from([10, 0, 0, last])),
            ready_since: ready.then(now),
            leaving,
            restarts: 0,
            exit_code: None,
        };
        board.lock().extend([
            ("a-0".to_owned(), standing("a", 1, true, None)),
            ("a-1".to_owned(), standing("a", 2, false, None)),
            ("a-2".to_owned(), standing("a", 3, true, Some(gone))),
            ("a-3".to_owned(), standing("a", 4, true, Some(now()))),
            ("b-0".to_owned(), standing("b", 5, true, None)),
        ]);
        assert_eq!(board.endpoints("a"), [1, 4].map(|last| IpAddr::from([10, 0, 0, last])));
    }
}
