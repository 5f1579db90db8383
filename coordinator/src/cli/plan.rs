//! `shoal plan`: what a deployment file would do at this moment, shown, and kept in a file for `deploy --plan`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::args::{Format, PlanArgs};
use super::client::Client;
use super::deploy::read;
use super::exit::{CliError, Exit};
use super::rollback;
use super::summary::UNKNOWN;
use super::table::{Cell, Paint, Style, Table, printable};
use super::terminal::Terminal;
use super::units::{bytes, count, duration, rate};
use crate::api::limits::BODY_BYTES_MAX;
use crate::api::types::{DeployRequest, Plan, PlannedNode, PlannedSite, PlannedWave, RateFrom};

/// Target nodes that are listed; past it, they are only counted.
const NODES_SHOWN_MAX: usize = 50;

/// Shows a plan, and writes it to a file if asked to.
///
/// # Errors
/// If the file cannot be read, the coordinator refuses it, or the plan cannot be written.
pub async fn run(client: &Client, terminal: &mut Terminal, args: PlanArgs) -> Result<Exit, CliError> {
    let file = match (args.rollback, &args.file) {
        (Some(id), _) => return rollback::plan(client, terminal, id, args.out.as_deref()).await,
        (None, Some(file)) => file,
        (None, None) => return Err(CliError::new(Exit::Usage, "a deployment file is needed").next("`-f FILE`")),
    };
    let text = read(file)?;
    let file = file.display().to_string();
    let variables = args.variables.given.into_iter().collect();
    let request = DeployRequest { file, text, stage_only: args.stage_only, variables, ..DeployRequest::default() };
    terminal.note(&format!("resolving the packages of {}", request.file));
    let plan = client.plan(&request).await?;
    if let Some(path) = &args.out {
        write(path, &plan)?;
        terminal.note(&format!(
            "plan {} is in {}: `shoal deploy --plan` carries it out",
            plan.hash.short(),
            path.display()
        ));
    }
    match terminal.format {
        Format::Table => terminal.text(&render(&plan, terminal.paint))?,
        Format::Json | Format::Jsonl => terminal.json(&plan)?,
    }
    Ok(Exit::Done)
}

pub(super) fn write(path: &Path, plan: &impl serde::Serialize) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::new(Exit::Unexpected, format!("cannot write the plan to {}: {error}", path.display()))
    };
    let text = serde_json::to_string_pretty(plan).map_err(|error| failed(error.into()))?;
    fs::write(path, text + "\n").map_err(failed)
}

