//! Harness of the end-to-end tests: real processes of `shoal` and `shoal-node` on loopback addresses.
//!
//! [`Mesh`] starts and kills them and asks the command line, [`Origin`] is a feed's HTTP server that counts and can
//! misbehave, [`package`] makes what is deployed, [`until`] waits for an event with a deadline. It knows nothing of Shoal
//! but its programs, their files and their stable names. Whatever goes wrong in it is a panic: the test has failed.

pub mod disk;
pub mod http;
mod mesh;
mod origin;
pub mod package;
mod process;
mod programs;
mod proxy;
pub mod request;
pub mod servers;
mod token_server;
mod wait;

pub use mesh::{Mesh, Ran};
pub use origin::{Behaviour, Credentials, Dialect, Fault, Origin, Store, certificate};
pub use process::Process;
pub use programs::{program, workspace};
pub use proxy::Proxy;
pub use token_server::TokenServer;
pub use wait::{Lazily, until, until_seen};
