//! Hosts on this machine: network namespaces on a bridge, whose cables can be cut in either direction.
//!
//! ```text
//!   host 1          host 2          host 3
//!  10.x.y.1        10.x.y.2        10.x.y.3        processes of a host see only its own network
//!      └───────┬───────┴───────┬───────┘
//!              └── bridge 10.x.y.254 ── the test
//! ```
//! What may be cut is the way from one host to another; the test reaches every host at all times. The bridge has a namespace
//! of its own: in the machine's, a packet filter that drops what is forwarded (Docker sets one up) would cut all ways. Needs
//! root and `ip` of iproute2: [`Hosts::possible`] says whether both are there.

use std::{
    ffi::OsString,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context, ensure};

/// The test's own address ends with it.
const GATE: u8 = 254;

/// The bridge, and the end of the test's cable, in the namespace that they have to themselves.
const BRIDGE: &str = "bridge";
const TEST: &str = "test";

/// The address of a network card that is nowhere.
const NOBODY: &str = "02:00:00:00:00:01";

/// Networks of this process are told apart by it.
static NETWORKS: AtomicU8 = AtomicU8::new(0);

/// Hosts that can reach each other until a way between them is cut. They are gone when this is dropped; whatever runs in
/// them must have ended before.
#[derive(Debug)]
pub struct Hosts {
    /// Begins the names of all that is made, short enough for an interface.
    name: String,
    network: [u8; 3],
    count: u8,
}

impl Hosts {
    /// Can there be hosts on this machine?
    pub fn possible() -> bool {
        let probe = format!("ww{}p", std::process::id());
        let possible = ip(["netns", "add", &probe]).is_ok();
        // It fails when it was not made.
        let _ = ip(["netns", "del", &probe]);
        possible
    }

