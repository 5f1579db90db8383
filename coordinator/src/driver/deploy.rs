//! From a deployment file to a deployment: read, resolved at its feeds, planned for the nodes of the moment, signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use shoal_node::store::Store;
use shoal_proto::codec;
use shoal_proto::content::Layout;
use shoal_proto::coordinator::{Created, Input};
use shoal_proto::id::PlanHash;
use shoal_proto::limits::VARIABLE_BYTES_MAX;
use shoal_proto::manifest::{Manifest, Package, Signed};
use shoal_proto::rollout::Options;
use shoal_proto::rollout::back::Back;
use shoal_proto::rollout::basis::plan_hash;
use shoal_proto::rollout::join::Joins;
use shoal_proto::rollout::plan::{self, NodeFacts};
use shoal_proto::rollout::spec::{DeploymentSpec, SourceSpec};
use shoal_proto::rollout::variables::{Settled, settle};

use tracing::info;

use super::acts::done;
use super::carry::SOURCES_BYTES_MAX;
use super::scripts::check_templates;
use super::{Event, ServeError, Server};
use crate::api::command::Reply;
use crate::api::types::{Act, DeployRequest, Deployment, Plan};
use crate::api::{ApiError, ErrorCode};
use crate::catalog::{Catalog, CatalogError};
use crate::feeds::{FeedError, Feeds, Place, Reference, Resolved};
use crate::spec_file;
use crate::trail::By;

/// What resolving a deployment file came to.
pub(super) struct Resolution {
    request: DeployRequest,
    result: Result<Read, ApiError>,
    want: Want,
}

/// What is wanted of a deployment file.
pub(super) enum Want {
    /// To know what it would do.
    Plan(Reply<Box<Plan>>),
    /// That it is done.
    Deploy(By, Reply<Deployment>),
}

/// A deployment file, and what it names.
struct Read {
    spec: DeploymentSpec,
    packages: Vec<Found>,
    /// The texts of the files that variables name.
    files: BTreeMap<String, String>,
}

/// A package of the file.
struct Found {
    package: Package,
    resolved: Resolved,
    block_bytes: Vec<u32>,
}

/// A deployment that could begin.
pub(super) struct Planned {
    pub(super) manifest: Manifest,
    pub(super) created: Created,
    pub(super) hash: PlanHash,
    secrets: Vec<String>,
}

impl Server {
    /// Resolves a deployment file in a task; [`Self::on_resolved`] goes on.
    pub(super) fn resolve(&self, request: DeployRequest, want: Want) {
        let (feeds, catalog, store) = (Arc::clone(&self.feeds), self.catalog.clone(), self.store.clone());
        let events = self.events_sender.clone();
        tokio::spawn(async move {
            let result = resolve(&request, &feeds, &catalog, &store).await;
            let _ = events.send(Event::Resolved(Box::new(Resolution { request, result, want }))).await;
        });
    }

    pub(super) async fn on_resolved(&mut self, resolution: Resolution) -> Result<(), ServeError> {
        let Resolution { request, result, want } = resolution;
        let planned = result.and_then(|read| self.plan(&request, read));
        // The operator's client may be gone.
        match (want, planned) {
            (Want::Plan(reply), Ok(planned)) => self.show_plan(&request, &planned, reply),
            (Want::Plan(reply), Err(error)) => drop(reply.send(Err(error))),
            (Want::Deploy(by, reply), Ok(planned)) => {
                let act = of_plan(&request, &planned);
                let id = planned.manifest.deployment;
                let answer = self.begin(&request, planned);
                let began = answer.as_ref().is_ok_and(|begun| begun.is_none()).then(|| id.to_string());
                let answer = match answer {
                    Ok(begun) => begun.or_else(|| self.deployment(id)).ok_or_else(lost),
                    Err(error) => Err(error),
                };
                self.conclude(by, Act { deployment: began, ..act }, answer, reply).await?;
            }
            (Want::Deploy(by, reply), Err(error)) => {
                let act = done(command(&request), request.file.clone());
                self.conclude(by, act, Err(error), reply).await?;
            }
        }
        Ok(())
    }

