//! What a rollback would do, shown before it begins: which release each node goes back to, what still has it, and what that
//! moves.

use shoal_proto::coordinator::WayBack as Way;
use shoal_proto::id::{DeploymentId, NodeId, PlanHash};
use shoal_proto::rollout::basis::joint_hash;

use super::Server;
use super::plan::{Moves, named, package, steps};
use crate::api::command::Reply;
use crate::api::types::{PlannedReturn, PlannedWay, WayBack, WayBackSchema};
use crate::api::{ApiError, ErrorCode};

impl Server {
    /// Answers what a rollback of `of` would do. What caches lack is reckoned in a task.
    pub(super) fn show_way_back(&self, of: DeploymentId, reply: Reply<WayBack>) {
        // The operator's client may be gone, here and below.
        let (ways, hash) = match self.ways_back(of) {
            Ok(found) => found,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let planned: Vec<(PlannedWay, Moves)> = ways.iter().filter_map(|way| self.planned_way(way)).collect();
        let stay = self.core.without_way_back(of).into_iter().map(|node| self.node_name(node)).collect();
        let blockers = self.in_the_way(&ways);
        tokio::task::spawn_blocking(move || {
            let ways = planned.into_iter().map(|(way, moves)| PlannedWay { sites: moves.sites(), ..way });
            let ways = ways.collect();
            let _ = reply.send(Ok(WayBack { schema: WayBackSchema::V1, hash, of, ways, stay, blockers }));
        });
    }

    /// Refuses a rollback that is not the one that was planned.
    pub(super) fn hold_to_way_back(&self, of: DeploymentId, plan: &str) -> Result<(), ApiError> {
        let (_, hash) = self.ways_back(of)?;
        if hash.to_string() == plan {
            return Ok(());
        }
        let short = plan.get(..8).unwrap_or(plan);
        let message =
            format!("not rolled back: plan {short} does not hold any more, other nodes or releases are meant");
        let next = format!("look at what it would do by now: `shoal plan --rollback {of}`");
        Err(ApiError::new(ErrorCode::Blocked, message).next(next))
    }

    fn ways_back(&self, of: DeploymentId) -> Result<(Vec<Way>, PlanHash), ApiError> {
        if self.core.manifest(of).is_none() {
            return Err(super::operator::no_deployment(of));
        }
        let ways = self.core.ways_back(of);
        let ways = ways.map_err(|error| ApiError::new(ErrorCode::Conflict, error.to_string()))?;
        let hashes: Option<Vec<PlanHash>> = ways.iter().map(|way| Some(way.hash(self.core.created(way.to)?))).collect();
        let hashes = hashes.ok_or_else(super::deploy::lost)?;
        Ok((ways, joint_hash(hashes)))
    }

    /// A way without what moves, and what says that.
    fn planned_way(&self, way: &Way) -> Option<(PlannedWay, Moves)> {
        let blocks = self.core.created(way.to)?.blocks.clone();
        let manifest = &way.manifest;
        let mut nodes: Vec<_> = way.sites().iter().map(|(node, site)| self.planned_return(way, *node, site)).collect();
        nodes.sort_by(|a, b| (&a.site, &a.name).cmp(&(&b.site, &b.name)));
        let planned = PlannedWay {
            to: way.to,
            release: manifest.release.clone(),
            packages: manifest.packages.iter().map(package).collect(),
            nodes,
            sites: Vec::new(),
            steps: steps(manifest),
        };
        Some((planned, self.moves(manifest.clone(), way.sites().clone(), blocks)))
    }

    fn planned_return(&self, way: &Way, node: NodeId, site: &shoal_proto::id::Name) -> PlannedReturn {
        let holds = self.core.inventory(node).map(|inventory| {
            let mut packages = way.manifest.packages_of(node);
            packages.all(|(_, package)| inventory.packages.contains(&package.id))
        });
        let name = way.names().get(&node).map_or_else(|| self.node_name(node), ToString::to_string);
        PlannedReturn { name, site: site.clone(), online: self.is_online(node), holds }
    }

    /// What would keep them from going on.
    fn in_the_way(&self, ways: &[Way]) -> Vec<String> {
        let nodes = || ways.iter().flat_map(|way| way.sites().keys().copied());
        let offline: Vec<_> = nodes().filter(|node| !self.is_online(*node)).map(|node| self.node_name(node)).collect();
        let offline = match offline.len() {
            0 => None,
            1 => Some(format!("{} is offline: it goes back when it is there", offline[0])),
            count => Some(format!("{count} nodes are offline, and go back when they are there: {}", named(&offline))),
        };
        offline.into_iter().collect()
    }
}
