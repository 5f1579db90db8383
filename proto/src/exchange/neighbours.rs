//! The table of neighbours, in the order of their ids.
//!
//! Each message looks one of them up and runs over all of them. So ids, neighbours and who is ready stand in a row each, at
//! the same places, and whatever else names a neighbour names its [`Place`]. Who comes or goes moves those behind it, which
//! is rare.

use std::ops::{Index, IndexMut};

use super::peers::Neighbour;
use crate::id::{BlockIndex, NodeId};
use crate::limits::NEIGHBOURS_MAX;

/// Where a neighbour stands in the table, until one before it comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u8);

impl Place {
    fn new(index: usize) -> Self {
        const { assert!(NEIGHBOURS_MAX <= 1 << u8::BITS) };
        Self(u8::try_from(index).expect("neighbours are bounded"))
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Where who stood here stands after one came to `came`.
    pub(super) fn behind(self, came: Self) -> Self {
        if self < came { self } else { Self(self.0 + 1) }
    }

    /// Where who stood here stands after the one at `gone`, who is somebody else, went.
    pub(super) fn without(self, gone: Self) -> Self {
        if self < gone { self } else { Self(self.0 - 1) }
    }
}

/// Every neighbour.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Ascending.
    ids: Vec<NodeId>,
    /// The first bytes of each id, which a look-up compares: they are close together.
    heads: Vec<u64>,
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

    /// Where a neighbour stands.
    pub(super) fn place(&self, node: &NodeId) -> Option<Place> {
        let first = self.heads.partition_point(|other| *other < head(node));
        let alike = self.heads[first..].iter().take_while(|other| **other == head(node)).count();
        (first..first + alike).find(|place| self.ids[*place] == *node).map(Place::new)
    }

    /// Who stands at a place.
    pub(super) fn id(&self, place: Place) -> NodeId {
        self.ids[place.index()]
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Neighbour> {
        self.place(node).map(|place| &self[place])
    }

    /// Adds a neighbour that is not ready, unless it is there; where it stands then.
    pub(super) fn insert(&mut self, node: NodeId, neighbour: Neighbour) -> Option<Place> {
        let place = self.ids.binary_search(&node).err()?;
        self.ids.insert(place, node);
        self.heads.insert(place, head(&node));
        self.neighbours.insert(place, neighbour);
        self.ready.insert(place, false);
        Some(Place::new(place))
    }

    pub(super) fn remove(&mut self, place: Place) -> Neighbour {
        self.ids.remove(place.index());
        self.heads.remove(place.index());
        self.ready.remove(place.index());
        self.neighbours.remove(place.index())
    }

    /// Ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.ids.iter().copied()
    }

    /// By their ids, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &Neighbour)> {
        self.neighbours.iter().enumerate().map(|(place, neighbour)| (Place::new(place), neighbour))
    }

    /// By their ids, ascending.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Neighbour)> {
        self.ids.iter().copied().zip(&mut self.neighbours)
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready.contains(&true)
    }

    /// Those that are ready, by their ids.
    pub(super) fn ready(&self) -> impl Iterator<Item = (Place, &Neighbour)> {
        let ready = self.ready.iter().enumerate().filter(|(_, ready)| **ready);
        ready.map(|(place, _)| (Place::new(place), &self.neighbours[place]))
    }

    /// A neighbour may have become able to be asked for something.
    pub(super) fn make_ready(&mut self, place: Place) {
        self.ready[place.index()] = true;
    }

    /// Everyone who has a block may have become able to be asked for it.
    pub(super) fn make_holders_ready(&mut self, block: BlockIndex) {
        for (ready, neighbour) in self.ready.iter_mut().zip(&self.neighbours) {
            *ready = *ready || neighbour.has.contains(block);
        }
    }

    /// A neighbour cannot be asked for anything.
    pub(super) fn clear_ready(&mut self, place: Place) {
        self.ready[place.index()] = false;
    }

    /// Those that are not as `may_be_asked` wants them are not ready.
    pub(super) fn retain_ready(&mut self, may_be_asked: impl Fn(&Neighbour) -> bool) {
        for (ready, neighbour) in self.ready.iter_mut().zip(&self.neighbours) {
            *ready = *ready && may_be_asked(neighbour);
        }
    }
}

impl Index<Place> for Neighbours {
    type Output = Neighbour;

    fn index(&self, place: Place) -> &Neighbour {
        &self.neighbours[place.index()]
    }
}

impl IndexMut<Place> for Neighbours {
    fn index_mut(&mut self, place: Place) -> &mut Neighbour {
        &mut self.neighbours[place.index()]
    }
}

/// What orders ids that differ in it.
fn head(node: &NodeId) -> u64 {
    node.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);

    fn ready(table: &Neighbours) -> Vec<NodeId> {
        table.ready().map(|(place, _)| table.id(place)).collect()
    }

    #[test]
    fn who_comes_or_goes_leaves_the_others_what_is_theirs() {
        let block = BlockIndex(0);
        let mut table = Neighbours::default();
        let neighbour = |has: bool| {
            let mut neighbour = Neighbour::new(1, 0);
            has.then(|| neighbour.has.insert(block));
            neighbour
        };
        assert_eq!(table.insert(C, neighbour(true)), Some(Place(0)));
        table.make_holders_ready(block);
        assert_eq!(table.insert(A, neighbour(false)), Some(Place(0)));
        assert_eq!(table.insert(B, neighbour(true)), Some(Place(1)));
        assert_eq!(table.insert(B, neighbour(true)), None);
        assert_eq!(table.ids().collect::<Vec<_>>(), [A, B, C]);
        assert_eq!(ready(&table), [C]);
        let has = |table: &Neighbours, node| table.get(&node).is_some_and(|neighbour| neighbour.has.contains(block));
        assert!(has(&table, C) && !has(&table, A));
        assert!(table.remove(Place(0)).has.is_empty() && table.place(&A).is_none());
        let (b, c) = (Place(0), Place(1));
        assert_eq!([table.place(&B), table.place(&C)], [Some(b), Some(c)]);
        table.make_ready(b);
        table.clear_ready(c);
        assert_eq!(ready(&table), [B]);
        table.retain_ready(|_| false);
        assert!(!table.has_ready());
    }

    #[test]
    fn ids_that_begin_alike_are_told_apart() {
        let alike = |last: u8| {
            let mut id = A;
            id.0[31] = last;
            id
        };
        let mut table = Neighbours::default();
        for last in [2, 0, 4] {
            table.insert(alike(last), Neighbour::new(1, 0));
        }
        let places = [0, 1, 2, 3, 4].map(|last| table.place(&alike(last)));
        assert_eq!(places, [Some(Place(0)), None, Some(Place(1)), None, Some(Place(2))]);
    }

    #[test]
    fn places_follow_who_moves() {
        let places = [0, 1, 2].map(Place);
        assert_eq!(places.map(|place| place.behind(Place(1))), [0, 2, 3].map(Place));
        assert_eq!([0, 2, 3].map(|place| Place(place).without(Place(1))), places);
    }
}
