//! Sites behind trunks, and nodes behind access links with a capacity for each direction.

/// A link, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u32);

/// Links that one flow may go over: the access links of both ends, and a trunk on each side.
pub(crate) const ROUTE_LINKS_MAX: usize = 4;

/// A link as it was built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Bytes a second.
    pub(crate) capacity: f64,
    /// Shared by a whole site: many flows, so that its level is looked at rarely.
    pub(crate) trunk: bool,
}

/// The links that a flow goes over; at least one, none twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    links: [LinkId; ROUTE_LINKS_MAX],
    count: usize,
}

impl Route {
    pub(crate) fn new(over: &[LinkId]) -> Self {
        assert!((1..=ROUTE_LINKS_MAX).contains(&over.len()), "a flow over {} links", over.len());
        let mut links = [LinkId(u32::MAX); ROUTE_LINKS_MAX];
        links[..over.len()].copy_from_slice(over);
        Self { links, count: over.len() }
    }

    pub(crate) fn links(&self) -> &[LinkId] {
        &self.links[..self.count]
    }
}

#[derive(Clone, Copy, Debug)]
struct Node {
    up: LinkId,
    down: LinkId,
    trunk: LinkId,
}

/// Every link, and which of them are whose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    links: Vec<Link>,
    nodes: Vec<Node>,
}

impl Topology {
    /// A site whose WAN passes `wan` bytes a second inwards.
    pub(crate) fn add_site(&mut self, wan: f64) -> LinkId {
        self.add(wan, true)
    }

    /// A node of the site with this trunk; nodes are numbered from 0.
    pub(crate) fn add_node(&mut self, trunk: LinkId, up: f64, down: f64) -> usize {
        let node = Node { up: self.add(up, false), down: self.add(down, false), trunk };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    /// From one node to another: over both sites' trunks if they are not of the same.
    pub(crate) fn between(&self, from: usize, to: usize) -> Route {
        let (from, to) = (self.nodes[from], self.nodes[to]);
        if from.trunk == to.trunk {
            Route::new(&[from.up, to.down])
        } else {
            Route::new(&[from.up, from.trunk, to.trunk, to.down])
        }
    }

    /// From outside all sites to a node.
    pub(crate) fn over_wan(&self, to: usize) -> Route {
        Route::new(&[self.nodes[to].trunk, self.nodes[to].down])
    }

    fn add(&mut self, capacity: f64, trunk: bool) -> LinkId {
        assert!(capacity > 0.0 && capacity.is_finite(), "a link of {capacity} bytes a second");
        self.links.push(Link { capacity, trunk });
        LinkId((self.links.len() - 1) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_site_do_not_use_its_trunk() {
        let mut topology = Topology::default();
        let trunks = [topology.add_site(1.0), topology.add_site(1.0)];
        let nodes = [0, 0, 1].map(|site| topology.add_node(trunks[site], 1.0, 1.0));
        assert_eq!(topology.between(nodes[0], nodes[1]).links().len(), 2);
        assert_eq!(topology.between(nodes[0], nodes[2]).links().len(), 4);
        assert_eq!(topology.over_wan(nodes[2]).links()[0], trunks[1]);
    }
}
