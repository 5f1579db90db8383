//! The table at the end of a deployment: what each site moved, what that saved, and what failed.

use std::fmt::Write;

use super::table::{Cell, Paint, Style, Table, printable};
use super::units::{bytes, count, duration, percent, ratio};
use crate::api::types::{DeploymentState, Failure, SiteFigures, StepState, StepStatus, Summary};

/// What is shown where a figure is not known.
pub const UNKNOWN: &str = "–";

/// The whole end of a deployment.
pub fn render(summary: &Summary, paint: Paint) -> String {
    let mut text = headline(summary, paint);
    text.push_str(&figures(&summary.sites, paint));
    if let Some(line) = saved(summary) {
        let _ = writeln!(text, "{line}");
    }
    for reason in &summary.reasons {
        let _ = writeln!(text, "{} {}", paint.paint(Style::Bad, "because"), printable(reason));
    }
    // Those with a reason stand below, each with its own.
    let has_reason =
        |node: &&String| summary.failures.iter().any(|failure| failure.node == **node && failure.error.is_some());
    let silent: Vec<_> = summary.excluded.iter().filter(|node| !has_reason(node)).map(String::as_str).collect();
    if !silent.is_empty() {
        let _ = writeln!(text, "{} {}", paint.paint(Style::Warn, "without"), silent.join(", "));
    }
    text.push_str(&failures(&summary.failures, paint));
    text
}

fn headline(summary: &Summary, paint: Paint) -> String {
    let (word, style) = match summary.outcome {
        DeploymentState::Succeeded if summary.excluded.is_empty() => ("succeeded".to_owned(), Style::Good),
        DeploymentState::Succeeded => {
            (format!("succeeded without {} of {} nodes", summary.excluded.len(), summary.nodes), Style::Warn)
        }
        DeploymentState::Cancelled => ("was cancelled".to_owned(), Style::Warn),
        _ => ("failed".to_owned(), Style::Bad),
    };
    let name = paint.paint(Style::Bold, &format!("{} {}", summary.name, summary.release));
    let sites = u32::try_from(summary.sites.len()).unwrap_or(u32::MAX);
    format!(
        "{name} {} in {}   {}, {}, {}\n",
        paint.paint(style, &word),
        duration(summary.duration_ms),
        count(summary.nodes, "node"),
        count(sites, "site"),
        count(summary.steps, "step"),
    )
}

/// The table of sites.
pub fn figures(sites: &[SiteFigures], paint: Paint) -> String {
    let heading = [
        "site",
        "nodes",
        "package bytes",
        "over the WAN",
        "copies",
        "from peers",
        "already there",
        "acquired in",
        "bound",
        "of bound",
    ];
    let mut table = Table::new(2, &heading);
    for site in sites {
        table.row([
            site.site.as_str().into(),
            site.nodes.to_string().into(),
            bytes(site.package_bytes).into(),
            bytes(site.wan_bytes).into(),
            ratio(site.copies).into(),
            bytes(site.peer_bytes).into(),
            bytes(site.local_bytes).into(),
            duration(site.acquire_ms).into(),
            site.bound_ms.map_or(UNKNOWN.to_owned(), duration).into(),
            site.of_bound.map_or(UNKNOWN.to_owned(), percent).into(),
        ]);
    }
    table.render(paint)
}

fn saved(summary: &Summary) -> Option<String> {
    let wanted: u32 = summary.sites.iter().map(|site| site.nodes).sum();
    let copies: f64 = summary.sites.iter().map(|site| site.copies).sum();
    let moved = summary.sites.iter().any(|site| site.package_bytes > 0);
    let noun = if wanted == 1 { "copy" } else { "copies" };
    let (crossed, saved) = (ratio(copies), bytes(summary.saved_bytes));
    moved.then(|| format!("{wanted} {noun} wanted, {crossed} crossed a WAN: {saved} saved."))
}

/// What failed, each step with the last lines that it wrote.
pub fn failures(failures: &[Failure], paint: Paint) -> String {
    let mut text = String::new();
    for failure in failures {
        let site = failure.site.as_ref().map_or(String::new(), |site| format!(" ({site})"));
        let word = match &failure.step {
            None if failure.excluded => paint.paint(Style::Warn, "without"),
            Some(step) if step.state == StepState::Unknown => paint.paint(Style::Warn, "unknown"),
            _ => paint.paint(Style::Bad, "failed"),
        };
        let error = failure.error.as_deref().map(printable);
        let cause = failure.step.as_ref().map_or(error.unwrap_or_default(), step_failure);
        let _ = writeln!(text, "{word}  {}{site}  {cause}", failure.node);
        for line in failure.step.iter().flat_map(|step| &step.tail) {
            let _ = writeln!(text, "    {}", printable(line));
        }
    }
    text
}

