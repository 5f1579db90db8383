//! How a deployment is shown while it goes on: a bar for each site on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::render::{share, stage};
use super::table::{Style, printable};
use super::terminal::Terminal;
use super::units::{bytes, duration, rate};
use crate::api::types::{DeploymentState, Event, EventKind, SiteStatus, Stage, Status};

/// Sites that have a bar: as many as fit on a small terminal.
const SITES_DRAWN_MAX: usize = 16;

/// Shows events and statuses of one deployment on standard error.
pub enum Progress {
    /// Bars that are drawn over themselves.
    Bars(Bars),
    /// A line for each tenth of a site's bytes, and for what holds it up; with what was said last.
    Lines(Said),
    /// Nothing.
    Silent,
}

/// What was said last in lines.
#[derive(Default)]
pub struct Said {
    /// The tenth of its bytes, by site.
    tenths: BTreeMap<String, u64>,
    waits: String,
}

/// One bar a site and a line for the rest.
pub struct Bars {
    all: MultiProgress,
    sites: BTreeMap<String, ProgressBar>,
    below: Option<ProgressBar>,
}

impl Progress {
    /// As the terminal allows and the operator wants.
    pub fn new(terminal: &Terminal) -> Self {
        if terminal.quiet {
            Self::Silent
        } else if terminal.err_is_terminal {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            Self::Bars(Bars { all, sites: BTreeMap::new(), below: None })
        } else {
            Self::Lines(Said::default())
        }
    }

    /// Shows what happened.
    pub fn event(&mut self, event: &Event, terminal: &mut Terminal) {
        if !terminal.verbose && is_detail(event.event) {
            return;
        }
        let style = match event.event {
            EventKind::StepFailed => Style::Bad,
            EventKind::StepUnknown | EventKind::Waiting | EventKind::Node => Style::Warn,
            _ => Style::Plain,
        };
        let line = terminal.err_paint.paint(style, &printable(&event.message));
        match self {
            Self::Bars(bars) => {
                // A terminal that went away is noticed where the results are printed.
                let _ = bars.all.println(line);
            }
            Self::Lines(_) => terminal.note(&format!("{} {line}", event.time)),
            Self::Silent => {}
        }
    }

    /// Shows how it stands.
    pub fn status(&mut self, status: &Status, terminal: &mut Terminal) {
        match self {
            Self::Bars(bars) => bars.update(status),
            Self::Lines(said) => said.update(status, terminal),
            Self::Silent => {}
        }
    }

    /// Takes the bars away, so that results can be printed.
    pub fn clear(&mut self) {
        if let Self::Bars(bars) = self {
            // As above.
            let _ = bars.all.clear();
            // Bars draw themselves once more when they are dropped.
            bars.all.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}

impl Said {
    fn update(&mut self, status: &Status, terminal: &mut Terminal) {
        for site in status.sites.iter().filter(|_| status.stage == Stage::Acquire) {
            let tenth = site.have_bytes.saturating_mul(10) / site.figures.wanted_bytes.max(1);
            if self.tenths.insert(site.figures.site.clone(), tenth) != Some(tenth) {
                terminal.note(&format!("{}: {}", site.figures.site, site_line(site)));
            }
        }
        let waits = status.waiting.first().filter(|_| status.state == DeploymentState::Blocked);
        let waits = waits.map(|reason| printable(reason)).unwrap_or_default();
        if waits != self.waits && !waits.is_empty() {
            terminal.note(&format!("waits: {waits}"));
        }
        self.waits = waits;
    }
}

impl Bars {
    fn update(&mut self, status: &Status) {
        let width = status.sites.iter().map(|site| site.figures.site.len()).max().unwrap_or(0);
        for site in status.sites.iter().take(SITES_DRAWN_MAX) {
            let bar = self.sites.entry(site.figures.site.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(site.figures.wanted_bytes).with_style(bar_style());
                // Complete before it is added, which draws it.
                self.all.add(bar.with_prefix(format!("{:width$}", site.figures.site)).with_message(site_line(site)))
            });
            bar.set_position(site.have_bytes);
            bar.set_message(site_line(site));
        }
        let below = self.below.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            self.all.add(ProgressBar::new(1).with_style(style))
        });
        below.set_message(below_line(status));
    }
}

