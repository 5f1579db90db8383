//! Which nodes the control mesh is to be connected to, and when to dial each again.
//!
//! A wanted node is in exactly one [`State`]. Waits double from [`REDIAL_WAIT_MIN`] to [`REDIAL_WAIT_MAX`], each
//! shortened at random by up to half, so that 1,000 nodes whose coordinator restarts do not come back in step; a channel
//! that lived long enough starts them over. Pure but for the random source: time is a parameter.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use shoal_proto::id::NodeId;
use shoal_proto::limits::{ADDRESSES_PER_NODE_MAX, REDIAL_WAIT_MAX, REDIAL_WAIT_MIN};
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is a channel.
    Up,
    /// To be dialed at this time.
    At(Instant),
    /// Its host names are being resolved.
    Starting,
    /// This connection is being made.
    Dialing(ConnectionId),
}

struct Wanted {
    addresses: Vec<Multiaddr>,
    /// Addresses at which another node answered: left out until all have been tried, since libp2p lets one such answer
    /// fail a whole dial.
    avoided: Vec<Multiaddr>,
    state: State,
    wait: Duration,
}

/// The wanted nodes.
#[derive(Default)]
pub(super) struct Redial {
    wanted: BTreeMap<NodeId, Wanted>,
}

impl Redial {
    /// Wants `node` at `addresses`, at once if it is not `up`.
    pub(super) fn want(&mut self, node: NodeId, mut addresses: Vec<Multiaddr>, up: bool, now: Instant) {
        addresses.truncate(ADDRESSES_PER_NODE_MAX);
        let state = if up { State::Up } else { State::At(now) };
        let wanted = self.wanted.entry(node).or_insert_with(|| Wanted {
            addresses: Vec::new(),
            avoided: Vec::new(),
            state,
            wait: REDIAL_WAIT_MIN,
        });
        if wanted.addresses != addresses {
            wanted.addresses = addresses;
            wanted.avoided.clear();
            if matches!(wanted.state, State::At(_)) {
                wanted.state = state;
            }
        }
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.wanted.remove(&node);
    }

    pub(super) fn up(&mut self, node: NodeId) {
        self.set(node, State::Up);
    }

    /// `node`'s channel is gone after `lived`: short lives keep the waits growing.
    pub(super) fn down(&mut self, node: NodeId, now: Instant, lived: Duration) {
        let Some(wanted) = self.wanted.get_mut(&node) else { return };
        if lived > REDIAL_WAIT_MAX {
            wanted.wait = REDIAL_WAIT_MIN;
        }
        self.failed(node, now);
    }

    /// The attempt to reach `node` failed.
    pub(super) fn failed(&mut self, node: NodeId, now: Instant) {
        let Some(wanted) = self.wanted.get_mut(&node) else { return };
        wanted.state = State::At(now + jittered(wanted.wait));
        wanted.wait = (wanted.wait * 2).min(REDIAL_WAIT_MAX);
    }

    pub(super) fn dialing(&mut self, node: NodeId, connection: ConnectionId) {
        self.set(node, State::Dialing(connection));
    }

    /// The node that `connection` is being dialed for.
    pub(super) fn dialed(&self, connection: ConnectionId) -> Option<NodeId> {
        let dialing = self.wanted.iter().find(|(_, wanted)| wanted.state == State::Dialing(connection));
        dialing.map(|(node, _)| *node)
    }

    pub(super) fn is_starting(&self, node: NodeId) -> bool {
        self.wanted.get(&node).is_some_and(|wanted| wanted.state == State::Starting)
    }

    /// Leaves `address` of `node` out of the next dials, as long as others are left.
    pub(super) fn avoid(&mut self, node: NodeId, address: Multiaddr) {
        let Some(wanted) = self.wanted.get_mut(&node) else { return };
        if !wanted.avoided.contains(&address) && wanted.avoided.len() < ADDRESSES_PER_NODE_MAX {
            wanted.avoided.push(address);
        }
    }

    /// When [`Redial::due`] has something to give.
    pub(super) fn next(&self) -> Option<Instant> {
        self.wanted.values().filter_map(|wanted| if let State::At(at) = wanted.state { Some(at) } else { None }).min()
    }

    /// The nodes to dial by `now`, with where.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(NodeId, Vec<Multiaddr>)> {
        let due = self.wanted.iter_mut().filter(|(_, wanted)| matches!(wanted.state, State::At(at) if at <= now));
        due.map(|(node, wanted)| {
            wanted.state = State::Starting;
            (*node, wanted.candidates())
        })
        .collect()
    }

    fn set(&mut self, node: NodeId, state: State) {
        if let Some(wanted) = self.wanted.get_mut(&node) {
            wanted.state = state;
        }
    }
}

impl Wanted {
    fn candidates(&mut self) -> Vec<Multiaddr> {
        let left: Vec<_> = self.addresses.iter().filter(|address| !self.avoided.contains(address)).cloned().collect();
        if left.is_empty() {
            self.avoided.clear();
            return self.addresses.clone();
        }
        left
    }
}

/// Between half of `wait` and all of it.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8);
    let share = (random % 1024) as u32;
    wait / 2 + wait / 2 * share / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_a_long_life() {
        let start = Instant::now();
        let mut redial = Redial::default();
        redial.want(NODE, vec![address(1)], false, start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(redial.due(now).len(), 1);
            redial.failed(NODE, now);
            let next = redial.next().unwrap();
            waits.push(next - now);
            now = next;
        }
        let expected = [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000].map(Duration::from_millis);
        for (wait, most) in waits.iter().zip(expected) {
            assert!(most / 2 <= *wait && *wait <= most, "{waits:?}");
        }
        for (lived, most) in [(Duration::from_secs(1), REDIAL_WAIT_MAX), (Duration::from_secs(60), REDIAL_WAIT_MIN)] {
            redial.up(NODE);
            assert_eq!(redial.next(), None, "a node that is up is not dialed");
            redial.down(NODE, now, lived);
            let wait = redial.next().unwrap() - now;
            assert!(most / 2 <= wait && wait <= most, "{wait:?} after {lived:?}");
        }
    }

    #[test]
    fn an_address_where_another_answers_is_left_out_until_none_is_left() {
        let now = Instant::now();
        let mut redial = Redial::default();
        redial.want(NODE, vec![address(1), address(2)], false, now);
        assert_eq!(redial.due(now), [(NODE, vec![address(1), address(2)])]);
        for (wrong, left) in [(1, vec![address(2)]), (2, vec![address(1), address(2)])] {
            redial.avoid(NODE, address(wrong));
            redial.failed(NODE, now);
            assert_eq!(redial.due(now + REDIAL_WAIT_MAX), [(NODE, left)]);
        }
    }

    #[test]
    fn a_forgotten_node_is_not_dialed_and_fresh_addresses_are_dialed_at_once() {
        let now = Instant::now();
        let mut redial = Redial::default();
        redial.want(NODE, vec![address(1)], false, now);
        redial.due(now);
        redial.failed(NODE, now);
        redial.want(NODE, vec![address(1)], false, now);
        assert!(redial.due(now).is_empty(), "the same addresses change nothing");
        redial.want(NODE, vec![address(2)], false, now);
        assert_eq!(redial.due(now), [(NODE, vec![address(2)])]);
        redial.forget(NODE);
        redial.failed(NODE, now);
        assert_eq!(redial.next(), None);
    }
}
