//! What goes wrong in a storm, and when. Nothing does after the calm began.

use std::time::Duration;

use shoal_proto::rng::Rng;
use shoal_proto::time::Time;

use crate::away::Away;
use crate::links::Place;
use crate::world::{Event, World};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A node's process dies, and starts again after this.
    CrashNode { node: usize, down: Duration },
    /// The same by a power failure: what is not sealed is lost.
    PowerFails { node: usize, down: Duration },
    /// The coordinator's process dies with all that it has not flushed, and starts again after this.
    CrashCoordinator { down: Duration },
    /// A node's connection to the coordinator breaks, and none comes up for this long.
    CutControl { node: usize, span: Duration },
    /// One of a node's connections to neighbours breaks.
    BreakNeighbour { node: usize },
    /// All that a node moves takes ten times as long, for this long.
    Slow { node: usize, span: Duration },
    /// No origin answers for this long.
    OriginDown { span: Duration },
    /// The coordinator is out of reach for some, for this long.
    Away { away: Away, span: Duration },
    /// A site's WAN limit changes: no fault, but it comes at any time.
    Limit { site: usize, limit: Option<u64> },
    /// A site is shut or opens: no fault either.
    Shut { site: usize, shut: bool },
}

/// The faults of one storm: none where `wild` is 0, more the greater it is.
pub(crate) fn forecast(wild: u64, nodes: usize, calm_at: Time, rng: &mut Rng) -> Vec<(Time, Fault)> {
    let until = calm_at.as_nanos();
    let mut faults: Vec<_> =
        (0..rng.below(1 + 8 * wild)).map(|_| (Time::from_nanos(rng.below(until)), fault(nodes, rng))).collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fault(nodes: usize, rng: &mut Rng) -> Fault {
    let node = usize::try_from(rng.below(nodes as u64)).expect("below a count of nodes");
    match rng.below(12) {
        0 | 1 => Fault::CrashNode { node, down: span(rng) },
        2 => Fault::PowerFails { node, down: span(rng) },
        3..=5 => Fault::CrashCoordinator { down: span(rng) },
        6 | 7 => Fault::CutControl { node, span: span(rng) },
        8 | 9 => Fault::BreakNeighbour { node },
        10 => Fault::Slow { node, span: span(rng) * 4 },
        _ => Fault::OriginDown { span: span(rng) },
    }
}

/// Mostly short, at times long.
fn span(rng: &mut Rng) -> Duration {
    Duration::from_millis(match rng.below(4) {
        0 => rng.below(100),
        1 | 2 => rng.below(3_000),
        _ => rng.below(30_000),
    })
}

impl World {
    pub(crate) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::CrashNode { node, down } => {
                self.crash_node(node);
                self.queue.push(self.now + down, Event::StartNode { node });
            }
            Fault::PowerFails { node, down } => {
                self.crash_node(node);
                for (content, block, bytes) in self.hosts[node].disk.lose_unsealed() {
                    self.checks.wan.lost(self.way(node, content), node, block, bytes);
                }
                self.queue.push(self.now + down, Event::StartNode { node });
            }
            Fault::CrashCoordinator { down } => {
                self.crash_coordinator();
                self.queue.push(self.now + down, Event::StartCoordinator);
            }
            Fault::CutControl { node, span } => {
                self.hosts[node].cut_until = self.hosts[node].cut_until.max(self.now + span);
                self.break_links(|ends| ends.contains(&Place::Node(node)) && ends.contains(&Place::Coordinator));
            }
            Fault::BreakNeighbour { node } => {
                let place = Place::Node(node);
                let of_it = self.links.whole_at(place).into_iter();
                let mut near: Vec<usize> =
                    of_it.filter(|link| self.links.other(*link, place) != Place::Coordinator).collect();
                if !near.is_empty() {
                    let chosen = near.swap_remove(self.pick(near.len()));
                    self.break_link(chosen, Duration::from_secs(12));
                }
            }
            Fault::Away { away, span } => self.go_away(away, span),
            Fault::Limit { site, limit } => self.change_limit(site, limit),
            Fault::Shut { site, shut } => self.shut_site(site, shut),
            Fault::Slow { node, span } => self.hosts[node].slow_until = self.now + span,
            Fault::OriginDown { span } => self.origin_down_until = self.origin_down_until.max(self.now + span),
        }
    }

    pub(crate) fn break_links(&mut self, concerned: impl Fn(&[Place; 2]) -> bool) {
        for link in self.links.whole_at(Place::Coordinator) {
            if concerned(&self.links.link(link).ends) {
                self.break_link(link, Duration::from_secs(12));
            }
        }
    }

    /// Breaks a connection: each end that is alive learns of it at some time up to `silence` from here.
    pub(crate) fn break_link(&mut self, link: usize, silence: Duration) {
        if !self.links.break_link(link) {
            return;
        }
        for end in self.links.link(link).ends {
            let quick = self.rng.below(3) > 0;
            let most = if quick { Duration::from_millis(50) } else { silence };
            let at = self.now + self.within(Duration::ZERO, most);
            self.queue.push(at, Event::LinkDown { link, end, quick });
        }
    }
}
