//! Two operators at once: each looks, and both say what they want at the same moment, one the contrary of the other. In two of
//! thirteen seeds, so that the others mean what they meant.
//!
//! Whatever the first has changed, the second is refused or obeyed by what holds then; the checks say whether what follows
//! is of one mind.

use shoal_proto::coordinator::DeploymentView;
use shoal_proto::id::NodeId;
use shoal_proto::rollout::{Actor, Operator, Which};

use crate::world::World;

impl World {
    /// Two operators disagree on what they have just seen.
    pub(crate) fn disagree(&mut self, views: &[DeploymentView]) {
        if !self.scenario.two_operators || self.calm {
            return;
        }
        for view in views.iter().map(|view| &view.rollout).filter(|view| view.outcome.is_none()) {
            if self.rng.below(3) > 0 {
                continue;
            }
            let nodes: Vec<NodeId> = view.nodes.iter().map(|node| node.node).collect();
            let node = nodes[self.pick(nodes.len())];
            let [first, second] = self.contraries(node);
            let id = view.deployment;
            let answers = [self.operate(id, first), self.operate(id, second)];
            self.totals.disagreements += 1;
            self.totals.disagreements_refused += u64::from(answers != [true; 2]);
        }
    }

    fn contraries(&mut self, node: NodeId) -> [Operator; 2] {
        let all = Which { actor: None, step: None };
        let one = Which { actor: Some(Actor::Node(node)), step: None };
        let pair = match self.rng.below(12) {
            0 => [Operator::Pause, Operator::Resume],
            1 => [Operator::Pause, Operator::Retry(all)],
            2 => [Operator::Release, Operator::Pause],
            3 => [Operator::Promote, Operator::Pause],
            4 => [Operator::Retry(all), Operator::Ignore(all)],
            5 => [Operator::Retry(all), Operator::Retry(all)],
            6 => [Operator::Retry(one), Operator::Exclude(one)],
            7 => [Operator::Exclude(one), Operator::Exclude(one)],
            8 => [Operator::Ignore(all), Operator::Fail(all)],
            9 => [Operator::Cancel, Operator::Rollback],
            10 => [Operator::Cancel, Operator::Resume],
            _ => [Operator::Pause, Operator::Pause],
        };
        // What ends a deployment is said rarely enough that others go on.
        let ends = pair.iter().any(|command| matches!(command, Operator::Cancel | Operator::Fail(_)));
        let pair = if ends && self.rng.below(4) > 0 { [Operator::Pause, Operator::Resume] } else { pair };
        let [first, second] = pair;
        if self.rng.below(2) == 0 { [first, second] } else { [second, first] }
    }
}
