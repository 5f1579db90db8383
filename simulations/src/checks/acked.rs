//! ACKED-IS-KEPT: what an operator was answered, or told, is still so after every restart.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::id::DeploymentId;
use shoal_proto::rollout::Outcome;

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Acked {
    created: BTreeSet<DeploymentId>,
    finished: BTreeMap<DeploymentId, Outcome>,
}

impl Acked {
    /// The operator was told that this deployment exists.
    pub(crate) fn created(&mut self, id: DeploymentId) {
        self.created.insert(id);
    }

    /// The operator was told that it is over; never twice with different ends.
    pub(crate) fn finished(&mut self, id: DeploymentId, outcome: Outcome) -> Result<(), String> {
        match self.finished.insert(id, outcome.clone()) {
            Some(before) if before != outcome => Err(format!("{id} ended as {before:?}, and then as {outcome:?}")),
            _ => Ok(()),
        }
    }

    /// A coordinator started: `known` says which deployments it knows, and how they ended.
    pub(crate) fn restarted(&self, known: impl Fn(DeploymentId) -> Option<Option<Outcome>>) -> Result<(), String> {
        if let Some(id) = self.created.iter().find(|id| known(**id).is_none()) {
            return Err(format!("{id} was answered for, and is gone after a restart"));
        }
        let changed = self.finished.iter().find(|(id, outcome)| known(**id).flatten().as_ref() != Some(*outcome));
        match changed {
            Some((id, outcome)) => Err(format!("{id} ended as {outcome:?}, which a restart does not know")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_deployment_is_caught() {
        let mut acked = Acked::default();
        acked.created(DeploymentId(1));
        assert_eq!(acked.restarted(|_| Some(None)), Ok(()));
        assert!(acked.restarted(|_| None).unwrap_err().contains("gone"));
    }

    #[test]
    fn a_forgotten_end_is_caught() {
        let mut acked = Acked::default();
        assert_eq!(acked.finished(DeploymentId(1), Outcome::Succeeded), Ok(()));
        assert_eq!(acked.restarted(|_| Some(Some(Outcome::Succeeded))), Ok(()));
        assert!(acked.restarted(|_| Some(None)).is_err());
        assert!(acked.finished(DeploymentId(1), Outcome::Cancelled).is_err());
    }
}
