//! `shoal-sim`: storms from the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use shoal_simulations::storm::Storm;

/// The cores of Shoal over a simulated network.
#[derive(Debug, Parser)]
#[command(name = "shoal-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the cores through crashes, lost connections and liars, and checks every promise after every event.
    Storm {
        /// How many seeds.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        start: u64,
        /// Only this one.
        #[arg(long, conflicts_with_all = ["seeds", "start"])]
        seed: Option<u64>,
        /// What to print beside the verdict: every event of a run.
        #[arg(short, long)]
        verbose: Option<Verbose>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verbose {
    /// Every event and output.
    Trace,
}

fn main() -> ExitCode {
    let Command::Storm { seeds, start, seed, verbose } = Cli::parse().command;
    let seeds = seed.map_or(start..start.saturating_add(seeds), |seed| seed..seed.saturating_add(1));
    let trace = verbose == Some(Verbose::Trace);
    if !trace {
        // A failed check is one line of the report, not a backtrace for each seed.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let mut storm = Storm::default();
    for seed in seeds {
        if let Some(failure) = storm.run(seed, trace) {
            let at = failure.at.as_secs_f64();
            println!("seed {seed} at {at:.6} s: {}; replay: shoal-sim storm --seed {seed} -v trace", failure.what);
        }
    }
    println!("{storm}");
    if storm.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
