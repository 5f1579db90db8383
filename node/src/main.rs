//! `shoal-node`: the agent on every target machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_node::cli::main()
}
