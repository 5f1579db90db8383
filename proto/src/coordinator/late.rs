//! Leases that are open when their ledger is dropped: their deployment was cancelled, or ended without some nodes. What was
//! read for them is known a moment later, and belongs to what the deployment's site read.
//!
//! Not guaranteed: that it is heard. Who loses its connection before is not waited for.

use std::collections::BTreeMap;

use super::{Coordinator, Record};
use crate::id::{ContentId, DeploymentId, LeaseId, Name, NodeId};
use crate::limits::LATE_ENDS_MAX;
use crate::wire::LeaseEnd;

/// Leases whose ends are to come, with who holds them and for which deployment they were read.
pub(super) type Late = BTreeMap<LateLease, (NodeId, DeploymentId)>;

type LateLease = (Name, ContentId, LeaseId);

impl Coordinator {
    /// The leases of a deployment that connected nodes hold.
    pub(super) fn open_leases(&self, id: DeploymentId) -> Vec<(LateLease, NodeId)> {
        let own = self.ledgers.iter().filter(|(_, supply)| supply.purpose.deployment == id);
        let leases = own.flat_map(|((site, content), supply)| {
            let named = move |(node, lease)| ((site.clone(), *content, lease), node);
            supply.ledger.open_leases().map(named)
        });
        leases.filter(|(_, node)| self.told.contains_key(node)).collect()
    }

    /// Notes those of `open` whose ledgers are gone.
    pub(super) fn await_late_ends(&mut self, id: DeploymentId, open: Vec<(LateLease, NodeId)>) {
        let ledgers = &self.ledgers;
        let gone = open.into_iter().filter(|((site, content, _), _)| !ledgers.contains(&(site.clone(), *content)));
        let room = LATE_ENDS_MAX.saturating_sub(self.late.len());
        self.late.extend(gone.take(room).map(|(lease, node)| (lease, (node, id))));
    }

    /// Adds what was read for a lease whose ledger is gone to what its deployment's site read.
    pub(super) fn ended_late(&mut self, from: NodeId, end: &LeaseEnd) {
        let Some(site) = self.directory.site_of(from).cloned() else { return };
        let lease = (site, end.content, end.lease);
        let Some((_, id)) = self.late.get(&lease).copied().filter(|(node, _)| *node == from) else { return };
        self.late.remove(&lease);
        let Some(known) = self.deployments.get(&id) else { return };
        let (site, _, _) = lease;
        let mut wan = known.wan.get(&site).copied().unwrap_or_default();
        wan.read_bytes = wan.read_bytes.saturating_add(end.read_bytes);
        if end.read_bytes > 0 {
            self.record(Record::Read { deployment: id, site, wan });
        }
    }
}
