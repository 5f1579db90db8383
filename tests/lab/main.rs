//! `shoal-lab`: what Shoal reaches on shaped links, measured with the real programs in network namespaces.
//!
//! `cargo run --release -p shoal-tests --bin shoal-lab -- table` runs everything and prints the table of the README;
//! `… -- fast` runs the small versions; `… -- run A C --runs 3` chooses; `… -- many` starts hundreds of nodes; `… --
//! neighbours` measures the memory of one that fetches from many. The exit code is 0 only if every run kept its targets.
//! Needs root, iproute2, and the programs built in the same profile (it builds them).

mod feed;
mod lab;
mod many;
mod measure;
mod neighbours;
mod network;
mod report;
mod run;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use many::Crowd;
use network::Shape;
use report::Report;
use scenario::{FAST, TABLE};

/// How many times the time of a small version may be what is wanted: its programs are debug builds, and other programs
/// run beside them.
const FAST_PATIENCE: f64 = 2.0;

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
    /// Hundreds of nodes: what they cost at rest, and a deployment to all of them
    Many {
        /// How many, in all
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
        nodes: u32,
        /// In how many sites, each behind 100 Mbit/s
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
        sites: u32,
        /// The package's size in MiB; 0 for no deployment
        #[arg(long, default_value_t = 32)]
        mib: u64,
    },
    /// One node that fetches a large package from all of its neighbours: its memory
    Neighbours {
        /// How many: up to 23, sites are fully connected
        #[arg(long, default_value_t = 23, value_parser = clap::value_parser!(u32).range(1..=200))]
        neighbours: u32,
        /// The package's size in MiB; the disk needs three times as much
        #[arg(long, default_value_t = 10 * 1024, value_parser = clap::value_parser!(u64).range(1..))]
        mib: u64,
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
        Command::Table { runs } => measured(&TABLE, runs, 1.0),
        Command::Fast => measured(&FAST, 1, FAST_PATIENCE),
        Command::Run { names, runs } => {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            measured(&names, runs, 1.0)
        }
        Command::Many { nodes, sites, mib } => {
            let shape = Shape { sites, nodes: nodes.div_ceil(sites), wan: Some(100_000_000), lan: None, crowded: true };
            let kept = many::run(Crowd { shape, mib: (mib > 0).then_some(mib) });
            if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Neighbours { neighbours, mib } => match neighbours::run(neighbours, mib) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
        Command::Feed { file, address } => match feed::serve(&file, &address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot serve {} at {address}: {error}", file.display());
                ExitCode::FAILURE
            }
        },
    }
}

fn measured(names: &[&str], runs: u32, patience: f64) -> ExitCode {
    let mut report = Report::begin(patience);
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