fn bar_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{prefix}  {bar:24}  {msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
}

/// Whether only the verbose want to see it: one such event for every node or step.
fn is_detail(kind: EventKind) -> bool {
    matches!(kind, EventKind::Acquired | EventKind::StepStarted | EventKind::StepSucceeded)
}

/// What a site is at, in a line.
fn site_line(site: &SiteStatus) -> String {
    let figures = &site.figures;
    if site.nodes_acquired == figures.nodes {
        let (wan, time) = (bytes(figures.wan_bytes), duration(figures.acquire_ms));
        return format!("{} nodes acquired in {time}, {wan} over the WAN", figures.nodes);
    }
    let eta = remaining_s(site).map_or(String::new(), |seconds| format!(", {} to go", duration(seconds * 1000)));
    format!(
        "{} of {}, {} of {} nodes, WAN {}, peers {}{eta}",
        share(site.have_bytes, figures.wanted_bytes),
        bytes(figures.wanted_bytes),
        site.nodes_acquired,
        figures.nodes,
        rate(site.wan_rate),
        rate(site.peer_rate),
    )
}

/// Seconds until the site has everything at its present rates: what is missing crosses the WAN, the rest travels inside.
fn remaining_s(site: &SiteStatus) -> Option<u64> {
    let needed = site.figures.wanted_bytes.saturating_sub(site.have_bytes);
    let seconds = |bytes: u64, rate: u64| if bytes == 0 { Some(0) } else { bytes.checked_div(rate) };
    Some(seconds(site.missing_bytes, site.wan_rate)?.max(seconds(needed, site.wan_rate + site.peer_rate)?))
}

/// What the deployment is at beside bytes, in a line.
fn below_line(status: &Status) -> String {
    let step = status.steps.iter().find(|step| step.running + step.failed > 0);
    let step = step.or_else(|| status.steps.iter().find(|step| step.pending > 0));
    let doing = match (status.stage, step) {
        (Stage::BeforeAcquire | Stage::Steps, Some(step)) => {
            let all = step.done + step.running + step.failed + step.pending;
            let failed = if step.failed > 0 { format!(", {} failed", step.failed) } else { String::new() };
            format!("{}: {} of {all} done, {} running{failed}", step.name, step.done, step.running)
        }
        _ => stage(status.stage).to_owned(),
    };
    let waits = status.waiting.first().map_or(String::new(), |reason| format!(" – {}", printable(reason)));
    let hidden = status.sites.len().saturating_sub(SITES_DRAWN_MAX);
    let hidden = if hidden > 0 { format!(", {hidden} more sites") } else { String::new() };
    format!("{doing}, {}{hidden}{waits}", duration(status.duration_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::sample;

    #[test]
    fn a_site_says_how_far_it_is_and_how_long_it_takes() {
        let mut status = sample::acquiring();
        let line = "93 % of 1.65 GB, 0 of 4 nodes, WAN 6.2 MB/s, peers 18.7 MB/s, 4.0 s to go";
        assert_eq!(site_line(&status.sites[1]), line);
        status.sites[1].wan_rate = 0;
        assert!(site_line(&status.sites[1]).ends_with("peers 18.7 MB/s"), "without a rate there is no estimate");
        assert_eq!(site_line(&sample::succeeded().sites[0]), "4 nodes acquired in 9.0 s, 51.5 MB over the WAN");
    }

    #[test]
    fn the_line_below_names_the_step_and_what_it_waits_for() {
        let status = sample::paused().completed(true);
        let line = "restart: 7 of 8 done, 0 running, 1 failed, 1m 52s – `restart` failed on syd-2: answer with \
                    `shoal retry|ignore|exclude|fail d12 --node syd-2`";
        assert_eq!(below_line(&status), line);
        let mut status = sample::acquiring();
        assert!(below_line(&status).starts_with("acquire, 4.0 s – syd-3 is offline"));
        status.sites.extend(vec![status.sites[0].clone(); SITES_DRAWN_MAX]);
        assert!(below_line(&status).starts_with("acquire, 4.0 s, 2 more sites – syd-3"), "{}", below_line(&status));
    }
}
