//! What sites may read beyond what they lacked, across restarts of the coordinator (WAN-ONCE).
//!
//! Ledgers keep budgets; here their sums are put on record before the grants that spend them, given to the ledgers of the
//! next run, and added to by operators. An operator's word is on record before it is answered (ACKED-IS-KEPT), whether or
//! not there is a ledger yet.

use super::supply::Purpose;
use super::{AllowReading, BudgetOf, Coordinator, OperateError, Record};
use crate::id::{ContentId, DeploymentId, Name, PackageIndex};
use crate::rollout::Now;
use crate::wan::{self, BudgetSums, WanLedger};

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
        let live = supply.and_then(|supply| supply.ledger.budgets().find(|(node, _)| *node == of.node));
        let known = live.map(|(_, sums)| sums).or_else(|| self.recorded_budget(deployment, of)).unwrap_or_default();
        let added_bytes = known.added_bytes.saturating_add(bytes);
        let bytes = added_bytes - known.added_bytes;
        self.record(Record::Budget { deployment, of: of.clone(), sums: BudgetSums { added_bytes, ..known } });
        self.ledgers.tell(&key, now.time, |_| wan::Input::Override { node: of.node, bytes });
    }

    fn recorded_budget(&self, id: DeploymentId, of: &BudgetOf) -> Option<BudgetSums> {
        self.deployments.get(&id)?.budgets.get(of).copied()
    }

    /// Gives a new ledger what earlier runs of the coordinator left of its budgets.
    pub(super) fn carry_budgets(&self, id: DeploymentId, key: &(Name, ContentId), ledger: &mut WanLedger) {
        let Some(deployment) = self.deployments.get(&id) else { return };
        let of_it = deployment.budgets.iter().filter(|(of, _)| (&of.site, of.content) == (&key.0, key.1));
        of_it.for_each(|(of, sums)| ledger.carry(of.node, *sums));
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
