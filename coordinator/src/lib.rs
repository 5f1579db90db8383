//! Coordinator and operator command line of Shoal.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`journal`], [`audit`] | what was decided, durable and in order |

pub mod audit;
pub mod journal;