fn step_failure(step: &StepStatus) -> String {
    let cause = match (&step.error, step.exit_code) {
        _ if step.state == StepState::Unknown => "nobody saw how it ended".to_owned(),
        (Some(error), Some(code)) if !error.contains(&code.to_string()) => {
            format!("exit code {code}: {}", printable(error))
        }
        (Some(error), _) => printable(error),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "for a reason that was not said".to_owned(),
    };
    let attempts = if step.attempts > 1 { format!(", after {} attempts", step.attempts) } else { String::new() };
    format!("{}  {cause}{attempts}", step.name)
}

/// A cell for a state, in the colour that it deserves.
pub fn state_cell(word: &str, style: Style) -> Cell {
    Cell::new(word, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::sample;

    fn shown(summary: &Summary) -> String {
        render(summary, Paint { on: false })
    }

    #[test]
    fn the_end_shows_what_shoal_was_for() {
        insta::assert_snapshot!(shown(&sample::succeeded().summarise()), @r"
        storefront 2026.11.3 succeeded in 1m 52s   8 nodes, 2 sites, 3 steps
          site  nodes  package bytes  over the WAN  copies  from peers  already there  acquired in  bound  of bound
          osl   4      412.0 MB       51.5 MB       0.13    154.5 MB    1.44 GB        9.0 s        8.3 s  92 %
          syd   4      412.0 MB       51.5 MB       0.13    154.5 MB    1.44 GB        9.1 s        8.3 s  91 %
        8 copies wanted, 0.25 crossed a WAN: 3.19 GB saved.
        ");
    }

    #[test]
    fn a_failure_names_the_node_the_step_and_its_last_words() {
        insta::assert_snapshot!(shown(&sample::failed().summarise()), @r"
        storefront 2026.11.3 failed in 1m 52s   8 nodes, 2 sites, 3 steps
          site  nodes  package bytes  over the WAN  copies  from peers  already there  acquired in  bound  of bound
          osl   4      412.0 MB       51.5 MB       0.13    154.5 MB    1.44 GB        9.0 s        8.3 s  92 %
          syd   4      412.0 MB       51.5 MB       0.13    154.5 MB    1.44 GB        9.1 s        8.3 s  91 %
        8 copies wanted, 0.25 crossed a WAN: 3.19 GB saved.
        because `restart` failed on syd-2 and the operator answered `fail`
        failed  syd-2 (syd)  restart  exit code 3, after 3 attempts
            Stopping acme-web
            acme-web: port 8080  is in use
        ");
    }

    #[test]
    fn nodes_that_were_left_behind_are_named() {
        let text = shown(&sample::without_one().summarise());
        assert!(text.starts_with("storefront 2026.11.3 succeeded without 1 of 8 nodes in 1m 52s"), "{text}");
        assert!(
            text.contains("\nwithout  syd-2 (syd)  excluded by an operator\nfailed  syd-2 (syd)  restart"),
            "{text}"
        );
        let mut without_reason = sample::without_one();
        without_reason.nodes[5].error = None;
        let text = shown(&without_reason.summarise());
        assert!(text.contains("\nwithout syd-2\nfailed"), "{text}");
    }

    #[test]
    fn ignored_failures_are_not_held_against_it() {
        let mut status = sample::failed();
        status.nodes[5].steps[1].ignored = true;
        assert!(status.summarise().failures.is_empty());
        assert_eq!(status.completed(false).steps[1].done, 8);
    }

    #[test]
    fn a_step_whose_end_nobody_saw_is_not_said_to_have_failed() {
        let step =
            StepStatus { state: StepState::Unknown, exit_code: None, error: None, ..sample::failed_step("restart") };
        let failure = Failure { node: "syd-2".to_owned(), site: None, step: Some(step), error: None, excluded: false };
        let text = failures(&[failure], Paint { on: false });
        assert!(text.starts_with("unknown  syd-2  restart  nobody saw how it ended, after 3 attempts\n"), "{text}");
    }

    #[test]
    fn unknown_figures_are_not_shown_as_zero() {
        let mut summary = sample::succeeded().summarise();
        for site in &mut summary.sites {
            *site = SiteFigures { bound_ms: None, ..site.clone() }.with_ratios();
        }
        assert!(shown(&summary).contains("9.0 s        –      –\n"), "{}", shown(&summary));
    }
}
