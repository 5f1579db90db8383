//! `shoal`: the coordinator and the operator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal_coordinator::cli::main()
}