    /// Begins a deployment, unless it is not the one that was planned, nothing is to be done (the answer is then what did
    /// it), or another has its nodes.
    fn begin(&mut self, request: &DeployRequest, planned: Planned) -> Result<Option<Deployment>, ApiError> {
        let Planned { manifest, created, hash, secrets } = &planned;
        if let Some(plan) = request.plan.as_ref().filter(|plan| plan.hash != *hash) {
            return Err(self.moved(request, plan, &planned));
        }
        let since = self.core.as_wanted(manifest, created).filter(|_| !request.again);
        if let Some(since) = since {
            let before = self.deployment(since).ok_or_else(lost)?;
            return Ok(Some(Deployment { unchanged: true, ..before }));
        }
        if let Some(held) = self.core.holder(&manifest.name, &manifest.targets()) {
            let by = held.by;
            let next =
                format!("`--wait` begins when {by} is over; `shoal watch {by}` shows it, `shoal cancel {by}` ends it");
            let error = ApiError::new(ErrorCode::Blocked, format!("not deployed: {held}")).next(next);
            return Err(ApiError { held: Some(by.to_string()), ..error });
        }
        if let Some(apart) = self.never_together(manifest, created) {
            let next = "give them a window in common, have sites go on by themselves with waves that are `per: site`, or go past \
                        the hours: `--override-window REASON`";
            return Err(ApiError::new(ErrorCode::Blocked, format!("not deployed: {apart}")).next(next));
        }
        let kept = tokio::task::block_in_place(|| self.secrets.keep(manifest.deployment, secrets));
        kept.map_err(|error| {
            ApiError::new(ErrorCode::Failed, format!("cannot keep the deployment's secrets: {error}"))
        })?;
        self.handle(Input::Create(Box::new(planned.created)));
        Ok(None)
    }

    fn plan(&self, request: &DeployRequest, read: Read) -> Result<Planned, ApiError> {
        let Read { spec, packages: found, files } = read;
        let wrong =
            |error: &dyn std::error::Error| ApiError::new(ErrorCode::BadRequest, format!("{}: {error}", request.file));
        let id = self.core.next_deployment();
        let nodes = self.node_facts();
        let packages: Vec<Package> = found.iter().map(|found| found.package.clone()).collect();
        let manifest = plan::resolve(&spec, id, self.node_id(), &nodes, &packages).map_err(|error| wrong(&error))?;
        let targets = manifest.targets();
        let meant: Vec<&NodeFacts> = nodes.iter().filter(|node| targets.contains(&node.id)).collect();
        let Settled { mut variables, secrets } =
            settle(&spec.variables, &request.variables, &files, &meant).map_err(|error| wrong(&error))?;
        variables.prints = secrets.iter().map(|secret| self.secrets.print(secret)).collect();
        let back = Back::resolve(&spec, &manifest).map_err(|error| wrong(&error))?;
        check_templates(&manifest, &back, &variables, &secrets).map_err(|error| wrong(&error))?;
        let joins = Joins::resolve(&spec, &manifest);
        // The plan may order packages otherwise than the file.
        let by_name: BTreeMap<_, _> = found.iter().map(|found| (&found.package.name, found)).collect();
        let in_order = || manifest.packages.iter().filter_map(|package| by_name.get(&package.name));
        let sources: Vec<&Resolved> = in_order().map(|found| &found.resolved).collect();
        let sources = codec::encode(&sources, SOURCES_BYTES_MAX).map_err(|error| wrong(&error))?;
        let blocks = in_order().map(|found| found.block_bytes.clone()).collect();
        let signed = Signed::seal(&manifest, |bytes| self.identity.sign(bytes)).map_err(|error| wrong(&error))?;
        let when = self.when(request, &spec)?;
        let options = Options { when, ..Options::for_targets(&manifest, &nodes, request.stage_only) };
        let sites = plan::sites(&manifest, &nodes);
        let hash = plan_hash(&manifest, &options, &sites, &variables, &back);
        Ok(Planned {
            created: Created { signed, options, sites, blocks, sources, variables, back, joins },
            manifest,
            hash,
            secrets,
        })
    }

