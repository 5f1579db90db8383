//! Deployments that nobody's file gave: rollbacks, and those that a node joins. The core says what they are, here they are
//! signed.

use shoal_proto::coordinator::{Input, NoWayBack, WayBack};
use shoal_proto::id::{DeploymentId, Name, NodeId};
use shoal_proto::manifest::Signed;
use tracing::{error, info, warn};

use super::Server;
use super::plan::named;
use crate::api::{ApiError, ErrorCode};
use crate::cli::units;

impl Server {
    /// A deployment ended in such a way that what it changed is taken back.
    pub(super) fn roll_back(&mut self, of: DeploymentId) {
        match self.begin_ways_back(of, false) {
            Ok(by) => {
                info!(%of, ?by, "a deployment is rolled back");
                if let Some(stay) = self.stay_as_they_are(of) {
                    warn!(%of, "{stay}");
                }
            }
            Err(error) => error!(%of, error = error.message, "a deployment cannot be rolled back"),
        }
    }

    /// An operator wants a deployment that is over taken back; says what was begun, and what may be otherwise than hoped for.
    pub(super) fn take_back(&mut self, of: DeploymentId) -> Result<String, ApiError> {
        let begun = self.begin_ways_back(of, true)?;
        let each = |(by, read): &(DeploymentId, Vec<String>)| {
            let release = self.core.manifest(*by).map(|manifest| manifest.release.to_string()).unwrap_or_default();
            let begun = format!("{by} takes {of} back to release {release}: `shoal watch {by}`");
            std::iter::once(begun).chain(read.iter().cloned()).collect::<Vec<_>>()
        };
        let lines = begun.iter().flat_map(each).chain(self.stay_as_they_are(of));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// Says which nodes are not taken back, if there are any.
    pub(super) fn stay_as_they_are(&self, of: DeploymentId) -> Option<String> {
        let nodes: Vec<_> = self.core.without_way_back(of).into_iter().map(|node| self.node_name(node)).collect();
        let stay = if nodes.len() == 1 {
            "had no release before and stays as it is"
        } else {
            "had no release before and stay as they are"
        };
        (!nodes.is_empty()).then(|| format!("{} {stay}", named(&nodes)))
    }

    /// Says what of a release the nodes' caches have dropped, site by site.
    fn dropped(&self, way: &WayBack) -> Vec<String> {
        let lacking = self.core.lacking_for(way).into_iter();
        let say = |(site, (bytes, nodes)): (Name, (u64, Vec<NodeId>))| {
            let nodes: Vec<_> = nodes.into_iter().map(|node| self.node_name(node)).collect();
            let from = match bytes {
                0 => "they come from its other nodes".to_owned(),
                bytes => format!("up to {} cross its WAN", units::bytes(bytes)),
            };
            format!("site {site}: the caches of {} have dropped packages of that release, {from}", named(&nodes))
        };
        lacking.map(say).collect()
    }

    /// Begins all that takes a deployment back: more than one where nodes had different releases before.
    fn begin_ways_back(&mut self, of: DeploymentId, again: bool) -> Result<Vec<(DeploymentId, Vec<String>)>, ApiError> {
        let mut begun = Vec::new();
        loop {
            match self.core.way_back(of, again && begun.is_empty()) {
                Ok(way) => {
                    let dropped = self.dropped(&way);
                    begun.push((self.begin_way_back(way)?, dropped));
                }
                // What was just begun has its nodes.
                Err(NoWayBack::WentOn { .. } | NoWayBack::NothingBefore(..)) if !begun.is_empty() => return Ok(begun),
                Err(error) => return Err(ApiError::new(ErrorCode::Conflict, error.to_string())),
            }
        }
    }

    fn begin_way_back(&mut self, way: WayBack) -> Result<DeploymentId, ApiError> {
        let (id, to) = (way.manifest.deployment, way.to);
        let failed = |error: &dyn std::error::Error| {
            ApiError::new(ErrorCode::Failed, format!("cannot go back to {to}: {error}"))
        };
        let signed = Signed::seal(&way.manifest, |bytes| self.identity.sign(bytes)).map_err(|error| failed(&error))?;
        let release = self.core.created(to).ok_or_else(super::deploy::lost)?;
        let created = way.created(signed, release);
        tokio::task::block_in_place(|| self.secrets.keep(id, &self.secrets.of(to))).map_err(|error| failed(&error))?;
        self.handle(Input::Create(Box::new(created)));
        self.core.manifest(id).map(|_| id).ok_or_else(super::deploy::lost)
    }

    /// A node joined that a deployment under way means: that is signed anew, with the node.
    pub(super) fn join(&mut self, deployment: DeploymentId, node: NodeId) {
        let Some(joining) = self.core.joining(deployment, node) else { return };
        match Signed::seal(&joining.manifest, |bytes| self.identity.sign(bytes)) {
            Ok(signed) => {
                info!(%deployment, node = self.node_name(node), "a node joins a deployment that runs");
                let created = Box::new(joining.created(signed));
                self.handle(Input::Join { node, created });
            }
            Err(error) => error!(%deployment, %error, "a node cannot join a deployment"),
        }
    }

    /// Drops the secrets of deployments whose steps will not run again, neither in a rollback.
    pub(super) fn forget_secrets(&self) {
        let needed = self.core.needed();
        self.secrets.forget(|id| needed.contains(&id));
    }
}
