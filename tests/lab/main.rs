//! `shoal-lab`: what Shoal reaches on shaped links, measured with the real programs in network namespaces.
//!
//! `cargo run --release -p shoal-tests --bin shoal-lab -- table` runs everything and prints the table of the README;
//! `… -- fast` runs the small versions; `… -- run A C --runs 3` chooses. The exit code is 0 only if every run kept its
//! targets. Needs root, iproute2, and the programs built in the same profile (it builds them).

mod feed;
mod measure;
mod network;
mod report;
mod run;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Report;
use scenario::{FAST, TABLE};

/// Measures Shoal in a network of namespaces.
#[derive(Debug, Parser)]
#[command(name = "shoal-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every scenario of the README's table
    Table {
        /// How often each; medians are shown
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
    /// Small versions, for every check
    Fast,
    /// Chosen scenarios
    Run {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// How often each; medians are shown
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
    /// The lab's feed, which it starts itself
    #[command(hide = true)]
    Feed {
        /// What to serve
        file: PathBuf,
        /// Where
        address: String,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Table { runs } => measured(&TABLE, runs),
        Command::Fast => measured(&FAST, 1),
        Command::Run { names, runs } => {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            measured(&names, runs)
        }
        Command::Feed { file, address } => match feed::serve(&file, &address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot serve {} at {address}: {error}", file.display());
                ExitCode::FAILURE
            }
        },
    }
}

fn measured(names: &[&str], runs: u32) -> ExitCode {
    let mut report = Report::begin();
    for name in names {
        let Some(scenario) = scenario::find(name) else {
            let known: Vec<_> = scenario::SCENARIOS.iter().map(|scenario| scenario.name).collect();
            eprintln!("there is no scenario `{name}`: {}", known.join(", "));
            return ExitCode::from(2);
        };
        let outcomes: Vec<_> = (0..runs).map(|_| run::run(scenario)).collect();
        report.add(scenario, &outcomes);
    }
    if report.all_kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
