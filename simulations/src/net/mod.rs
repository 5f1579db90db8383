//! A network of fluid flows: bytes without packets, each flow at its max-min fair rate.
//!
//! A *link* has a capacity; a *flow* goes over one to four links. Rates are max-min fair: no flow can be faster without
//! making one that is not faster than it slower. Equivalently (Bertsekas and Gallager, "Data Networks", section 6.5), each
//! link has a *level*, infinite while its capacity is not used up, each flow's rate is the least level on its way, and a
//! link with a finite level that bounds a flow is full.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `topology` | sites, their trunks, their nodes' access links, and the way from one to another |
//! | `fluid` | the rates, kept up to date flow by flow |
//! | `exact` | the rates from scratch, by progressive filling: what `fluid` is tested against |
//!
//! The interface: [`Fluid::open`] and [`Fluid::close`] flows; [`Fluid::settle`] after the changes of one moment, which says
//! whose rates changed. Invariants: no link carries more than its capacity, whatever is not settled; after `settle` each
//! flow's rate is near the fair one (`fluid` says how near). A flow outlives the blocks it carries: one block's end and the
//! next one's begin change no rate. What flows carry is their owner's matter.

#[cfg(test)]
mod exact;
mod fluid;
mod topology;

pub(crate) use fluid::{FlowId, Fluid};
pub(crate) use topology::{LinkId, Route, Topology};
