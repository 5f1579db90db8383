//! What a deployment would do, shown before it begins: what moves from where, how long that takes, and what is in its way.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::content::Layout;
use shoal_proto::coordinator::{Created, SiteView};
use shoal_proto::id::{Name, NodeId, PackageId, PackageIndex, SegmentHash};
use shoal_proto::limits::PLAN_RECIPES_MAX;
use shoal_proto::manifest::{Manifest, On, Package, Wave};
use shoal_proto::rollout::basis::{moved, variables_hash};
use shoal_proto::rollout::forecast::{Lacked, SiteForecast, forecast, lacking};
use shoal_proto::wire::Inventory;
use tracing::warn;

use super::Server;
use super::deploy::Planned;
use crate::api::command::Reply;
use crate::api::types::{
    DeployRequest, Plan, PlanSchema, PlannedNode, PlannedPackage, PlannedSite, PlannedStep, PlannedWave, RateFrom,
    StepPhase,
};
use crate::api::{ApiError, ErrorCode};
use crate::catalog::{Catalog, CatalogEntry};
use crate::cli::units;

/// Nodes that one blocker names; how many there are beside them is said.
const NODES_NAMED_MAX: usize = 10;

/// Deployments that are looked through for how fast a site's WAN was.
const MEASURED_LOOKED_AT_MAX: usize = 10;

/// Bytes over a WAN from which its rate is learnt: less is mostly round trips.
const MEASURED_BYTES_MIN: u64 = 1_000_000;

/// Why a plan does not hold is said in so many points at most.
const MOVED_SHOWN_MAX: usize = 20;

impl Server {
    /// Answers what `planned` would do. What caches lack is reckoned in a task, from recipes on the disk.
    pub(super) fn show_plan(&self, request: &DeployRequest, planned: &Planned, reply: Reply<Box<Plan>>) {
        let plan = self.document(request, planned);
        let (manifest, sites, blocks) =
            (planned.manifest.clone(), planned.created.sites.clone(), planned.created.blocks.clone());
        let moves = self.moves(manifest, sites, blocks);
        tokio::task::spawn_blocking(move || {
            let sites = moves.sites();
            let estimate_ms = sites.iter().map(|site| site.estimate_ms).collect::<Option<Vec<_>>>();
            let estimate_ms = estimate_ms.and_then(|sites| sites.into_iter().max());
            // The operator's client may be gone.
            let _ = reply.send(Ok(Box::new(Plan { sites, estimate_ms, ..plan })));
        });
    }

    /// What would move for `manifest`; to be asked in a task.
    pub(super) fn moves(&self, manifest: Manifest, sites: BTreeMap<NodeId, Name>, blocks: Vec<Vec<u32>>) -> Moves {
        let (caches, cache_of) = self.caches(&manifest);
        let rates = self.rates(&sites);
        Moves { catalog: self.catalog.clone(), manifest, sites, blocks, caches, cache_of, rates }
    }

    fn rates(&self, sites: &BTreeMap<NodeId, Name>) -> BTreeMap<Name, (u64, RateFrom)> {
        sites.values().collect::<BTreeSet<_>>().into_iter().filter_map(|site| self.rate(site)).collect()
    }

    /// Why a deployment is not the one that was planned.
    pub(super) fn moved(&self, request: &DeployRequest, plan: &Plan, planned: &Planned) -> ApiError {
        let found = moved(&plan.basis(), &self.document(request, planned).basis());
        let mut lines: Vec<String> = found.iter().take(MOVED_SHOWN_MAX).map(ToString::to_string).collect();
        match found.len().saturating_sub(MOVED_SHOWN_MAX) {
            0 if plan.stage_only != request.stage_only => {
                lines.push("`--stage-only` was given for one of them".to_owned())
            }
            0 if lines.is_empty() => {
                lines.push("it was made by another coordinator, or its file was edited".to_owned())
            }
            0 => {}
            more => lines.push(format!("and {more} more")),
        }
        let message =
            format!("not deployed: plan {} does not hold any more:\n  {}", plan.hash.short(), lines.join("\n  "));
        ApiError::new(ErrorCode::Blocked, message).next("look at what it would do by now: `shoal plan`")
    }

