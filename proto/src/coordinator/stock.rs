//! What connected nodes have in their caches, as they said it themselves: for plans and for people, nothing is decided by it.

use super::Coordinator;
use crate::id::{DeploymentId, NodeId, PackageIndex};
use crate::limits::INVENTORY_PACKAGES_MAX;
use crate::wire::Inventory;

impl Coordinator {
    /// What a connected node has in its cache, if it has said. The disk's figures are as old as that.
    pub fn inventory(&self, node: NodeId) -> Option<&Inventory> {
        self.inventories.get(&node)
    }

    pub(super) fn stocked(&mut self, node: NodeId, mut inventory: Inventory) {
        inventory.packages.truncate(INVENTORY_PACKAGES_MAX);
        self.inventories.insert(node, inventory);
    }

    /// A node holds one package more.
    pub(super) fn stocked_one(&mut self, node: NodeId, deployment: DeploymentId, package: PackageIndex) {
        let manifest = self.deployments.get(&deployment).map(|deployment| &deployment.manifest);
        let package = manifest.and_then(|manifest| manifest.packages.get(package.index()));
        let (Some(package), Some(inventory)) = (package, self.inventories.get_mut(&node)) else { return };
        if !inventory.packages.contains(&package.id) && inventory.packages.len() < INVENTORY_PACKAGES_MAX {
            inventory.packages.push(package.id);
            inventory.cache_bytes = inventory.cache_bytes.saturating_add(package.size);
            inventory.free_bytes = inventory.free_bytes.map(|free| free.saturating_sub(package.size));
        }
    }
}
