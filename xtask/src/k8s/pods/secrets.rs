//! The Secrets that the pods of a trial mount, drawn for it alone: as docs/operations.md says of those of an environment.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, bail};

use super::nkey;
use crate::{
    process::{command, read},
    workspace,
};

/// How many servers there are, whose names the certificate has.
const SERVERS: u32 = 3;

/// How often a node is asked whether it has printed the operator's key, and how long is waited between.
const ASKED: u32 = 240;
const BETWEEN: Duration = Duration::from_millis(500);

/// The values, by Secret and key.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl std::fmt::Debug for Secrets {
    /// Names them, and shows no value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Draws all that pods ask for.
    ///
    /// # Errors
    /// When one is asked for that is not known, or a tool is missing.
    pub(super) fn draw(wanted: &[(String, Vec<String>)], nodes: &str) -> anyhow::Result<Self> {
        let folder = Folder::make()?;
        let mut secrets = Self::default();
        secrets.keep("wasmwiz-auth", "operator-key", operator_key(nodes)?);
        secrets.keep("wasmwiz-auth", "pepper", read(command("openssl").args(["rand", "-hex", "32"]))?);
        secrets.keep("wasmwiz-token-keys", "001.pem", folder.made("001.pem", &["genpkey", "-algorithm", "ed25519"])?);
        let (seed, user) = folder.nkey()?;
        secrets.keep("wasmwiz-nats", "node.seed", seed);
        secrets.keep("nats-users", "nkeys.conf", format!("NODE_NKEY: {user}\n"));
        for (file, bytes) in folder.certificates()? {
            secrets.keep("nats-tls", file, bytes);
        }
        for (secret, keys) in wanted {
            let found = secrets.0.get(secret);
            let lacks = keys.iter().find(|key| found.is_none_or(|found| !found.contains_key(*key)));
            if found.is_none() || lacks.is_some() {
                bail!("nothing here draws the Secret {secret} {}", lacks.map_or("", String::as_str));
            }
        }
        Ok(secrets)
    }

    fn keep(&mut self, secret: &str, key: &str, value: impl Into<Vec<u8>>) {
        self.0.entry(secret.to_owned()).or_default().insert(key.to_owned(), value.into());
    }

    /// The keys of a Secret, with their values.
    pub(super) fn get(&self, secret: &str) -> anyhow::Result<&BTreeMap<String, Vec<u8>>> {
        self.0.get(secret).with_context(|| format!("there is no Secret {secret}"))
    }
}

/// The operator's key of a platform that has none: a node prints it at its first start.
fn operator_key(nodes: &str) -> anyhow::Result<Vec<u8>> {
    eprintln!("k8s: drawing the secrets; a node of {nodes} prints an operator's key");
    let container = read(command("docker").args(["run", "--detach", "--network", "none", nodes]))
        .with_context(|| format!("{nodes} does not start: `cargo xtask image` builds an image"))?;
    let mut found = None;
    for _ in 0..ASKED {
        let printed = read(command("docker").args(["logs", &container]))?;
        found = printed.split_whitespace().find(|word| word.starts_with("ww_")).map(str::to_owned);
        if found.is_some() {
            break;
        }
        sleep(BETWEEN);
    }
    read(command("docker").args(["rm", "--force", "--volumes", &container]))?;
    found.map(String::into_bytes).with_context(|| format!("a node of {nodes} prints no operator's key"))
}

/// Where they are drawn, for its owner alone. It goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Self> {
        let folder = workspace::root().join(format!("target/k8s/secrets-{}", std::process::id()));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn openssl(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut openssl = command("openssl");
        read(openssl.current_dir(&self.0).args(words)).map(|_| ()).context("openssl is needed to draw keys")
    }

    fn file(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        fs::read(self.0.join(name)).with_context(|| format!("openssl has written no {name}"))
    }

    /// What openssl writes by these words.
    fn made(&self, name: &str, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        self.openssl(&[words, &["-out", name]].concat())?;
        self.file(name)
    }

    /// A seed, and the public half.
    fn nkey(&self) -> anyhow::Result<(String, String)> {
        let private = self.made("nkey", &["genpkey", "-algorithm", "ed25519", "-outform", "DER"])?;
        let public = self.made("nkey.pub", &["pkey", "-in", "nkey", "-inform", "DER", "-pubout", "-outform", "DER"])?;
        // Both encodings end with the 32 bytes of the key.
        let last = |bytes: &[u8]| bytes.last_chunk::<32>().copied().context("openssl has drawn no Ed25519 key");
        Ok((nkey::seed_of_user(&last(&private)?), nkey::user(&last(&public)?)))
    }

    /// An authority, and a certificate of the servers.
    fn certificates(&self) -> anyhow::Result<[(&'static str, Vec<u8>); 3]> {
        let names: Vec<_> = (0..SERVERS).map(|number| format!("DNS:nats-{number}.nats")).collect();
        let uses = format!(
            "subjectAltName={}\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n",
            names.join(",")
        );
        fs::write(self.0.join("uses"), uses).context("cannot write what a certificate is for")?;
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let authority =
            ["req", "-x509", "-days", "2", "-subj", "/CN=wasmwiz nats", "-keyout", "ca.key", "-out", "ca.crt"];
        self.openssl(&[&authority[..], &key].concat())?;
        let request = ["req", "-subj", "/CN=nats", "-keyout", "tls.key", "-out", "tls.csr"];
        self.openssl(&[&request[..], &key].concat())?;
        let by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "uses", "-days", "2"];
        self.openssl(&[&["x509", "-req", "-in", "tls.csr", "-out", "tls.crt"][..], &by].concat())?;
        let file = |name: &'static str| self.file(name).map(|bytes| (name, bytes));
        Ok([file("ca.crt")?, file("tls.crt")?, file("tls.key")?])
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to be done about it, and no reason to fail: the folder is its owner's.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_named_and_never_shown() {
        let mut secrets = Secrets::default();
        secrets.keep("a", "b", "hidden");
        assert_eq!(format!("{secrets:?}"), r#"{"a"}"#);
        assert_eq!(secrets.get("a").unwrap()["b"], b"hidden");
        assert!(secrets.get("b").is_err());
    }
}
