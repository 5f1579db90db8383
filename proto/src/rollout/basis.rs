//! What a plan stands on, and what moved since it was made.
//!
//! A plan's hash is over all that it settles: the manifest but for its number, the nodes' names and sites, and whether it
//! only stages. Where the hash is the same, the same is done. Where it is not, [`moved`] says why, as far as people can
//! see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Options;
use super::back::Back;
use super::variables::Variables;
use crate::codec;
use crate::id::{DeploymentId, FileHash, Name, NodeId, PackageId, PlanHash, ValuesHash};
use crate::limits::{MANIFEST_BYTES_MAX, RECORD_BYTES_MAX};
use crate::manifest::Manifest;

/// Which plan it is that `manifest` carries out: the number of the deployment is no part of it.
pub fn plan_hash(
    manifest: &Manifest,
    options: &Options,
    sites: &BTreeMap<NodeId, Name>,
    variables: &Variables,
    back: &Back,
) -> PlanHash {
    let numberless = Manifest { deployment: DeploymentId(0), ..manifest.clone() };
    let manifest = codec::encode(&numberless, MANIFEST_BYTES_MAX).expect("a manifest that was made fits");
    let mut hasher = blake3::Hasher::new_derive_key("shoal plan v1");
    hasher.update(&manifest).update(&[u8::from(options.stage_only)]);
    for (node, site) in sites {
        let name = options.names.get(node).map(Name::as_str).unwrap_or_default();
        // A name holds no line end.
        hasher.update(&node.0).update(name.as_bytes()).update(b"\n").update(site.as_str().as_bytes()).update(b"\n");
    }
    hasher.update(&variables_hash(variables).0);
    let back = codec::encode(back, MANIFEST_BYTES_MAX).expect("it was made from a file that gave a manifest");
    hasher.update(&back);
    PlanHash(*hasher.finalize().as_bytes())
}

/// Which plan several are that are carried out together, in this order.
pub fn joint_hash(plans: impl IntoIterator<Item = PlanHash>) -> PlanHash {
    let mut hasher = blake3::Hasher::new_derive_key("shoal plans v1");
    for plan in plans {
        hasher.update(&plan.0);
    }
    PlanHash(*hasher.finalize().as_bytes())
}

/// What the variables of a deployment come to. Secrets are in it by what stands for them.
pub fn variables_hash(variables: &Variables) -> ValuesHash {
    let bytes = codec::encode(variables, RECORD_BYTES_MAX).expect("variables that were settled fit");
    ValuesHash(*blake3::Hasher::new_derive_key("shoal variables v1").update(&bytes).finalize().as_bytes())
}

/// What a plan was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The deployment file.
    pub file: FileHash,
    /// Its variables.
    pub variables: ValuesHash,
    /// What its packages resolved to.
    pub packages: BTreeMap<Name, PackageId>,
    /// The nodes that it means.
    pub nodes: BTreeMap<Name, Target>,
}

/// A node that a plan means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its key: a machine that was set up anew has another one.
    pub node: NodeId,
    /// Its site.
    pub site: Name,
    /// The packages that it gets.
    pub packages: BTreeSet<Name>,
}

/// One thing that is not as it was when a plan was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The deployment file has another text.
    File,
    /// A variable has another value.
    Variables,
    /// A package resolves to other bytes.
    Package {
        /// Which package.
        name: Name,
        /// What it was.
        from: PackageId,
        /// What it is.
        to: PackageId,
    },
    /// A node is meant that was not.
    Joined {
        /// Which node.
        name: Name,
        /// Its site.
        site: Name,
    },
    /// A node is meant no more.
    Left {
        /// Which node.
        name: Name,
    },
    /// Another machine has a node's name.
    Replaced {
        /// Which node.
        name: Name,
    },
    /// A node is in another site.
    Site {
        /// Which node.
        name: Name,
        /// Where it was.
        from: Name,
        /// Where it is.
        to: Name,
    },
    /// A node gets other packages.
    Gets {
        /// Which node.
        name: Name,
    },
}

/// What is different in `now` from what it was `then`, in the order of the file.
pub fn moved(then: &Basis, now: &Basis) -> Vec<Moved> {
    let file = (then.file != now.file).then_some(Moved::File);
    // Other nodes have other values, as a matter of course.
    let variables = (then.variables != now.variables && then.nodes == now.nodes).then_some(Moved::Variables);
    let packages = now.packages.iter().filter_map(|(name, to)| {
        let from = then.packages.get(name).filter(|from| *from != to)?;
        Some(Moved::Package { name: name.clone(), from: *from, to: *to })
    });
    let left = then.nodes.keys().filter(|name| !now.nodes.contains_key(*name));
    let left = left.map(|name| Moved::Left { name: name.clone() });
    let others = now.nodes.iter().filter_map(|(name, to)| changed(name, then.nodes.get(name), to));
    file.into_iter().chain(variables).chain(packages).chain(left).chain(others).collect()
}

fn changed(name: &Name, from: Option<&Target>, to: &Target) -> Option<Moved> {
    let name = name.clone();
    match from {
        None => Some(Moved::Joined { name, site: to.site.clone() }),
        Some(from) if from.node != to.node => Some(Moved::Replaced { name }),
        Some(from) if from.site != to.site => Some(Moved::Site { name, from: from.site.clone(), to: to.site.clone() }),
        Some(from) if from.packages != to.packages => Some(Moved::Gets { name }),
        Some(_) => None,
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => write!(f, "the deployment file was changed"),
            Self::Variables => write!(f, "a variable has another value, given with `-V` or read from a file"),
            Self::Package { name, from, to } => {
                write!(f, "package `{name}` resolves to {} and no longer to {}", to.short(), from.short())
            }
            Self::Joined { name, site } => write!(f, "node `{name}` of site `{site}` is meant as well"),
            Self::Left { name } => write!(f, "node `{name}` is not meant any more"),
            Self::Replaced { name } => write!(f, "another machine is node `{name}`"),
            Self::Site { name, from, to } => write!(f, "node `{name}` is in site `{to}` and no longer in `{from}`"),
            Self::Gets { name } => write!(f, "node `{name}` gets other packages"),
        }
    }
}
