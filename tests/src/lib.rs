//! End-to-end tests of Shoal with real processes.