/// The plan in the file at `path`.
///
/// # Errors
/// If there is none.
pub fn load<P: serde::de::DeserializeOwned>(path: &Path, made_by: &str) -> Result<P, CliError> {
    let wrong = |error: String| {
        let message = format!("{} is no plan: {error}", path.display());
        CliError::new(Exit::Usage, message).next(format!("`{made_by}` makes one"))
    };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    if text.len() > BODY_BYTES_MAX {
        return Err(wrong(format!("it is over {BODY_BYTES_MAX} bytes")));
    }
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// A plan for people.
pub fn render(plan: &Plan, paint: Paint) -> String {
    let of = |number: usize, thing| count(u32::try_from(number).unwrap_or(u32::MAX), thing);
    let mut text = format!(
        "{}   {}, {}, {}, {}   plan {}\n",
        paint.paint(Style::Bold, &format!("{} {}", plan.name, plan.release)),
        of(plan.nodes.len(), "node"),
        of(plan.sites.len(), "site"),
        of(plan.packages.len(), "package"),
        of(plan.steps.len(), "step"),
        plan.hash.short(),
    );
    let mut packages = Table::new(2, &["package", "from", "size", "blake3"]);
    for package in &plan.packages {
        packages.row([
            package.name.as_str().into(),
            package.reference.as_str().into(),
            bytes(package.size).into(),
            package.blake3.short().into(),
        ]);
    }
    text.push_str(&packages.render(paint));
    text.push_str(&sites(&plan.sites, paint));
    if !plan.waves.is_empty() {
        text.push_str(&waves(&plan.waves, paint));
    }
    if plan.nodes.len() <= NODES_SHOWN_MAX {
        text.push_str(&nodes(&plan.nodes, paint));
    }
    let what = if plan.stage_only { "only brings the packages".to_owned() } else { format!("the gate {}", plan.gate) };
    let estimate = match plan.estimate_ms {
        Some(ms) => format!("packages take about {}", duration(ms)),
        None => "how long packages take is not known: a site has no WAN limit, and none was read there yet".to_owned(),
    };
    let _ = writeln!(text, "{estimate}; {what}");
    for blocker in &plan.blockers {
        let _ = writeln!(text, "{} {}", paint.paint(Style::Warn, "in the way:"), printable(blocker));
    }
    if let Some(since) = &plan.as_wanted_since {
        let _ = writeln!(text, "nothing to do: {}", as_wanted(since));
    }
    text
}

/// That a deployment changed nothing.
pub fn as_wanted(since: &str) -> String {
    format!("all is as wanted since {since}; `shoal deploy --again` runs it all the same")
}

pub(super) fn sites(sites: &[PlannedSite], paint: Paint) -> String {
    let heading = ["site", "nodes", "wanted", "already there", "over the WAN", "from peers", "WAN", "takes about"];
    let mut table = Table::new(2, &heading);
    for site in sites {
        let unknown = site.nodes - site.known_nodes.min(site.nodes);
        let nodes = if unknown == 0 { site.nodes.to_string() } else { format!("{} ({unknown} unknown)", site.nodes) };
        let wan = site.wan_rate.zip(site.rate_from).map(|(at, from)| match from {
            RateFrom::Limit => format!("{} limit", rate(at)),
            RateFrom::Measured => format!("{} measured", rate(at)),
        });
        table.row([
            site.site.as_str().into(),
            Cell::new(nodes, if unknown == 0 { Style::Plain } else { Style::Warn }),
            bytes(site.wanted_bytes).into(),
            bytes(site.local_bytes).into(),
            bytes(site.wan_bytes).into(),
            bytes(site.peer_bytes).into(),
            wan.unwrap_or_else(|| UNKNOWN.to_owned()).into(),
            site.estimate_ms.map_or(UNKNOWN.to_owned(), duration).into(),
        ]);
    }
    table.render(paint)
}

fn waves(waves: &[PlannedWave], paint: Paint) -> String {
    let mut table = Table::new(2, &["wave", "nodes", "at a time", "may fail", "to go on", "bakes"]);
    for wave in waves {
        let at_a_time = match wave.groups {
            0 | 1 => "all".to_owned(),
            groups => format!("{} of {groups} sites", wave.groups_at_a_time),
        };
        let per_site = wave.max_failures_per_site.as_ref();
        let may_fail = per_site.map_or_else(String::new, |share| format!(", {share} of a site"));
        table.row([
            wave.name.as_str().into(),
            wave.nodes.to_string().into(),
            at_a_time.into(),
            format!("{}{may_fail}", wave.max_failures).into(),
            wave.needed.to_string().into(),
            if wave.bake_ms == 0 { UNKNOWN.to_owned() } else { duration(wave.bake_ms) }.into(),
        ]);
    }
    table.render(paint)
}

fn nodes(nodes: &[PlannedNode], paint: Paint) -> String {
    let in_waves = nodes.iter().any(|node| node.wave.is_some());
    let heading = ["node", "site", "online", "gets", "wave"];
    let mut table = Table::new(2, if in_waves { &heading } else { &heading[..4] });
    for node in nodes {
        let gets: Vec<&str> = node.packages.iter().map(|package| package.as_str()).collect();
        let online = if node.online { Cell::new("yes", Style::Good) } else { Cell::new("no", Style::Bad) };
        let wave = node.wave.as_ref().map(|wave| wave.as_str().into());
        let cells = [node.name.as_str().into(), node.site.as_str().into(), online, gets.join(", ").into()];
        table.row(cells.into_iter().chain(wave));
    }
    table.render(paint)
}
