//! `shoal-sim`: storms and benches from the command line.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use shoal_simulations::bench::{self, Case};
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
    /// Measures how near the cores come to what is possible.
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// One site acquires one package: completion over the lower bound, WAN copies, requests in flight, messages.
    Swarm(Swarm),
}

#[derive(Debug, Args)]
struct Swarm {
    /// Every case of the table of figures to reach; options for a single case are left aside.
    #[arg(long)]
    table: bool,
    /// Nodes of the site. Of more than 20,000, which a coordinator takes, the others only get what these read.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Blocks of the package.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    blocks: u32,
    /// Bytes of a block.
    #[arg(long, default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(1..))]
    block_bytes: u32,
    /// A node's link in MB/s.
    #[arg(long, default_value_t = 25.0, value_parser = positive)]
    lan: f64,
    /// The WAN as multiple of a node's link.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    wan: f64,
    /// Percent of the nodes that are killed.
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    churn: f64,
    /// Percent of the nodes that are slow.
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    slow: f64,
    /// The speed of a slow node.
    #[arg(long, default_value_t = 0.1, value_parser = positive)]
    slow_speed: f64,
    /// Other nodes are up to this many times as fast, or as slow.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    spread: f64,
    /// Percent of the nodes that must be done.
    #[arg(long, default_value_t = 100.0, value_parser = percent)]
    quorum: f64,
    /// Where random choices start from; more than one runs the case with each and shows the mean.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Check the cores' invariants on the way.
    #[arg(long)]
    check: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err(format!("{text} is not above 0")) }
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err(format!("{text} is not from 0 to 100")) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verbose {
    /// Every event and output.
    Trace,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Storm { seeds, start, seed, verbose } => {
            let seeds = seed.map_or(start..start.saturating_add(seeds), |seed| seed..seed.saturating_add(1));
            storm(seeds, verbose == Some(Verbose::Trace))
        }
        Command::Bench { bench: Bench::Swarm(swarm) } if swarm.table => table(&swarm),
        Command::Bench { bench: Bench::Swarm(swarm) } => {
            measure(&swarm.case(), swarm.seed..swarm.seed.saturating_add(swarm.seeds));
            ExitCode::SUCCESS
        }
    }
}

fn storm(seeds: std::ops::Range<u64>, trace: bool) -> ExitCode {
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

impl Swarm {
    fn case(&self) -> Case {
        Case {
            nodes: self.nodes as usize,
            blocks: self.blocks,
            block_bytes: self.block_bytes,
            lan: self.lan * 1e6,
            wan: self.wan,
            churn: self.churn / 100.0,
            slow: self.slow / 100.0,
            slow_speed: self.slow_speed,
            spread: self.spread.max(1.0 / self.spread),
            quorum: (self.quorum / 100.0).max(f64::MIN_POSITIVE),
            seed: self.seed,
            check: self.check,
            ..Case::DEFAULT
        }
    }
}

/// Runs a case with each seed and prints what came of it; the mean ratio and the mean number of copies.
fn measure(case: &Case, seeds: std::ops::Range<u64>) -> [f64; 2] {
    let mut sums = [0.0; 2];
    let count = seeds.clone().count() as f64;
    for seed in seeds {
        let begun = Instant::now();
        let outcome = bench::run(&Case { seed, ..case.clone() });
        let [half, most, all_but] = [0.5, 0.99, 0.999].map(|part| outcome.ratio_at(part));
        println!("  {outcome}  p50 {half:.3} p99 {most:.3} p99.9 {all_but:.3}  {:.1} s", begun.elapsed().as_secs_f64());
        sums = [sums[0] + outcome.ratio(), sums[1] + outcome.wan_copies];
    }
    let means = sums.map(|sum| sum / count);
    if count > 1.0 {
        println!("  mean: {:.4} x bound, copies {:.4}", means[0], means[1]);
    }
    means
}

/// The table; fails if a figure is not reached.
fn table(swarm: &Swarm) -> ExitCode {
    let mut missed = 0;
    for row in bench::rows() {
        let mut ratios = Vec::new();
        let mut copies: f64 = 0.0;
        let begun = Instant::now();
        for seed in swarm.seed..swarm.seed.saturating_add(swarm.seeds) {
            let outcome = bench::run(&Case { seed, ..row.case.clone() });
            ratios.push(if row.part < 1.0 { outcome.ratio_at(row.part) } else { outcome.ratio() });
            copies = copies.max(outcome.wan_copies);
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let reached = mean <= row.ratio_max && copies <= row.copies_max;
        missed += u32::from(!reached);
        let verdict = if reached { "reached" } else { "MISSED" };
        let (name, most, seconds) = (row.name, row.ratio_max, begun.elapsed().as_secs_f64());
        println!("{name:48} {mean:6.4} (<= {most:5.3})  copies {copies:6.4}  {verdict:8} {seconds:6.1} s");
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
