//! What the rendered files must be, rule by rule: each is a name and a look at one object among all of its file.

mod environment;
mod network;
mod pods;
mod settings;

use serde_json::Value;

use super::manifest::{Document, at, items};

pub(crate) use environment::{COPIES_WITHIN, ENVIRONMENTS, Environment};
pub(crate) use settings::lines_in_blocks;

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
    findings.extend(subjects_of_two(documents));
    findings
}

/// Whoever has rights in two namespaces: a credential of one environment must not be one of another.
fn subjects_of_two(documents: &[Document]) -> Findings {
    let bindings = documents.iter().filter(|document| document.kind() == "RoleBinding");
    let mut subjects: Vec<_> = bindings
        .flat_map(|binding| {
            items(Some(binding.at("/subjects"))).map(move |subject| (subject_of(binding, subject), binding))
        })
        .collect();
    subjects.sort_by(|one, other| one.0.cmp(&other.0));
    let pairs = subjects.iter().zip(subjects.iter().skip(1));
    let said = pairs.filter_map(|((subject, one), (same, other))| {
        let (one, other) = (one.namespace(), other.namespace());
        (subject == same && one != other).then(|| format!("{subject} has rights in {one} and in {other}"))
    });
    said.collect()
}

/// An account is one of its namespace; a group and a user are the same everywhere.
fn subject_of(binding: &Document, subject: &Value) -> String {
    let kind = at(subject, "/kind").as_str().unwrap_or_default();
    let name = at(subject, "/name").as_str().unwrap_or_default();
    match kind {
        "ServiceAccount" => {
            let namespace = at(subject, "/namespace").as_str().unwrap_or_else(|| binding.namespace());
            format!("{kind} {namespace}/{name}")
        }
        _ => format!("{kind} {name}"),
    }
}

fn kept(rule: &Rule, documents: &[Document]) -> Findings {
    let broken = documents.iter().flat_map(|document| {
        let title = document.title();
        (rule.look)(document).into_iter().map(move |finding| format!("{title}: {finding}"))
    });
    broken.map(|finding| format!("{finding} ({})", rule.says)).collect()
}

/// What only a secret looks like: a private key, a file of an nkey, an API key.
const SHAPES: [&str; 4] = ["PRIVATE KEY-----", "NKEY SEED", "password:", "ww_"];

fn no_secret(document: &Document) -> Findings {
    if document.kind() == "Secret" {
        return vec!["it is a Secret".to_owned()];
    }
    let data = document.at("/data").as_object();
    let files = data.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    let variables = document.containers().flat_map(|container| items(container.get("env")));
    let variables =
        variables.filter_map(|variable| Some((at(variable, "/name").as_str()?, at(variable, "/value").as_str()?)));
    let mut findings = Vec::new();
    for (name, text) in files.chain(variables) {
        findings
            .extend(SHAPES.iter().filter(|shape| text.contains(*shape)).map(|shape| format!("{name} has {shape:?}")));
        if text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(is_seed) {
            findings.push(format!("{name} has the seed of an nkey"));
        }
    }
    findings
}

/// A seed is 58 letters of base 32: an `S`, the kind of its key, and the rest.
fn is_seed(word: &str) -> bool {
    let kind = word.strip_prefix('S').is_some_and(|rest| rest.starts_with(['U', 'A', 'N', 'O', 'C', 'X']));
    kind && word.len() == 58 && word.bytes().all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte))
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
    for rule in items(Some(document.at("/rules"))) {
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
