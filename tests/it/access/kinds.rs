//! Every operation, every scope, and every kind of credential: one that holds does what its scope says and nothing else,
//! and one that has ended does nothing.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};
use wasmwiz_events::time::{Clock as _, SystemClock};
use wasmwiz_tests::{
    client::Client,
    harness::{Launch, NodeProcess},
    python,
    tenants::{Key, OPERATOR_KEY, SCOPES, Tenant, issue, register},
    tls::Certificate,
    wait::{self, SOON},
};

use super::{OPERATOR, Operation, Setting, status_of};

/// A node that limits nobody's attempts: most of these credentials are refused.
const NODE: &str = "
    node.data_dir = \"{data}\"
    listen.api = \"127.0.0.1:0\"
    listen.admin = \"127.0.0.1:0\"
    shutdown.announce_ms = 0
    auth.operator_key = \"{operator}\"
    gateway.attempts.per_minute_of_address = 0
    gateway.attempts.per_minute_at_key = 0
";

/// How long an issuer may take to start: it makes keys.
const ISSUER_WITHIN: Duration = Duration::from_secs(60);

/// How long a key is good that is to expire, in milliseconds: until its token is given.
const EXPIRE_AFTER_MS: u64 = 5_000;

/// Algorithms that the issuer signs with.
const ALGORITHMS: [&str; 4] = ["RS256", "PS256", "ES256", "EdDSA"];

/// An issuer outside, in a process of its own.
struct Issuer {
    _child: Child,
    _folder: TempDir,
    /// Where it is, and its tokens.
    says: Value,
    /// The file of what signed its certificate.
    ca_file: String,
}

impl Issuer {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        Certificate::ONE.write(folder.path())?;
        let mut command = python::command()?;
        command.arg(python::root().join("tests/clients/issuer.py"));
        command.arg(folder.path().join("cert.pem")).arg(folder.path().join("key.pem")).args(SCOPES);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("no issuer")?;
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        tokio::time::timeout(ISSUER_WITHIN, stdout.read_line(&mut said)).await.context("no issuer in time")??;
        let says = serde_json::from_str(&said).with_context(|| format!("the issuer says {said:?}"))?;
        let ca_file = folder.path().join("cert.pem").to_string_lossy().into_owned();
        Ok(Self { _child: child, _folder: folder, says, ca_file })
    }

    fn token(&self, algorithm: &str, scope: &str) -> anyhow::Result<String> {
        let token = self.says["tokens"][algorithm][scope].as_str();
        Ok(token.with_context(|| format!("no token by {algorithm} for {scope}"))?.to_owned())
    }

    /// The node's settings for it: its subjects are this tenant's.
    fn settings(&self, tenant: &str) -> anyhow::Result<String> {
        let url = self.says["url"].as_str().context("no url")?;
        Ok(format!(
            "\n[[gateway.tokens.issuers]]\nname = \"corp\"\nissuer = \"{url}\"\naudience = \"wiz\"\ntenant = \
             \"{tenant}\"\nca_file = \"{}\"\n",
            self.ca_file
        ))
    }
}

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// It is let in for its scope.
    Key,
    /// The same, but it is no key, which is asked for where tokens are given.
    Token,
    /// It opens nothing any more.
    Ended,
    /// Its tenant may not act.
    Suspended,
}

/// One credential.
struct Credential {
    kind: String,
    scope: &'static str,
    text: String,
    holds: Holds,
}

async fn token_of(client: &Client, key: &Key) -> anyhow::Result<String> {
    let given = client.with_credential(&key.secret).post_json("/v1/tokens", &json!({})).await?.is(200)?;
    Ok(given["access_token"].as_str().context("no token")?.to_owned())
}

/// A key with its token, before anything ends them.
async fn pair(client: &Client, scope: &str) -> anyhow::Result<(Key, String)> {
    let key = issue(client, scope, &[scope]).await?;
    let token = token_of(client, &key).await?;
    Ok((key, token))
}

