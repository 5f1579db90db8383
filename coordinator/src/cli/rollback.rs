//! `shoal rollback`, and `shoal plan --rollback`, which says what that would do.

use std::fmt::Write;
use std::path::Path;

use shoal_proto::id::DeploymentId;

use super::args::{Format, RollbackArgs};
use super::client::Client;
use super::exit::{CliError, Exit};
use super::plan;
use super::table::{Cell, Paint, Style, Table, printable};
use super::terminal::Terminal;
use super::units::count;
use crate::api::types::{Action, PlannedWay, WayBack};

/// Has a deployment taken back, if it is as planned.
///
/// # Errors
/// If the plan cannot be read, or the coordinator refuses.
pub async fn run(client: &Client, terminal: &mut Terminal, args: RollbackArgs) -> Result<(), CliError> {
    let made_by = format!("shoal plan --rollback {} --out PLAN", args.id);
    let plan = args.plan.as_deref().map(|path| plan::load::<WayBack>(path, &made_by)).transpose()?;
    if let Some(other) = plan.as_ref().map(|plan| plan.of).filter(|of| *of != args.id) {
        return Err(CliError::new(Exit::Usage, format!("the plan takes {other} back, not {}", args.id)));
    }
    let plan = plan.map(|plan| plan.hash.to_string());
    super::done(terminal, client.operator(args.id, &Action::Rollback { plan }).await?)
}

/// Shows what a rollback would do, and writes it to a file if asked to.
///
/// # Errors
/// If there is no way back, or the plan cannot be written.
pub async fn plan(
    client: &Client,
    terminal: &mut Terminal,
    id: DeploymentId,
    out: Option<&Path>,
) -> Result<Exit, CliError> {
    let way_back = client.way_back(id).await?;
    if let Some(path) = out {
        plan::write(path, &way_back)?;
        let hash = way_back.hash.short();
        terminal.note(&format!("plan {hash} is in {}: `shoal rollback {id} --plan` carries it out", path.display()));
    }
    match terminal.format {
        Format::Table => terminal.text(&render(&way_back, terminal.paint))?,
        Format::Json | Format::Jsonl => terminal.json(&way_back)?,
    }
    Ok(Exit::Done)
}

/// The plan for people.
fn render(way_back: &WayBack, paint: Paint) -> String {
    let WayBack { of, hash, ways, stay, blockers, .. } = way_back;
    let mut text = format!("{}   plan {}\n", paint.paint(Style::Bold, &format!("rollback of {of}")), hash.short());
    ways.iter().for_each(|way| text.push_str(&render_way(way, paint)));
    for node in stay {
        let _ = writeln!(text, "{} had no release before and stays as it is", printable(node));
    }
    for blocker in blockers {
        let _ = writeln!(text, "{} {}", paint.paint(Style::Warn, "in the way:"), printable(blocker));
    }
    text
}

fn render_way(way: &PlannedWay, paint: Paint) -> String {
    let of = |number: usize, thing| count(u32::try_from(number).unwrap_or(u32::MAX), thing);
    let mut text = format!(
        "to release {} of {}: {}, {}\n",
        way.release,
        way.to,
        of(way.nodes.len(), "node"),
        of(way.steps.len(), "step")
    );
    text.push_str(&plan::sites(&way.sites, paint));
    let mut nodes = Table::new(2, &["node", "site", "online", "holds the release"]);
    for node in &way.nodes {
        let online = if node.online { Cell::new("yes", Style::Good) } else { Cell::new("no", Style::Bad) };
        let holds = match node.holds {
            Some(true) => Cell::new("yes", Style::Good),
            Some(false) => Cell::new("no", Style::Warn),
            None => Cell::new("not known", Style::Warn),
        };
        nodes.row([node.name.as_str().into(), node.site.as_str().into(), online, holds]);
    }
    text.push_str(&nodes.render(paint));
    let steps: Vec<&str> = way.steps.iter().map(|step| step.name.as_str()).collect();
    let _ = writeln!(text, "  runs {}", if steps.is_empty() { "no step".to_owned() } else { steps.join(", ") });
    text
}
