//! Tables for people: nodes, sites, feeds, join strings, deployments and how one stands. Pure: document in, text out.

use std::fmt::Write;

use super::summary::{UNKNOWN, failures, state_cell};
use super::table::{Cell, Paint, Style, Table, printable};
use super::units::{bytes, count, duration, local, percent, rate, ratio};
use crate::api::types::*;

/// Target nodes that a status lists; past it, only those that need attention.
const NODES_SHOWN_MAX: usize = 50;

/// `nodes ls`.
pub fn nodes(nodes: &Nodes, paint: Paint) -> String {
    let mut table = Table::new(0, &["node", "site", "online", "labels", "cached", "version", "last seen"]);
    for node in &nodes.nodes {
        table.row([
            node.name.as_str().into(),
            node.site.as_str().into(),
            online(node.online),
            labels(node).into(),
            node.cache_bytes.map_or(UNKNOWN.to_owned(), bytes).into(),
            node.version.as_deref().unwrap_or(UNKNOWN).into(),
            node.last_seen.map_or(UNKNOWN.to_owned(), |time| time.to_string()).into(),
        ]);
    }
    or_none(
        nodes.nodes.is_empty(),
        "no node has joined: make a join string with `shoal token create --site SITE`",
        table,
        paint,
    )
}

/// `nodes show`.
pub fn node(node: &Node, paint: Paint) -> String {
    let state = if node.online { paint.paint(Style::Good, "online") } else { paint.paint(Style::Bad, "offline") };
    let mut text = format!("{} is {state}\n", paint.paint(Style::Bold, &node.name));
    let rows = [
        ("site", node.site.clone()),
        ("labels", labels(node)),
        ("id", node.id.clone()),
        ("addresses", node.addresses.join(", ")),
        ("version", node.version.clone().unwrap_or_else(|| UNKNOWN.to_owned())),
        ("cached", node.cache_bytes.map_or(UNKNOWN.to_owned(), bytes)),
        ("last seen", node.last_seen.map_or(UNKNOWN.to_owned(), |time| time.to_string())),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<9}  {}", printable(&value));
    }
    text
}

/// Why a site's WAN limit is what it is.
fn limited_by(site: &Site) -> String {
    match (site.limited_by, site.limited_until) {
        (LimitedBy::Base, _) if site.wan_limit.is_none() => UNKNOWN.to_owned(),
        (LimitedBy::Base, _) => "base".to_owned(),
        (LimitedBy::Calendar, _) => "calendar".to_owned(),
        (LimitedBy::Operator, None) => "operator".to_owned(),
        (LimitedBy::Operator, Some(until)) => format!("operator until {until}"),
    }
}

/// `sites ls`.
pub fn sites(sites: &Sites, paint: Paint) -> String {
    let heading = ["site", "nodes", "online", "WAN limit", "limited by", "WAN rate", "time zone", "steps start"];
    let mut table = Table::new(0, &heading);
    for site in &sites.sites {
        table.row([
            site.name.as_str().into(),
            site.nodes.to_string().into(),
            Cell::new(site.online.to_string(), if site.online < site.nodes { Style::Warn } else { Style::Good }),
            site.wan_limit.map_or("none".to_owned(), rate).into(),
            limited_by(site).into(),
            rate(site.wan_rate).into(),
            site.timezone.as_deref().unwrap_or(UNKNOWN).into(),
            steps_start(site),
        ]);
    }
    or_none(sites.sites.is_empty(), "no site is configured, and no node has joined", table, paint)
}

/// Whether steps start at a site, or from when on.
fn steps_start(site: &Site) -> Cell {
    let Some(shut) = &site.shut else { return Cell::new("yes", Style::Good) };
    let until = shut.until.map_or_else(|| "no".to_owned(), |until| format!("from {}", local(until)));
    let reason = shut.reason.as_ref().map_or_else(String::new, |reason| format!(", frozen: {}", printable(reason)));
    Cell::new(until + &reason, Style::Warn)
}

