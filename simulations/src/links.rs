//! Control connections between processes: each delivers in order or breaks, as `shoal_proto::wire` says.
//!
//! What is under way when a connection breaks is lost, and each end learns of the break in its own time; until then it
//! sends into the void.

use shoal_proto::time::Time;
use shoal_proto::wire::{ToCoordinator, ToNeighbour, ToNode};

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Coordinator,
    Node(usize),
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// The connection is up: first of all between neighbours.
    Up,
    ToCoordinator(ToCoordinator),
    ToNode(ToNode),
    ToNeighbour(ToNeighbour),
}

/// A connection, by its number.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [Place; 2],
    pub(crate) broken: bool,
    /// When the last message to each end arrives.
    last: [Time; 2],
}

/// Every connection that ever was.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
}

impl Links {
    pub(crate) fn add(&mut self, ends: [Place; 2]) -> usize {
        self.links.push(Link { ends, broken: false, last: [Time::ZERO; 2] });
        self.links.len() - 1
    }

    pub(crate) fn link(&self, link: usize) -> &Link {
        &self.links[link]
    }

    /// The place at the other end than `place`.
    pub(crate) fn other(&self, link: usize, place: Place) -> Place {
        let [one, other] = self.links[link].ends;
        if one == place { other } else { one }
    }

    /// When a message to `to` that would arrive at `at` does: never before one that was sent earlier. None if the
    /// connection is broken, whether the sender knows it or not.
    pub(crate) fn send(&mut self, link: usize, to: Place, at: Time) -> Option<Time> {
        let link = &mut self.links[link];
        let last = &mut link.last[usize::from(link.ends[1] == to)];
        *last = at.max(*last);
        (!link.broken).then_some(*last)
    }

    /// Breaks it; says whether it was whole.
    pub(crate) fn break_link(&mut self, link: usize) -> bool {
        !std::mem::replace(&mut self.links[link].broken, true)
    }

    /// The whole connections that end at `place`.
    pub(crate) fn whole_at(&self, place: Place) -> Vec<usize> {
        let whole = self.links.iter().enumerate().filter(|(_, link)| !link.broken && link.ends.contains(&place));
        whole.map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_a_broken_link_carries_none() {
        let mut links = Links::default();
        let link = links.add([Place::Node(0), Place::Coordinator]);
        let at = Time::from_millis;
        assert_eq!(links.send(link, Place::Coordinator, at(9)), Some(at(9)));
        assert_eq!(links.send(link, Place::Coordinator, at(5)), Some(at(9)), "not before the one sent earlier");
        assert_eq!(links.send(link, Place::Node(0), at(5)), Some(at(5)), "the other way is free");
        assert!(links.break_link(link) && !links.break_link(link));
        assert_eq!(links.send(link, Place::Node(0), at(7)), None);
    }
}
