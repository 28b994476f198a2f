//! The processes that are measured: a node, and the bare server.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

/// How long a process may take to serve.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A node, started as its users start it.
pub(crate) struct Node {
    child: Child,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) key: String,
}

impl Node {
    /// The `wasmwiz` that lies beside this program.
    pub(crate) fn program() -> anyhow::Result<PathBuf> {
        Ok(std::env::current_exe()?.with_file_name("wasmwiz"))
    }

    /// Starts `wasmwiz dev` from beside this program, on `data`.
    pub(crate) fn start(data: &Path) -> anyhow::Result<Self> {
        Self::start_of(&Self::program()?, data)
    }

    /// Starts this `program` instead.
    pub(crate) fn start_of(program: &Path, data: &Path) -> anyhow::Result<Self> {
        ensure!(program.exists(), "{} is missing; run `cargo build --release` first", program.display());
        let ready = data.with_extension("ready.json");
        let _ = std::fs::remove_file(&ready);
        let child = Command::new(program)
            .args(["dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--ready-file")
            .arg(&ready)
            .stdout(Stdio::null())
            .spawn()?;
        let mut node = Self { child, api: ([0; 4], 0).into(), admin: ([0; 4], 0).into(), key: String::new() };
        let begin = Instant::now();
        while !ready.exists() {
            if let Some(status) = node.child.try_wait()? {
                bail!("the node ended with {status}");
            }
            ensure!(begin.elapsed() < START_WITHIN, "the node did not serve within {START_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready)?)?;
        let address = |key: &str| -> anyhow::Result<SocketAddr> {
            let url = said[key].as_str().context("an address")?;
            Ok(url.trim_start_matches("http://").parse()?)
        };
        (node.api, node.admin) = (address("url")?, address("admin_url")?);
        node.key = said["api_key"].as_str().context("a key")?.to_owned();
        Ok(node)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads a resource of the tenant: the status, and the body. `headers` are whole lines.
    pub(crate) fn get(&self, path: &str, headers: &str) -> anyhow::Result<(u16, String)> {
        get(self.api, path, &format!("Authorization: Bearer {}\r\n{headers}", self.key))
    }

    /// Posts JSON as the tenant: the status, and the body.
    pub(crate) fn post(&self, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let (key, length) = (&self.key, body.len());
        let head =
            format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        ask(self.api, "POST", path, &head, body)
    }

    /// The node's metrics, without labels: series of one name are added up.
    pub(crate) fn metrics(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let (_, text) = get(self.admin, "/metrics", "")?;
        let mut metrics = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("wasmwiz_")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let name = series.split('{').next().unwrap_or(series);
            *metrics.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap_or_default();
        }
        Ok(metrics)
    }
}

fn get(address: SocketAddr, path: &str, headers: &str) -> anyhow::Result<(u16, String)> {
    ask(address, "GET", path, headers, "")
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: bench\r\n{headers}Connection: close\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bare server: this program again.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Bare {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).arg("--serve-bare").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse().context("the bare server prints its address")? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
