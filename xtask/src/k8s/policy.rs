//! What the rendered files must be, rule by rule: each is a name and a look at one object among all of its file.

mod environment;
mod network;
mod pods;
mod settings;

use serde_json::Value;

use super::manifest::Document;

pub(crate) use environment::{ENVIRONMENTS, Environment};

/// What is to be looked at: an environment's file, or that of the namespaces, and what is wrong with it.
pub(crate) type Findings = Vec<String>;

/// A rule about one object.
#[derive(Clone, Copy)]
struct Rule {
    /// What holds where it is kept.
    says: &'static str,
    /// Says where it is not.
    look: fn(&Document) -> Findings,
}

/// Rules of every file.
const EVERYWHERE: [Rule; 3] = [
    Rule { says: "no secret is committed", look: no_secret },
    Rule { says: "accounts have no token", look: no_token },
    Rule { says: "roles name what they may do", look: no_wildcard },
];

/// Where an environment's file is not what it has to be.
pub(crate) fn of_environment(environment: &Environment, documents: &[Document]) -> Findings {
    let rules = EVERYWHERE.iter().chain(&pods::RULES);
    let findings = rules.flat_map(|rule| kept(rule, documents)).chain(environment::findings(environment, documents));
    findings.chain(settings::findings(documents)).collect()
}

/// Where the file of the namespaces is not what it has to be.
pub(crate) fn of_namespaces(documents: &[Document]) -> Findings {
    let mut findings: Findings = EVERYWHERE.iter().flat_map(|rule| kept(rule, documents)).collect();
    for environment in &ENVIRONMENTS {
        findings.extend(network::findings(environment.namespace, documents));
    }
    findings
}

fn kept(rule: &Rule, documents: &[Document]) -> Findings {
    let broken = documents.iter().flat_map(|document| {
        let title = document.title();
        (rule.look)(document).into_iter().map(move |finding| format!("{title}: {finding}"))
    });
    broken.map(|finding| format!("{finding} ({})", rule.says)).collect()
}

/// What only a secret looks like: a private key, the seed of an nkey, an API key.
const SHAPES: [&str; 4] = ["PRIVATE KEY-----", "NKEY SEED", "password:", "ww_"];

fn no_secret(document: &Document) -> Findings {
    if document.kind() == "Secret" {
        return vec!["it is a Secret".to_owned()];
    }
    let data = document.at("/data").as_object();
    let texts = data.into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_str()?)));
    let shaped = texts.flat_map(|(key, text)| {
        SHAPES.iter().filter(|shape| text.contains(*shape)).map(move |shape| format!("{key} has {shape:?}"))
    });
    shaped.collect()
}

fn no_token(document: &Document) -> Findings {
    let has_none = document.at("/automountServiceAccountToken") == false;
    if document.kind() == "ServiceAccount" && !has_none { vec!["its token is mounted".to_owned()] } else { Vec::new() }
}

fn no_wildcard(document: &Document) -> Findings {
    if !["Role", "ClusterRole"].contains(&document.kind()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for rule in super::manifest::items(Some(document.at("/rules"))) {
        if rule.to_string().contains("\"*\"") {
            findings.push("it may do anything of something".to_owned());
        }
        let secrets = rule.pointer("/resources").is_some_and(|resources| resources.to_string().contains("\"secrets\""));
        if secrets && rule.get("resourceNames").is_none_or(Value::is_null) {
            findings.push("it may read any Secret".to_owned());
        }
    }
    findings
}

#[cfg(test)]
mod tests;
