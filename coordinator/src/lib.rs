//! Coordinator and operator command line of Shoal.
