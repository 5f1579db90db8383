//! The table of neighbours, in the order of their ids.
//!
//! Each message looks some of them up and runs over all of them. So ids, neighbours and who is ready stand in a row each, at
//! the same places. Who comes or goes moves those behind it, which is rare.

use std::ops::Index;

use super::peers::Neighbour;
use crate::id::{BlockIndex, NodeId};

/// Every neighbour.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Ascending.
    ids: Vec<NodeId>,
    neighbours: Vec<Neighbour>,
    /// Whether it may have become able to be asked for something.
    ready: Vec<bool>,
}

impl Neighbours {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.place(node).is_some()
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Neighbour> {
        self.place(node).map(|place| &self.neighbours[place])
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Neighbour> {
        self.place(node).map(|place| &mut self.neighbours[place])
    }

    /// Adds a neighbour that is not ready, unless it is there.
    pub(super) fn insert(&mut self, node: NodeId, neighbour: Neighbour) {
        if let Err(place) = self.ids.binary_search(&node) {
            self.ids.insert(place, node);
            self.neighbours.insert(place, neighbour);
            self.ready.insert(place, false);
        }
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> Option<Neighbour> {
        let place = self.place(node)?;
        self.ids.remove(place);
        self.ready.remove(place);
        Some(self.neighbours.remove(place))
    }

    /// Ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.ids.iter().copied()
    }

    /// By their ids, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Neighbour)> {
        self.ids().zip(&self.neighbours)
    }

    /// By their ids, ascending.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Neighbour)> {
        self.ids.iter().copied().zip(&mut self.neighbours)
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready.contains(&true)
    }

    /// Those that are ready, by their ids.
    pub(super) fn ready(&self) -> impl Iterator<Item = (NodeId, &Neighbour)> {
        self.iter().zip(&self.ready).filter_map(|(entry, ready)| ready.then_some(entry))
    }

    /// A neighbour may have become able to be asked for something. A node that is none is ignored.
    pub(super) fn make_ready(&mut self, node: &NodeId) {
        if let Some(place) = self.place(node) {
            self.ready[place] = true;
        }
    }

    /// Everyone who has a block may have become able to be asked for it.
    pub(super) fn make_holders_ready(&mut self, block: BlockIndex) {
        for (ready, neighbour) in self.ready.iter_mut().zip(&self.neighbours) {
            *ready = *ready || neighbour.has.contains(block);
        }
    }

    /// A neighbour cannot be asked for anything.
    pub(super) fn clear_ready(&mut self, node: &NodeId) {
        if let Some(place) = self.place(node) {
            self.ready[place] = false;
        }
    }

    /// Those that are not as `may_be_asked` wants them are not ready.
    pub(super) fn retain_ready(&mut self, may_be_asked: impl Fn(&Neighbour) -> bool) {
        for (ready, neighbour) in self.ready.iter_mut().zip(&self.neighbours) {
            *ready = *ready && may_be_asked(neighbour);
        }
    }

    fn place(&self, node: &NodeId) -> Option<usize> {
        self.ids.binary_search(node).ok()
    }
}

impl Index<NodeId> for Neighbours {
    type Output = Neighbour;

    fn index(&self, node: NodeId) -> &Neighbour {
        self.get(&node).expect("only neighbours are asked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);

    #[test]
    fn who_comes_or_goes_leaves_the_others_what_is_theirs() {
        let block = BlockIndex(0);
        let mut table = Neighbours::default();
        let neighbour = |has: bool| {
            let mut neighbour = Neighbour::new(1);
            has.then(|| neighbour.has.insert(block));
            neighbour
        };
        table.insert(C, neighbour(true));
        table.make_holders_ready(block);
        table.insert(A, neighbour(false));
        table.insert(B, neighbour(true));
        assert_eq!(table.ids().collect::<Vec<_>>(), [A, B, C]);
        assert_eq!(table.ready().map(|(node, _)| node).collect::<Vec<_>>(), [C]);
        assert!(table[C].has.contains(block) && !table[A].has.contains(block));
        assert!(table.remove(&A).is_some_and(|gone| gone.has.is_empty()) && table.remove(&A).is_none());
        table.make_ready(&A);
        table.make_ready(&B);
        table.clear_ready(&C);
        assert_eq!(table.ready().map(|(node, _)| node).collect::<Vec<_>>(), [B]);
        table.retain_ready(|_| false);
        assert!(!table.has_ready());
    }
}