    /// The plan without its figures.
    fn document(&self, request: &DeployRequest, planned: &Planned) -> Plan {
        let Planned { manifest, created, hash, .. } = planned;
        let since = self.core.as_wanted(manifest, created);
        Plan {
            schema: PlanSchema::V1,
            hash: *hash,
            file: request.file.clone(),
            file_hash: shoal_proto::id::FileHash::of(&request.text),
            variables_hash: variables_hash(&created.variables),
            name: manifest.name.clone(),
            release: manifest.release.clone(),
            stage_only: request.stage_only,
            packages: manifest.packages.iter().map(package).collect(),
            nodes: self.targets(planned),
            sites: Vec::new(),
            waves: manifest.waves.iter().map(wave).collect(),
            steps: steps(manifest),
            gate: gate(manifest) + &self.describe_when(created.options.when),
            estimate_ms: None,
            blockers: self.blockers(manifest, created),
            as_wanted_since: since.map(|id| id.to_string()),
        }
    }

    fn targets(&self, planned: &Planned) -> Vec<PlannedNode> {
        let Planned { manifest, created, .. } = planned;
        let waves = waves(manifest);
        let node = |(node, site): (&NodeId, &Name)| PlannedNode {
            name: created.options.names.get(node).cloned().unwrap_or_else(|| site.clone()),
            site: site.clone(),
            id: *node,
            packages: manifest.packages_of(*node).map(|(_, package)| package.name.clone()).collect(),
            wave: waves.get(node).map(|name| (*name).clone()),
            online: self.is_online(*node),
        };
        let mut nodes: Vec<_> = created.sites.iter().map(node).collect();
        nodes.sort_by(|a, b| (&a.site, &a.name).cmp(&(&b.site, &b.name)));
        nodes
    }

    pub(super) fn is_online(&self, node: NodeId) -> bool {
        self.core.directory().member(node).is_some_and(|member| member.online.is_some())
    }

    /// The distinct caches of target nodes, and which one each node has that has said so.
    fn caches(&self, manifest: &Manifest) -> (Vec<BTreeSet<PackageId>>, BTreeMap<NodeId, usize>) {
        let mut known = BTreeMap::<BTreeSet<PackageId>, usize>::new();
        let mut cache_of = BTreeMap::new();
        for node in manifest.targets() {
            let Some(inventory) = self.core.inventory(node) else { continue };
            let number = known.len();
            let cache = inventory.packages.iter().copied().collect();
            cache_of.insert(node, *known.entry(cache).or_insert(number));
        }
        let mut caches: Vec<_> = known.into_iter().collect();
        caches.sort_by_key(|(_, number)| *number);
        (caches.into_iter().map(|(cache, _)| cache).collect(), cache_of)
    }

    /// How fast a site's WAN is thought to be: its limit at this hour, or else what the last deployment there read at.
    fn rate(&self, site: &Name) -> Option<(Name, (u64, RateFrom))> {
        let limit = self.limit(site, self.now().wall).0.map(|limit| (limit, RateFrom::Limit));
        let newest = self.core.deployments().collect::<Vec<_>>().into_iter().rev().take(MEASURED_LOOKED_AT_MAX);
        let mut views = newest.filter_map(|id| self.core.view(id, self.now().time)).flat_map(|view| view.sites);
        let measured = || {
            let rate = |view: &SiteView| {
                let took_ms = view.acquire_ms.filter(|took_ms| *took_ms > 0)?;
                let enough = view.site == *site && view.wan.read_bytes >= MEASURED_BYTES_MIN;
                enough.then(|| view.wan.read_bytes.saturating_mul(1000) / took_ms)
            };
            views.find_map(|view| rate(&view)).map(|rate| (rate, RateFrom::Measured))
        };
        limit.or_else(measured).filter(|(rate, _)| *rate > 0).map(|rate| (site.clone(), rate))
    }

