//! The cores of Shoal over a simulated network.