    /// Makes `count` hosts on a network of their own.
    ///
    /// # Errors
    /// When `ip` fails: not root, not installed, or names are left over.
    pub fn new(count: u8) -> anyhow::Result<Self> {
        let process = std::process::id();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        // A network of 10.0.0.0/8 for each process of tests that may run beside this one.
        let [.., low] = process.to_be_bytes();
        let middle = u8::try_from((process >> 8) % 128).unwrap_or_default();
        let network = [10, 128 | middle, low.wrapping_add(number)];
        let hosts = Self { name: format!("ww{process}{}", char::from(b'a' + number % 26)), network, count };
        let (switch, gate) = (hosts.switch(), hosts.gate());
        ip(["netns", "add", &switch])?;
        ip(["-n", &switch, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(["-n", &switch, "link", "set", BRIDGE, "up"])?;
        ip(["link", "add", &gate, "type", "veth", "peer", "name", TEST, "netns", &switch])?;
        ip(["-n", &switch, "link", "set", TEST, "master", BRIDGE, "up"])?;
        ip(["address", "add", &format!("{}/24", hosts.address_of(GATE)), "dev", &gate])?;
        ip(["link", "set", &gate, "up"])?;
        for host in 1..=count {
            let (space, cable) = (hosts.space(host), hosts.cable(host));
            ip(["netns", "add", &space])?;
            ip(["-n", &switch, "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(["-n", &switch, "link", "set", &cable, "master", BRIDGE, "up"])?;
            ip(["-n", &space, "address", "add", &format!("{}/24", hosts.address(host)), "dev", "eth0"])?;
            ip(["-n", &space, "link", "set", "eth0", "up"])?;
            ip(["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(hosts)
    }

    /// The address of a host, which are numbered from 1.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        self.address_of(host)
    }

    /// The addresses of all hosts.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        (1..=self.count).map(|host| self.address(host)).collect()
    }

    /// What starts a program on a host: to be put before the program and its arguments. The program stays this process's
    /// own child.
    pub fn runs_on(&self, host: u8) -> [OsString; 4] {
        ["ip", "netns", "exec", &self.space(host)].map(OsString::from)
    }

    /// A command that runs `program` on a host.
    pub fn command(&self, host: u8, program: &Path) -> Command {
        let [ip, arguments @ ..] = self.runs_on(host);
        let mut command = Command::new(PathBuf::from(ip));
        command.args(arguments).arg(program);
        command
    }

    /// From now on nothing that `from` sends reaches `to`. What `to` sends still reaches `from`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self, from: u8, to: u8) -> anyhow::Result<()> {
        // To a card that nobody has: what is sent is gone without a word, as on a cable that is cut.
        let to = self.address(to).to_string();
        ip(["-n", &self.space(from), "neigh", "replace", &to, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0"])
    }

    /// Opens the way again.
    ///
    /// # Errors
    /// When it is not cut.
    pub fn mend(&self, from: u8, to: u8) -> anyhow::Result<()> {
        ip(["-n", &self.space(from), "neigh", "del", &self.address(to).to_string(), "dev", "eth0"])
    }

    /// Cuts a host off from all others, in both directions.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn isolate(&self, host: u8) -> anyhow::Result<()> {
        self.others(host).try_for_each(|other| self.cut(host, other).and_then(|()| self.cut(other, host)))
    }

    /// Brings it back.
    ///
    /// # Errors
    /// When one of the ways is not cut.
    pub fn rejoin(&self, host: u8) -> anyhow::Result<()> {
        self.others(host).try_for_each(|other| self.mend(host, other).and_then(|()| self.mend(other, host)))
    }

    fn others(&self, host: u8) -> impl Iterator<Item = u8> {
        (1..=self.count).filter(move |other| *other != host)
    }

    fn address_of(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The namespace of the bridge.
    fn switch(&self) -> String {
        format!("{}-0", self.name)
    }

    /// The test's own end of its cable.
    fn gate(&self) -> String {
        format!("{}gt", self.name)
    }

    fn cable(&self, host: u8) -> String {
        format!("{}{host}", self.name)
    }

    fn space(&self, host: u8) -> String {
        format!("{}-{host}", self.name)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in 1..=self.count {
            // The cable goes with the namespace; each fails only when it was not made.
            let _ = ip(["netns", "del", &self.space(host)]);
        }
        let _ = ip(["link", "del", &self.gate()]);
        let _ = ip(["netns", "del", &self.switch()]);
    }
}

fn ip<const N: usize>(arguments: [&str; N]) -> anyhow::Result<()> {
    let done = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("cannot run ip of iproute2")?;
    ensure!(done.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does a packet go there and back within a second?
    fn reaches(hosts: &Hosts, from: u8, to: u8) -> bool {
        let port = 7_000 + u16::from(to);
        let text = format!(
            "import socket; s = socket.create_connection(('{}', {port}), 1); s.settimeout(1); assert s.recv(1)",
            hosts.address(to)
        );
        let mut python = hosts.command(from, Path::new("python3"));
        python.args(["-c", &text]).stderr(Stdio::null()).status().unwrap().success()
    }

    /// The same at last: a cable takes a moment to come up, and a busy machine takes longer.
    fn reaches_soon(hosts: &Hosts, from: u8, to: u8) -> bool {
        (0..20).any(|_| reaches(hosts, from, to))
    }

    fn greeter(hosts: &Hosts, host: u8) -> std::process::Child {
        let port = 7_000 + u16::from(host);
        let text = format!(
            "import socket\ns = socket.create_server(('', {port}))\nprint('up', flush=True)\nwhile True:\n c, _ = s.accept(); c.send(b'x')"
        );
        let mut python = hosts.command(host, Path::new("python3"));
        let mut child = python.args(["-c", &text]).stdout(Stdio::piped()).spawn().unwrap();
        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        child
    }

    #[test]
    fn a_way_that_is_cut_is_cut_until_it_is_mended() {
        if !Hosts::possible() {
            eprintln!("there are no network namespaces here: not shown");
            return;
        }
        let hosts = Hosts::new(3).unwrap();
        let mut greeters: Vec<_> = (1..=3).map(|host| greeter(&hosts, host)).collect();
        assert!(reaches_soon(&hosts, 1, 2) && reaches_soon(&hosts, 2, 1));
        hosts.isolate(1).unwrap();
        assert!(!reaches(&hosts, 1, 2) && !reaches(&hosts, 3, 1));
        assert!(reaches_soon(&hosts, 2, 3), "others are cut off as well");
        assert!(std::net::TcpStream::connect((hosts.address(1), 7_001)).is_ok(), "the test is cut off");
        hosts.rejoin(1).unwrap();
        assert!(reaches_soon(&hosts, 1, 2) && reaches_soon(&hosts, 2, 1));
        for greeter in &mut greeters {
            greeter.kill().unwrap();
            greeter.wait().unwrap();
        }
    }
}
