//! Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): whoever knows the
//! same nodes names the same one for a thing, and a node that goes moves only what was its own.

use crate::id::{ContentId, NodeId};
use crate::rng::mix;

/// The weight of `node` for a run of a content: the node with the greatest one is named.
pub(crate) fn weight(content: ContentId, run: u32, node: NodeId) -> (u64, NodeId) {
    let of_content = fold(mix(u64::from(run)), &content.0);
    (fold(of_content, &node.0), node)
}

fn fold(start: u64, bytes: &[u8; 32]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    words.fold(start, |sum, word| mix(sum ^ word))
}

/// The `most` nodes with the greatest weights for a content as a whole, in the order of their keys.
pub(crate) fn chosen(content: ContentId, nodes: impl Iterator<Item = NodeId>, most: usize) -> Vec<NodeId> {
    let mut ranked: Vec<_> = nodes.map(|node| weight(content, u32::MAX, node)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    let mut nodes: Vec<_> = ranked.into_iter().take(most).map(|(_, node)| node).collect();
    nodes.sort_unstable();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_spread_evenly_and_a_loss_moves_only_what_was_lost() {
        let nodes: Vec<_> = (0..8).map(|number| NodeId([number; 32])).collect();
        let named = |run, without: Option<NodeId>| {
            let there = nodes.iter().copied().filter(|node| Some(*node) != without);
            there.max_by_key(|node| weight(ContentId([9; 32]), run, *node)).unwrap()
        };
        for node in &nodes {
            let own = (0..800).filter(|run| named(*run, None) == *node).count();
            assert!((60..140).contains(&own), "{own} of 800 runs");
        }
        let gone = nodes[3];
        for run in (0..800).filter(|run| named(*run, None) != gone) {
            assert_eq!(named(run, Some(gone)), named(run, None));
        }
    }

    #[test]
    fn the_chosen_change_by_one_when_one_comes() {
        let nodes = |count| (0..count).map(|number| NodeId([number; 32]));
        let before = chosen(ContentId([1; 32]), nodes(20), 8);
        let after = chosen(ContentId([1; 32]), nodes(21), 8);
        assert_eq!(before.len(), 8);
        assert!(before.iter().filter(|node| !after.contains(node)).count() <= 1);
    }
}