/// `feeds ls`.
pub fn feeds(feeds: &Feeds, paint: Paint) -> String {
    let mut table = Table::new(0, &["feed", "kind", "location", "mirrors"]);
    for feed in &feeds.feeds {
        let mirrors = if feed.mirrors.is_empty() { UNKNOWN.to_owned() } else { feed.mirrors.join(", ") };
        table.row([
            feed.name.as_str().into(),
            feed.kind.as_str().into(),
            feed.location.as_str().into(),
            mirrors.into(),
        ]);
    }
    or_none(feeds.feeds.is_empty(), "no feed is configured: add a [[feed]] to coordinator.toml", table, paint)
}

/// `feeds test`.
pub fn feed_test(test: &FeedTest, paint: Paint) -> String {
    let mut text = match (&test.package, test.bytes) {
        (Some(package), Some(size)) => {
            let hash = if test.digests.is_empty() { "none told".to_owned() } else { test.digests.join(", ") };
            format!("{}   {}   auth: {}   the feed's own hash: {hash}\n", printable(package), bytes(size), test.auth)
        }
        _ => format!("{}   auth: {}\n", test.feed, test.auth),
    };
    let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    let mut table = Table::new(2, &["place", "for", "works", "ranges", "validator", "first answer", "rate"]);
    for place in &test.places {
        let sites = if place.sites.is_empty() { "all".to_owned() } else { place.sites.join(", ") };
        let ranges = place.ranges.map(|ranges| if ranges { "yes" } else { "no" }.to_owned());
        table.row([
            place.url.as_str().into(),
            sites.into(),
            if place.works { Cell::new("yes", Style::Good) } else { Cell::new("no", Style::Bad) },
            known(ranges).into(),
            known(place.validator.clone()).into(),
            known(place.latency_ms.map(duration)).into(),
            known(place.rate.map(rate)).into(),
        ]);
    }
    text += &table.render(paint);
    for place in &test.places {
        let style = if place.works { Style::Plain } else { Style::Bad };
        let _ = writeln!(text, "{}: {}", printable(&place.url), paint.paint(style, &printable(&place.advice)));
    }
    text
}

/// `token ls`.
pub fn tokens(tokens: &Tokens, paint: Paint) -> String {
    let mut table = Table::new(0, &["id", "site", "roles", "expires", "nodes joined"]);
    for token in &tokens.tokens {
        table.row([
            token.id.as_str().into(),
            token.site.as_str().into(),
            token.roles.join(", ").into(),
            token.expires.to_string().into(),
            token.nodes.to_string().into(),
        ]);
    }
    or_none(
        tokens.tokens.is_empty(),
        "no join string works: make one with `shoal token create --site SITE`",
        table,
        paint,
    )
}

/// `status --list`.
pub fn deployments(deployments: &Deployments, paint: Paint) -> String {
    let mut table = Table::new(0, &["id", "name", "release", "state", "stage", "nodes", "started", "took"]);
    for deployment in &deployments.deployments {
        let took = deployment.ended.map(|ended| duration(ended.ms_since(deployment.started)));
        table.row([
            deployment.id.to_string().into(),
            deployment.name.as_str().into(),
            deployment.release.as_str().into(),
            state(deployment.state),
            stage(deployment.stage).into(),
            deployment.nodes.to_string().into(),
            deployment.started.to_string().into(),
            took.unwrap_or_else(|| UNKNOWN.to_owned()).into(),
        ]);
    }
    or_none(deployments.deployments.is_empty(), "nothing was deployed: `shoal deploy -f FILE`", table, paint)
}

/// `status` of a deployment that goes on.
pub fn status(status: &Status, paint: Paint) -> String {
    let name = paint.paint(Style::Bold, &format!("{} {}", status.name, status.release));
    let sites = u32::try_from(status.sites.len()).unwrap_or(u32::MAX);
    let mut text = format!(
        "{name} ({}) is {} in stage {} after {}   {}, {}, {}\n",
        status.id,
        state_word(status.state),
        stage(status.stage),
        duration(status.duration_ms),
        count(status.nodes_total, "node"),
        count(sites, "site"),
        count(status.steps_total, "step"),
    );
    text.push_str(&taken_back(status));
    let _ = writeln!(text, "{}{}", gate(&status.gate), when(status));
    for reason in &status.waiting {
        let _ = writeln!(text, "{} {}", paint.paint(Style::Warn, "waits:"), printable(reason));
    }
    text.push_str(&site_progress(&status.sites, paint));
    text.push_str(&waves(&status.waves, paint));
    text.push_str(&step_counts(&status.steps, paint));
    text.push_str(&targets(status, paint));
    text.push_str(&failures(&status.failures(), paint));
    text
}