    /// What would keep a deployment from beginning or from going on, as far as it can be known.
    fn blockers(&self, manifest: &Manifest, created: &Created) -> Vec<String> {
        let targets = manifest.targets();
        let offline: Vec<_> =
            targets.iter().filter(|node| !self.is_online(**node)).map(|n| self.node_name(*n)).collect();
        let offline = match offline.len() {
            0 => None,
            1 => Some(format!("{} is offline", offline[0])),
            count => Some(format!("{count} nodes are offline: {}", named(&offline))),
        };
        let held = self.core.holder(&manifest.name, &targets).map(|held| held.to_string());
        let full = targets.iter().filter_map(|node| {
            let Inventory { packages, free_bytes, .. } = self.core.inventory(*node)?;
            let lacks = manifest.packages_of(*node).filter(|(_, package)| !packages.contains(&package.id));
            let needs: u64 = lacks.map(|(_, package)| package.size).sum();
            let free = free_bytes.filter(|free| *free < needs)?;
            Some(format!("{} ({} of {})", self.node_name(*node), units::bytes(free), units::bytes(needs)))
        });
        let full: Vec<_> = full.collect();
        let full = (!full.is_empty()).then(|| format!("too little room on the disk of {}", named(&full)));
        let own = |site: &Name| created.sites.values().any(|of| of == site);
        let free = created.options.stage_only || created.options.when.any_hour;
        let shut = self.core.shut().iter().filter(|(site, _)| !free && own(site));
        let shut = shut.map(|(site, shut)| self.describe_shut(site, shut));
        let apart = self.never_together(manifest, created);
        held.into_iter().chain(offline).chain(full).chain(apart).chain(shut).collect()
    }
}

/// What says what would move, from recipes on the disk.
pub(super) struct Moves {
    catalog: Catalog,
    manifest: Manifest,
    sites: BTreeMap<NodeId, Name>,
    blocks: Vec<Vec<u32>>,
    caches: Vec<BTreeSet<PackageId>>,
    cache_of: BTreeMap<NodeId, usize>,
    rates: BTreeMap<Name, (u64, RateFrom)>,
}

impl Moves {
    /// Site by site.
    pub(super) fn sites(&self) -> Vec<PlannedSite> {
        let lacked: Vec<Lacked> = self.caches.iter().map(|of| lacked(&self.catalog, &self.manifest, of)).collect();
        let moves = forecast(&self.manifest, &self.sites, &self.blocks, &lacked, &self.cache_of);
        let said = |node: &NodeId| self.cache_of.contains_key(node);
        let known = |site: &Name| self.sites.iter().filter(|(node, of)| *of == site && said(node)).count();
        let shown = moves.into_iter().map(|moves| (known(&moves.site), moves));
        shown.map(|(known, moves)| site(moves, known, &self.rates)).collect()
    }
}

