//! What sites may read beyond what they lacked, across restarts of the coordinator (WAN-ONCE).
//!
//! Ledgers keep budgets; here their sums are put on record before the grants that spend them, and so is which blocks came,
//! given to the ledgers of the next run, and added to by operators. An operator's word is on record before it is answered
//! (ACKED-IS-KEPT), whether or not there is a ledger yet.

use std::collections::BTreeSet;

use super::ledgers::Key;
use super::supply::Purpose;
use super::{AllowReading, BudgetOf, Coordinator, OperateError, Record};
use crate::id::{DeploymentId, Name, NodeId, PackageIndex};
use crate::rollout::Now;
use crate::wan::{self, BlockRange, BudgetSums, WanLedger};

/// A budget that is spent while there is more to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetWait {
    /// Whose.
    pub of: BudgetOf,
    /// For which package of the deployment.
    pub package: PackageIndex,
    /// Bytes that are wanted beyond what the site lacked.
    pub wanted_bytes: u64,
    /// Bytes left of the budget.
    pub left_bytes: u64,
}

impl Coordinator {
    /// Lets a site read more than its budgets pay for; says whose budgets were added to.
    ///
    /// # Errors
    /// Why nothing changed.
    pub fn allow_reading(
        &mut self,
        id: DeploymentId,
        allow: &AllowReading,
        now: Now,
    ) -> Result<Vec<BudgetOf>, OperateError> {
        let deployment = self.deployments.get(&id).ok_or(OperateError::NoDeployment(id))?;
        if deployment.over {
            return Err(OperateError::Over(id));
        }
        if !deployment.created.sites.values().any(|site| *site == allow.site) {
            return Err(OperateError::NoSite(id, allow.site.clone()));
        }
        let wanted = |package| allow.package.is_none_or(|wanted| wanted == package);
        let waits = self.budget_waits(id).filter(|wait| wait.of.site == allow.site && wanted(wait.package));
        let mut budgets: Vec<_> = waits.map(|wait| wait.of).collect();
        if let (true, Some(package)) = (budgets.is_empty(), allow.package) {
            budgets = self.budgets_of(id, &allow.site, package);
        }
        if budgets.is_empty() {
            return Err(OperateError::NothingWaits(id, allow.site.clone()));
        }
        budgets.iter().for_each(|of| self.add_to_budget(id, of, allow.bytes, now));
        self.settle(now);
        Ok(budgets)
    }

    /// The budgets that reading for a deployment waits for.
    pub fn budget_waits(&self, id: DeploymentId) -> impl Iterator<Item = BudgetWait> {
        self.parts(id).flat_map(|((site, content), package, _, supply)| {
            supply.ledger.over_budget().map(move |over| BudgetWait {
                of: BudgetOf { site: site.clone(), content: *content, node: over.node },
                package,
                wanted_bytes: over.wanted_bytes,
                left_bytes: over.left_bytes,
            })
        })
    }

    /// The site's budget for a package, or those of its nodes.
    fn budgets_of(&self, id: DeploymentId, site: &Name, package: PackageIndex) -> Vec<BudgetOf> {
        let deployment = &self.deployments[&id];
        let Some(found) = deployment.manifest.packages.get(package.index()) else { return Vec::new() };
        let of = |node| BudgetOf { site: site.clone(), content: found.id.into(), node };
        let nodes = self.receivers(Purpose { deployment: id, package, recipe: false }, site);
        match deployment.manifest.acquire.swarm {
            _ if nodes.is_empty() => Vec::new(),
            true => vec![of(None)],
            false => nodes.into_iter().map(|node| of(Some(node))).collect(),
        }
    }

    fn add_to_budget(&mut self, id: DeploymentId, of: &BudgetOf, bytes: u64, now: Now) {
        let key = (of.site.clone(), of.content);
        let supply = self.ledgers.get(&key);
        // The first deployment that wants a content has its ledger.
        let deployment = supply.map_or(id, |supply| supply.purpose.deployment);
        let live = supply.and_then(|supply| supply.ledger.budget(of.node));
        let known = live.or_else(|| self.recorded_budget(deployment, of)).unwrap_or_default();
        let added_bytes = known.added_bytes.saturating_add(bytes);
        let bytes = added_bytes - known.added_bytes;
        self.record(Record::Budget { deployment, of: of.clone(), sums: BudgetSums { added_bytes, ..known } });
        self.ledgers.tell(&key, now.time, |_| wan::Input::Override { node: of.node, bytes });
    }

    fn recorded_budget(&self, id: DeploymentId, of: &BudgetOf) -> Option<BudgetSums> {
        self.deployments.get(&id)?.budgets.get(of).copied()
    }

    /// Gives a new ledger what earlier runs of the coordinator left of its budgets.
    pub(super) fn carry_budgets(&self, id: DeploymentId, key: &Key, ledger: &mut WanLedger) {
        let Some(deployment) = self.deployments.get(&id) else { return };
        let budgets = deployment.budgets.keys().chain(deployment.came.keys());
        let budgets: BTreeSet<_> = budgets.filter(|of| is_of(of, key)).collect();
        for of in budgets {
            let sums = deployment.budgets.get(of).copied().unwrap_or_default();
            ledger.carry(of.node, sums, deployment.came.get(of).map_or(&[], Vec::as_slice));
        }
    }

    /// Has what came to a site made durable. With it what its share of the budget is: the next run will not know how much
    /// the site lacked.
    pub(super) fn record_came(&mut self, key: &Key, node: Option<NodeId>, blocks: Vec<BlockRange>) {
        let Some(supply) = self.ledgers.get(key) else { return };
        let deployment = supply.purpose.deployment;
        let of = BudgetOf { site: key.0.clone(), content: key.1, node };
        let sums = supply.ledger.budget(node).filter(|sums| self.recorded_budget(deployment, &of) != Some(*sums));
        if let Some(sums) = sums {
            self.record(Record::Budget { deployment, of: of.clone(), sums });
        }
        self.record(Record::Came { deployment, of, blocks });
    }

    /// What is on record as come to a site for a deployment.
    pub(super) fn recorded_came(&self, id: DeploymentId, key: &Key) -> Vec<(Option<NodeId>, Vec<BlockRange>)> {
        let came = self.deployments.get(&id).into_iter().flat_map(|deployment| &deployment.came);
        came.filter(|(of, _)| is_of(of, key)).map(|(of, blocks)| (of.node, blocks.clone())).collect()
    }

    /// Has what was spent of budgets made durable where it changed: what follows may be the grants that spend it.
    pub(super) fn record_budgets(&mut self) {
        let mut changed = Vec::new();
        for ((site, content), supply) in self.ledgers.touched() {
            let deployment = supply.purpose.deployment;
            for (node, sums) in supply.ledger.budgets() {
                let of = BudgetOf { site: site.clone(), content: *content, node };
                let known = self.recorded_budget(deployment, &of).unwrap_or_default();
                // The share alone changes with every block, and is of no use until something is spent.
                if (known.used_bytes, known.added_bytes) != (sums.used_bytes, sums.added_bytes) {
                    changed.push(Record::Budget { deployment, of, sums });
                }
            }
        }
        changed.into_iter().for_each(|record| self.record(record));
    }
}

/// Whether a budget is one for what is read into a site.
fn is_of(of: &BudgetOf, key: &Key) -> bool {
    (&of.site, of.content) == (&key.0, key.1)
}