/// Which deployment takes which back, and whom it leaves out, a line each.
pub fn taken_back(status: &Status) -> String {
    let takes = status.takes_back.iter().map(|of| format!("it takes {of} back\n"));
    let taken = status.taken_back_by.iter().map(|by| format!("{by} takes it back: `shoal watch {by}`\n"));
    let left_out = status.left_out.iter().map(|why| format!("{}\n", printable(why)));
    takes.chain(taken).chain(left_out).collect()
}

/// When steps may start, after the gate.
fn when(status: &Status) -> String {
    let at = status.at.filter(|_| !status.gate.open);
    let at = at.map_or_else(String::new, |at| format!(", not before {}", local(at)));
    let begun = |step: &StepCount| step.phase == StepPhase::Steps && step.done + step.running + step.failed > 0;
    let expires = status.expires.filter(|_| !status.steps.iter().any(begun));
    let expires = expires.map_or_else(String::new, |at| format!(", expires {}", local(at)));
    let past = if status.any_hour { ", at any hour" } else { "" };
    format!("{at}{expires}{past}")
}

fn gate(gate: &Gate) -> String {
    let opens = match (gate.open, gate.manual) {
        (true, _) => "open",
        (false, true) => "opens with `shoal release`",
        (false, false) => "opens by itself",
    };
    format!("gate: {} of {} wanted nodes verified (quorum {}), {opens}", gate.acquired, gate.wanted, gate.quorum)
}

fn site_progress(sites: &[SiteStatus], paint: Paint) -> String {
    let heading = ["site", "acquired", "have", "over the WAN", "copies", "from peers", "still missing", "WAN", "peers"];
    let mut table = Table::new(2, &heading);
    for site in sites {
        let figures = &site.figures;
        table.row([
            figures.site.as_str().into(),
            format!("{} of {}", site.nodes_acquired, figures.nodes).into(),
            share(site.have_bytes, figures.wanted_bytes).into(),
            bytes(figures.wan_bytes).into(),
            ratio(figures.copies).into(),
            bytes(figures.peer_bytes).into(),
            bytes(site.missing_bytes).into(),
            rate(site.wan_rate).into(),
            rate(site.peer_rate).into(),
        ]);
    }
    table.render(paint)
}

fn waves(waves: &[WaveStatus], paint: Paint) -> String {
    if waves.is_empty() {
        return String::new();
    }
    let mut table = Table::new(2, &["wave", "state", "nodes", "done", "failed", "excluded"]);
    for wave in waves {
        let (word, style) = match wave.state {
            WaveState::Pending => ("to do", Style::Dim),
            WaveState::Running => ("runs", Style::Plain),
            WaveState::Baking => ("bakes", Style::Plain),
            WaveState::Short => ("too few are through", Style::Warn),
            WaveState::Done => ("is through", Style::Good),
        };
        let failed = if wave.failed > 0 { Style::Bad } else { Style::Plain };
        table.row([
            wave.name.as_str().into(),
            Cell::new(word, style),
            wave.nodes.to_string().into(),
            wave.done.to_string().into(),
            Cell::new(wave.failed.to_string(), failed),
            wave.excluded.to_string().into(),
        ]);
    }
    table.render(paint)
}

/// How steps stand on all of their nodes together; nothing where none was begun.
pub fn step_counts(steps: &[StepCount], paint: Paint) -> String {
    if steps.iter().all(|step| step.done + step.running + step.failed == 0) {
        return String::new();
    }
    let mut table = Table::new(2, &["step", "done", "running", "failed", "to do", "started within"]);
    for step in steps {
        let failed = if step.failed > 0 { Style::Bad } else { Style::Plain };
        table.row([
            step.name.as_str().into(),
            step.done.to_string().into(),
            step.running.to_string().into(),
            Cell::new(step.failed.to_string(), failed),
            step.pending.to_string().into(),
            step.started_within_ms.map_or_else(|| UNKNOWN.to_owned(), duration).into(),
        ]);
    }
    table.render(paint)
}

