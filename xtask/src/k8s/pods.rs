//! A rendered file, carried out by this machine's Docker engine: a container stands in for each pod.
//!
//! What a file says is read strictly: a field that is not in the table of [`fields`] is refused, and so is another value of a
//! field of which only one is known. What a cluster does with a field and this does not is said, field by field.

pub(crate) mod controller;
mod engine;
mod fields;
mod kubelet;
mod nkey;
mod probe;
mod secrets;
mod service;
mod set;
mod volumes;

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use self::{controller::Stage, secrets::Secrets, set::Set};
use super::manifest::{self, Document};

/// How manifests name the servers' image.
const SERVERS: &str = "nats:";

/// What stands for the images that a rendered file names and no engine has.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// For our own.
    pub(crate) nodes: String,
    /// For that of the log's servers.
    pub(crate) servers: String,
}

impl Images {
    /// What stands for the image of that name.
    ///
    /// # Errors
    /// When nothing does.
    fn stands_for(&self, name: &str) -> anyhow::Result<&str> {
        match name {
            super::image::OURS => Ok(&self.nodes),
            name if name.starts_with(SERVERS) => Ok(&self.servers),
            name => bail!("nothing stands for the image {name}"),
        }
    }
}

/// A file, read.
#[derive(Debug)]
pub(crate) struct File {
    /// Its StatefulSets, in the order of the file: the log's servers, and the nodes.
    sets: Vec<Set>,
    namespace: String,
    /// The files of each of its settings.
    settings: BTreeMap<String, BTreeMap<String, String>>,
    /// The Secrets that its pods mount, with keys.
    secrets: Vec<(String, Vec<String>)>,
    /// What a cluster does with it, and nobody here.
    pub(crate) left: Vec<String>,
}

impl File {
    /// # Errors
    /// When it is no manifest, has an object or a field that is not known, or a value that cannot be carried out.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let documents = manifest::read(text)?;
        let left = fields::left(&documents)?;
        let namespace =
            documents.first().map(|document| document.namespace().to_owned()).context("the file is empty")?;
        let of_kind = |kind: &'static str| documents.iter().filter(move |document| document.kind() == kind);
        let settings = of_kind("ConfigMap").map(|map| (map.name().to_owned(), texts(map))).collect();
        let services = of_kind("Service").collect::<Vec<_>>();
        let sets: Vec<_> = of_kind("StatefulSet").map(|set| Set::read(set, &services)).collect::<Result<_, _>>()?;
        let mut secrets: Vec<_> = documents.iter().flat_map(Document::secrets).collect();
        secrets.sort();
        secrets.dedup();
        Ok(Self { sets, namespace, settings, secrets, left })
    }

    /// Draws its secrets and makes its network: nothing runs yet.
    ///
    /// # Errors
    /// When a tool is missing, or the engine refuses.
    pub(crate) fn stage(self, images: &Images) -> anyhow::Result<Stage> {
        let secrets = Secrets::draw(&self.secrets, &images.nodes)?;
        Stage::new(self, secrets)
    }

    fn set(&self, name: &str) -> anyhow::Result<&Set> {
        self.sets.iter().find(|set| set.name == name).with_context(|| format!("the file has no StatefulSet {name}"))
    }
}

/// The files of a ConfigMap.
fn texts(map: &Document) -> BTreeMap<String, String> {
    let files = map.at("/data").as_object().into_iter().flatten();
    files.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
}
