//! The lab's table: medians of the runs with their targets, and which of them were missed.

use crate::run::Outcome;
use crate::scenario::{Scenario, Target};

/// A table that is printed as it grows. What is at most wanted stands in brackets; what is more is bold.
pub(crate) struct Report {
    /// What targets of time are multiplied by.
    patience: f64,
    missed: Vec<String>,
}

impl Report {
    /// Prints the head. `patience` is for programs that are not built for speed, on machines that do other things as well.
    pub(crate) fn begin(patience: f64) -> Self {
        println!(
            "| scenario | sites x nodes | package | time | of it `deploy` | bound | time / bound | WAN copies | CPU-s / GiB \
             | nodes + coordinator + feed | node RSS, MiB | coordinator RSS, MiB |"
        );
        println!("|{}", " --- |".repeat(12));
        Self { patience, missed: Vec::new() }
    }

    /// Prints a row.
    pub(crate) fn add(&mut self, scenario: Scenario, outcomes: &[Outcome]) {
        let of = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure).collect());
        let Target { of_bound, seconds: seconds_max, copies, cpu, rss_mib } = scenario.target;
        let seconds = of(|outcome| outcome.seconds);
        let bound = scenario.bound().map(|bound| bound.as_secs_f64());
        let patient = |max: Option<f64>| max.map(|max| max * self.patience);
        let mut missed = Vec::new();
        let mut cell = |what: &str, figure: f64, digits: usize, max: Option<f64>| {
            let Some(max) = max else { return format!("{figure:.digits$}") };
            if figure <= max {
                return format!("{figure:.digits$} ({max})");
            }
            missed.push(format!("{}: {what} {figure:.3}, at most {max} wanted", scenario.name));
            format!("**{figure:.digits$}** ({max})")
        };
        let cells = [
            scenario.name.to_owned(),
            format!("{} x {}", scenario.shape.sites, scenario.shape.nodes),
            format!("{} MiB", scenario.mib),
            cell("seconds", seconds, 2, patient(seconds_max)),
            format!("{:.2}", of(|outcome| outcome.deploy_seconds)),
            bound.map_or("-".to_owned(), |bound| format!("{bound:.2}")),
            bound.map_or("-".to_owned(), |bound| cell("time / bound", seconds / bound, 2, patient(of_bound))),
            cell("WAN copies", of(|outcome| outcome.copies), 3, copies),
            cell("CPU-s / GiB", of(|o| o.node_cpu + o.coordinator_cpu + o.feed_cpu), 2, cpu),
            [of(|o| o.node_cpu), of(|o| o.coordinator_cpu), of(|o| o.feed_cpu)]
                .map(|cpu| format!("{cpu:.2}"))
                .join(" + "),
            cell("node RSS in MiB", of(|outcome| outcome.node_rss_mib), 0, rss_mib),
            format!("{:.0}", of(|outcome| outcome.coordinator_rss_mib)),
        ];
        println!("| {} |", cells.join(" | "));
        self.missed.append(&mut missed);
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