fn targets(status: &Status, paint: Paint) -> String {
    let all = status.nodes.len() <= NODES_SHOWN_MAX;
    let mut table = Table::new(2, &["node", "site", "state", "has", "online", "step"]);
    let shown = status.nodes.iter().filter(|node| all || node.is_trouble() || !node.online);
    for node in shown.take(NODES_SHOWN_MAX) {
        table.row([
            node.name.as_str().into(),
            node.site.as_str().into(),
            node_state(node.state),
            share(node.have_bytes, node.package_bytes).into(),
            online(node.online),
            last_step(&node.steps).into(),
        ]);
    }
    let mut text = table.render(paint);
    if !all {
        let _ = writeln!(text, "  of {} nodes, those that need attention; `-o json` has them all", status.nodes.len());
    }
    text
}

/// The step that runs or failed, or else the last one that ended.
fn last_step(steps: &[StepStatus]) -> String {
    let telling = |step: &&StepStatus| step.is_trouble() || step.state == StepState::Running;
    let ended = |step: &&StepStatus| step.state != StepState::Pending;
    let step = steps.iter().find(telling).or_else(|| steps.iter().rfind(ended));
    step.map_or(String::new(), |step| format!("{} {}", step.name, step_word(step.state)))
}

fn step_word(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "to do",
        StepState::Running => "runs",
        StepState::Succeeded => "succeeded",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
        StepState::Unknown => "unknown",
    }
}

fn node_state(state: NodeState) -> Cell {
    let (word, style) = match state {
        NodeState::Pending => ("pending", Style::Dim),
        NodeState::Acquiring => ("acquiring", Style::Plain),
        NodeState::Ready => ("ready", Style::Plain),
        NodeState::Running => ("running", Style::Plain),
        NodeState::NeedsAnswer => ("needs an answer", Style::Warn),
        NodeState::Succeeded => ("succeeded", Style::Good),
        NodeState::Failed => ("failed", Style::Bad),
        NodeState::Excluded => ("excluded", Style::Warn),
    };
    state_cell(word, style)
}

fn state(state: DeploymentState) -> Cell {
    let style = match state {
        DeploymentState::Running => Style::Plain,
        DeploymentState::Succeeded => Style::Good,
        DeploymentState::Failed => Style::Bad,
        DeploymentState::Paused | DeploymentState::Blocked | DeploymentState::Cancelled => Style::Warn,
    };
    state_cell(state_word(state), style)
}

/// The state as JSON has it.
pub fn state_word(state: DeploymentState) -> &'static str {
    match state {
        DeploymentState::Running => "running",
        DeploymentState::Paused => "paused",
        DeploymentState::Blocked => "blocked",
        DeploymentState::Succeeded => "succeeded",
        DeploymentState::Failed => "failed",
        DeploymentState::Cancelled => "cancelled",
    }
}

/// The stage as JSON has it.
pub fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::BeforeAcquire => "before-acquire",
        Stage::Acquire => "acquire",
        Stage::Release => "release",
        Stage::Steps => "steps",
        Stage::Done => "done",
    }
}

fn online(online: bool) -> Cell {
    if online { Cell::new("yes", Style::Good) } else { Cell::new("no", Style::Bad) }
}

fn labels(node: &Node) -> String {
    let labels: Vec<_> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(" ")
}

/// How much of `whole` is there; nothing wanted is all there.
pub fn share(part: u64, whole: u64) -> String {
    // Rounded down, so that 100 % means all.
    percent(if whole == 0 { 1.0 } else { (part as f64 / whole as f64 * 100.0).floor() / 100.0 })
}

/// A table, or a sentence where it would be empty.
pub(super) fn or_none(empty: bool, none: &str, table: Table, paint: Paint) -> String {
    if empty { format!("{none}\n") } else { table.render(paint) }
}
