//! The lab's table: medians of the runs, and which targets they missed.

use crate::run::Outcome;
use crate::scenario::{Scenario, Target};

/// A table that is printed as it grows.
pub(crate) struct Report {
    missed: Vec<String>,
}

impl Report {
    /// Prints the head.
    pub(crate) fn begin() -> Self {
        println!(
            "| scenario | sites x nodes | package | time | of which `deploy` | bound | time / bound | WAN copies \
             | CPU-s / GiB: all | nodes | coordinator | feed | node RSS | coordinator RSS |"
        );
        println!("|{}", " --- |".repeat(14));
        Self { missed: Vec::new() }
    }

    /// Prints a row.
    pub(crate) fn add(&mut self, scenario: Scenario, outcomes: &[Outcome]) {
        let of = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure).collect());
        let seconds = of(|outcome| outcome.seconds);
        let bound = scenario.bound().map(|bound| bound.as_secs_f64());
        let ratio = bound.map(|bound| seconds / bound);
        let (copies, rss) = (of(|o| o.copies), of(|o| o.node_rss_mib));
        let cpu = of(|o| o.node_cpu + o.coordinator_cpu + o.feed_cpu);
        let shown =
            |figure: Option<f64>, unit: &str| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}{unit}"));
        println!(
            "| {} | {} x {} | {} MiB | {seconds:.2} s | {:.2} s | {} | {} | {copies:.3} | {cpu:.2} | {:.2} | {:.2} | {:.2} | {rss:.0} MiB | {:.0} MiB |",
            scenario.name,
            scenario.shape.sites,
            scenario.shape.nodes,
            scenario.mib,
            of(|outcome| outcome.deploy_seconds),
            shown(bound, " s"),
            shown(ratio, ""),
            of(|outcome| outcome.node_cpu),
            of(|outcome| outcome.coordinator_cpu),
            of(|outcome| outcome.feed_cpu),
            of(|outcome| outcome.coordinator_rss_mib),
        );
        let Target { of_bound, seconds: seconds_max, copies: copies_max, cpu: cpu_max, rss_mib } = scenario.target;
        for (what, figure, max) in [
            ("time / bound", ratio.unwrap_or_default(), of_bound),
            ("seconds", seconds, seconds_max),
            ("WAN copies", copies, copies_max),
            ("CPU-s / GiB", cpu, cpu_max),
            ("node RSS in MiB", rss, rss_mib),
        ] {
            if let Some(max) = max.filter(|max| figure > *max) {
                self.missed.push(format!("{}: {what} {figure:.3}, at most {max} wanted", scenario.name));
            }
        }
    }

    /// Says which targets were missed; whether none was.
    pub(crate) fn all_kept(&self) -> bool {
        for missed in &self.missed {
            println!("missed: {missed}");
        }
        self.missed.is_empty()
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}