/// Every kind of credential for every scope; those of `gone` are of a tenant that is suspended afterwards.
async fn credentials(tenant: &Tenant, gone: &Tenant, issuer: &Issuer) -> anyhow::Result<Vec<Credential>> {
    let mut all = Vec::new();
    let mut add = |kind: &str, scope: &'static str, holds: Holds, text: String| {
        all.push(Credential { kind: kind.to_owned(), scope, text, holds });
    };
    let client = &tenant.client;
    for scope in SCOPES {
        let expires_at = SystemClock.now().plus_ms(EXPIRE_AFTER_MS).to_string();
        let body = json!({"name": scope, "scopes": [scope], "expires_at": expires_at});
        let answer = client.post_json("/v1/keys", &body).await?.is(201)?;
        let text = |member: &str| answer[member].as_str().context("no key").map(str::to_owned);
        let expiring = Key { id: text("id")?, secret: text("secret")? };
        add("a token of a key that has expired", scope, Holds::Ended, token_of(client, &expiring).await?);
        add("an expired key", scope, Holds::Ended, expiring.secret);
    }
    for scope in SCOPES {
        let (key, token) = pair(client, scope).await?;
        add("a key", scope, Holds::Key, key.secret);
        add("a token", scope, Holds::Token, token);
        for algorithm in ALGORITHMS {
            add(&format!("an issuer's token by {algorithm}"), scope, Holds::Token, issuer.token(algorithm, scope)?);
        }
        let (revoked, token) = pair(client, scope).await?;
        client.delete(&format!("/v1/keys/{}", revoked.id)).await?.is(204)?;
        add("a revoked key", scope, Holds::Ended, revoked.secret);
        add("a token of a revoked key", scope, Holds::Ended, token);
        let (rotated, token) = pair(client, scope).await?;
        client.post_json(&format!("/v1/keys/{}/rotate", rotated.id), &json!({"grace_seconds": 0})).await?.is(200)?;
        add("a secret that was rotated out", scope, Holds::Ended, rotated.secret);
        add("a token of a secret that was rotated out", scope, Holds::Ended, token);
        let (suspended, token) = pair(&gone.client, scope).await?;
        add("a key of a suspended tenant", scope, Holds::Suspended, suspended.secret);
        add("a token of a suspended tenant", scope, Holds::Suspended, token);
    }
    add("an issuer's expired token", SCOPES[0], Holds::Ended, issuer.says["expired"].as_str().context("none")?.into());
    Ok(all)
}

/// A node that believes the issuer, and the tenant of its subjects.
async fn believing(issuer: &Issuer) -> anyhow::Result<(NodeProcess, Tenant)> {
    let config = NODE.replace("{operator}", OPERATOR_KEY);
    let mut node = Launch::node(&config)?.start().await?;
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let tenant = register(&operator, "Acme", "enterprise").await?;
    // Only now it has an id for the settings.
    let data = node.data();
    let file = data.parent().context("the data folder has no parent")?.join("node.toml");
    let config = config.replace("{data}", &data.to_string_lossy());
    fs::write(file, config + &issuer.settings(&tenant.id)?)?;
    node.restart().await?;
    let tenant = Tenant { client: tenant.client.at(&node.ready().url), ..tenant };
    let token = issuer.token(ALGORITHMS[0], "modules:read")?;
    let subject = tenant.client.with_credential(&token);
    wait::until(
        "the issuer's keys",
        SOON,
        async || Ok((subject.get("/v1/modules").await?.status == 200).then_some(())),
    )
    .await
    .with_context(|| node.stderr())?;
    Ok((node, tenant))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_credential_does_what_its_scope_says_and_nothing_once_it_has_ended() -> anyhow::Result<()> {
    let issuer = Issuer::start().await?;
    let (node, tenant) = believing(&issuer).await?;
    let operator = Client::new(&node.ready().url, Some(OPERATOR_KEY))?;
    let Setting { _node, operations, names, .. } = Setting::with(node, operator.clone()).await?;
    let gone = register(&operator, "Gone", "enterprise").await?;
    let credentials = credentials(&tenant, &gone, &issuer).await?;
    operator.post_json(&format!("/v1/tenants/{}/suspend", gone.id), &json!({})).await?.is(200)?;
    let expired = credentials.iter().rfind(|credential| credential.kind == "an expired key").context("no such key")?;
    let expired = tenant.client.with_credential(&expired.text);
    wait::until("the keys expire", SOON, async || Ok((expired.get("/v1/modules").await?.status == 401).then_some(())))
        .await?;

    let (mut admitted, mut refused) = (0, 0);
    for operation in operations.iter().filter(|operation| operation.secured) {
        let Operation { id, scope: needed, also, .. } = operation;
        for Credential { kind, scope, text, holds } in &credentials {
            let client = tenant.client.with_credential(text);
            let request = operation.bare(&client, &names.nobody, &[])?;
            let what = || format!("{id} with {kind} for {scope}");
            let has_scope = needed.as_deref().is_none_or(|needed| needed == *scope) && also.is_none();
            match holds {
                Holds::Key | Holds::Token if has_scope && (needed.is_some() || *holds == Holds::Key) => {
                    let status = status_of(request).await?;
                    ensure!(status != 401 && status != 403, "{} answers {status}", what());
                    admitted += 1;
                    continue;
                }
                Holds::Token if needed.is_none() => client.send(request).await?.refuses(403, "key-required"),
                Holds::Key | Holds::Token => client.send(request).await?.refuses(403, "missing-scope"),
                Holds::Ended => client.send(request).await?.refuses(401, "unauthenticated"),
                Holds::Suspended => client.send(request).await?.refuses(403, "tenant-suspended"),
            }
            .with_context(what)?;
            refused += 1;
        }
    }
    ensure!(operations.iter().any(|operation| operation.scope.as_deref() == Some(OPERATOR)), "no operator's operation");
    println!("{} credentials at every operation: {admitted} requests admitted, {refused} refused", credentials.len());
    ensure!(admitted > SCOPES.len() && refused > 1_000, "{admitted} admitted, {refused} refused");
    Ok(())
}