    fn node_facts(&self) -> Vec<NodeFacts> {
        self.core.directory().members().map(|member| NodeFacts::of(&member.membership)).collect()
    }
}

pub(super) fn lost() -> ApiError {
    ApiError::new(ErrorCode::Failed, "the deployment did not start")
}

fn command(request: &DeployRequest) -> &'static str {
    if request.stage_only { "stage" } else { "deploy" }
}

/// What is written down of an operator who wants a plan carried out.
fn of_plan(request: &DeployRequest, planned: &Planned) -> Act {
    let Planned { manifest, hash, .. } = planned;
    let past = request.override_window.as_ref().map(|why| format!(", past windows and freezes: {why}"));
    let what = format!("{} {} from {}{}", manifest.name, manifest.release, request.file, past.unwrap_or_default());
    Act { plan: Some(hash.to_string()), ..done(command(request), what) }
}

async fn resolve(request: &DeployRequest, feeds: &Feeds, catalog: &Catalog, store: &Store) -> Result<Read, ApiError> {
    let spec = spec_file::parse(&request.text, Path::new(&request.file))
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    let mut found = Vec::new();
    for (name, package) in &spec.packages {
        let reference = Reference::of_spec(name, package).map_err(feed_error)?;
        let resolved = feeds.resolve(&reference).await.map_err(feed_error)?;
        let own = spec.acquire.source == SourceSpec::Coordinator || matches!(resolved.place, Place::Folder(_));
        let keep = own.then_some(store);
        let entry = catalog.entry(feeds, &resolved, package.blake3, keep).await.map_err(catalog_error)?;
        let recipe = catalog.recipe(entry.outline.recipe).map_err(catalog_error)?;
        let layout = Layout::of_recipe(&recipe);
        let bytes = |block| u32::try_from(layout.block_bytes(block)).unwrap_or(u32::MAX);
        let block_bytes = layout.blocks().map(bytes).collect();
        let (reference, id, size) = (entry.description.clone(), entry.package, entry.size);
        info!(package = %name, %reference, blake3 = %id, "a package was resolved");
        let package = Package { name: name.clone(), reference, id, size, recipe: entry.outline };
        found.push(Found { package, resolved, block_bytes });
    }
    let files = tokio::task::block_in_place(|| read_values(&spec))?;
    Ok(Read { spec, packages: found, files })
}

/// The files that variables name, each without the line end that editors put at its end.
fn read_values(spec: &DeploymentSpec) -> Result<BTreeMap<String, String>, ApiError> {
    let paths: BTreeSet<&String> = spec.variables.iter().filter_map(|spec| spec.value_file.as_ref()).collect();
    let read = |path: &String| {
        let mut text = String::new();
        let file = File::open(path)?;
        file.take(VARIABLE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        let len = text.strip_suffix('\n').map_or(text.len(), |text| text.strip_suffix('\r').unwrap_or(text).len());
        text.truncate(len);
        Ok((path.clone(), text))
    };
    let wrong = |path: &String, error: std::io::Error| {
        ApiError::new(ErrorCode::BadRequest, format!("`value_file: {path}` cannot be read: {error}"))
            .next("it is a file of the coordinator's machine, which its user can read")
    };
    paths.into_iter().map(|path| read(path).map_err(|error| wrong(path, error))).collect()
}

pub(super) fn feed_error(error: FeedError) -> ApiError {
    let code = match error {
        // The deployment file asks for what there is not.
        FeedError::Reference { .. }
        | FeedError::UnknownFeed { .. }
        | FeedError::Impossible { .. }
        | FeedError::NoPackage { .. }
        | FeedError::NoVersion { .. } => ErrorCode::BadRequest,
        _ => ErrorCode::Failed,
    };
    ApiError::new(code, error.to_string())
}

pub(super) fn catalog_error(error: CatalogError) -> ApiError {
    let code = match error {
        CatalogError::WrongHash { .. } => ErrorCode::Integrity,
        CatalogError::Recipe(_) => ErrorCode::BadRequest,
        _ => ErrorCode::Failed,
    };
    ApiError::new(code, error.to_string())
}
