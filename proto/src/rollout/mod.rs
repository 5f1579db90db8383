//! The rollout of one deployment: from the deployment file to the manifest, and from the manifest to its end.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`spec`], [`units`], [`nearest`] | the deployment file as a person writes it |
//! | [`gate`] | the arithmetic of the quorum |
//! | `input`, `record`, `effect` | what [`Rollout`] is told, what it journals, what it wants done |
//! | `view` | the status that a person sees |

mod effect;
pub mod gate;
mod input;
pub mod nearest;
mod record;
pub mod spec;
pub mod units;
pub mod view;

pub use effect::{Decision, Effect};
pub use input::{Actor, Failure, Input, Now, Operator, Refusal, StepOutcome, Which};
pub use record::{Change, End, Exclusion, Outcome, Record};
