//! Which packages the store keeps whatever its size: those of every deployment that the node knows.
//!
//! After a restart the node knows of no deployment, and the store remembers what it was told last. So nothing is said before
//! the coordinator has said all that it has to say, which a roster ends ([`crate::wire::Roster`]). From there on the whole
//! set is said whenever it changes; room is made when it got smaller and nothing is being acquired, as what is acquired may
//! be filled from packages that nothing pins.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::Output;
use crate::id::{DeploymentId, PackageId, RecipeId};

/// A package that a deployment wants kept, held or not yet, with its recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pin {
    /// The package.
    pub package: PackageId,
    /// Who wants it kept.
    pub deployment: DeploymentId,
    /// Its recipe.
    pub recipe: RecipeId,
}

/// What was said of pins.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// The set that was said last; `None` until the coordinator was heard.
    said: Option<BTreeSet<Pin>>,
    room_due: bool,
}

impl Pins {
    /// The coordinator has said all: `pins` is what it wants kept.
    pub(super) fn heard(&mut self, pins: BTreeSet<Pin>, out: &mut VecDeque<Output>) {
        if self.said.as_ref() != Some(&pins) {
            self.room_due |= self.said.as_ref().is_none_or(|said| !said.is_subset(&pins));
            self.said = Some(pins.clone());
            out.push_back(Output::Pins(pins));
        }
    }

    /// The same when a deployment came or went, which is not all that is to be said.
    pub(super) fn changed(&mut self, pins: BTreeSet<Pin>, out: &mut VecDeque<Output>) {
        if self.said.is_some() {
            self.heard(pins, out);
        }
    }

    /// Has room made if that is due and `idle` says that nothing is being acquired.
    pub(super) fn make_room(&mut self, idle: impl FnOnce() -> bool, out: &mut VecDeque<Output>) {
        if self.room_due && idle() {
            self.room_due = false;
            out.push_back(Output::MakeRoom);
        }
    }

    pub(super) fn check(&self, pins: &BTreeSet<Pin>) {
        assert!(self.said.as_ref().is_none_or(|said| said == pins), "the store was told of other pins");
    }
}