/// Names, as many as one sentence holds.
pub(super) fn named(names: &[String]) -> String {
    let shown = names[..names.len().min(NODES_NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NODES_NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn package(package: &Package) -> PlannedPackage {
    let Package { name, reference, id, size, .. } = package;
    PlannedPackage { name: name.clone(), reference: reference.clone(), blake3: *id, size: *size }
}

pub(super) fn steps(manifest: &Manifest) -> Vec<PlannedStep> {
    let list = |steps: &[shoal_proto::manifest::Step], phase| {
        let step = |step: &shoal_proto::manifest::Step| {
            let on = match step.on {
                On::Node => "node",
                On::Site => "site",
                On::Coordinator => "coordinator",
                On::Always => "always",
            };
            PlannedStep { name: step.name.clone(), phase, on: on.to_owned() }
        };
        steps.iter().map(step).collect::<Vec<_>>()
    };
    [list(&manifest.before_acquire, StepPhase::BeforeAcquire), list(&manifest.steps, StepPhase::Steps)].concat()
}

fn wave(wave: &Wave) -> PlannedWave {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let nodes = wave.lanes.iter().map(Vec::len).sum();
    PlannedWave {
        name: wave.name.clone(),
        nodes: count(nodes),
        groups: count(wave.lanes.len()),
        groups_at_a_time: count(wave.lanes.len()).min(wave.max_parallel.into()),
        needed: count(wave.success.needed(nodes)),
        max_failures: count(wave.max_failures.rounded_down(nodes)),
        max_failures_per_site: wave.max_failures_per_site.map(|share| share.to_string()),
        bake_ms: u64::try_from(wave.bake.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Which wave each target node is in.
fn waves(manifest: &Manifest) -> BTreeMap<NodeId, &Name> {
    let targets: Vec<NodeId> = manifest.targets().into_iter().collect();
    let places = manifest.waves.iter().flat_map(|wave| wave.lanes.iter().flatten().map(|place| (place, &wave.name)));
    places.filter_map(|(place, name)| Some((*targets.get(place.index())?, name))).collect()
}

fn gate(manifest: &Manifest) -> String {
    let quorum = manifest.gate.quorum;
    match manifest.gate.manual {
        true => format!("opens with `shoal release` once {quorum} of the nodes have their packages"),
        false => format!("opens when {quorum} of the nodes have their packages"),
    }
}

fn site(moves: SiteForecast, known: usize, rates: &BTreeMap<Name, (u64, RateFrom)>) -> PlannedSite {
    let rate = rates.get(&moves.site).copied();
    let at_rate = rate.map(|(rate, _)| moves.wan_bytes.saturating_mul(1000) / rate);
    PlannedSite {
        nodes: moves.nodes,
        known_nodes: u32::try_from(known).unwrap_or(u32::MAX),
        package_bytes: moves.package_bytes,
        wanted_bytes: moves.wanted_bytes,
        local_bytes: moves.local_bytes,
        wan_bytes: moves.wan_bytes,
        peer_bytes: moves.peer_bytes,
        wan_rate: rate.map(|(rate, _)| rate),
        rate_from: rate.map(|(_, from)| from),
        // What does not cross the WAN takes no time of it.
        estimate_ms: if moves.wan_bytes == 0 { Some(0) } else { at_rate },
        site: moves.site,
    }
}

/// What a cache lacks of the packages of `manifest`.
fn lacked(catalog: &Catalog, manifest: &Manifest, cache: &BTreeSet<PackageId>) -> Lacked {
    let held = held_segments(catalog, manifest, cache);
    let mut lacked = Lacked::new();
    for (package, index) in manifest.packages.iter().zip((0..).map(PackageIndex)) {
        let Ok(recipe) = catalog.recipe(package.recipe.recipe) else { continue };
        let layout = Layout::of_recipe(&recipe);
        let whole = cache.contains(&package.id);
        let blocks = if whole { vec![0; layout.blocks().len()] } else { lacking(&layout, &held) };
        lacked.insert(index, blocks);
    }
    lacked
}

/// The segments of the packages in a cache, other versions of what is deployed first.
fn held_segments(catalog: &Catalog, manifest: &Manifest, cache: &BTreeSet<PackageId>) -> BTreeSet<SegmentHash> {
    let entries = catalog.entries();
    let is_deployed = |entry: &&CatalogEntry| manifest.packages.iter().any(|package| package.id == entry.package);
    let lineages: BTreeSet<&str> = entries.iter().filter(is_deployed).map(|entry| entry.lineage.as_str()).collect();
    let mut held: Vec<&CatalogEntry> = entries.iter().filter(|entry| cache.contains(&entry.package)).collect();
    held.sort_by_key(|entry| (!lineages.contains(entry.lineage.as_str()), std::cmp::Reverse(entry.read_at)));
    let mut segments = BTreeSet::new();
    for entry in held.into_iter().take(PLAN_RECIPES_MAX) {
        match catalog.recipe(entry.outline.recipe) {
            Ok(recipe) => segments.extend(recipe.segments().iter().map(|segment| segment.hash)),
            Err(error) => warn!(%error, "a plan does not count on a package whose recipe cannot be read"),
        }
    }
    segments
}
