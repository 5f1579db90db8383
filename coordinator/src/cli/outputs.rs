//! `shoal outputs`: the values that a deployment's steps wrote to `$SHOAL_OUTPUT` for later steps.

use super::args::OutputsArgs;
use super::client::Client;
use super::exit::CliError;
use super::table::{Paint, Table};
use super::terminal::Terminal;
use crate::api::types::{Outputs, OutputsSchema, Status, StepOutputs, StepStatus};

/// Prints the values that `args` asks for.
///
/// # Errors
/// If the coordinator does not answer or standard output cannot be written.
pub async fn run(client: &Client, terminal: &mut Terminal, args: OutputsArgs) -> Result<(), CliError> {
    let status = client.status(Some(args.id), false).await?;
    let document = Outputs { schema: OutputsSchema::V1, id: status.id, outputs: written(&status, &args) };
    terminal.list(&document, &document.outputs, table)
}

fn written(status: &Status, args: &OutputsArgs) -> Vec<StepOutputs> {
    let own = status.coordinator_steps.iter().map(|step| ("coordinator", step));
    let nodes = status.nodes.iter().flat_map(|node| node.steps.iter().map(move |step| (node.name.as_str(), step)));
    let asked = |(node, step): &(&str, &StepStatus)| {
        args.node.as_ref().is_none_or(|name| name.as_str() == *node)
            && args.step.as_ref().is_none_or(|name| name.as_str() == step.name)
    };
    let written = own.chain(nodes).filter(|(_, step)| !step.outputs.is_empty()).filter(asked);
    let outputs = written.map(|(node, step)| StepOutputs {
        node: node.to_owned(),
        step: step.name.clone(),
        attempt: step.attempts,
        values: step.outputs.clone(),
    });
    outputs.collect()
}

fn table(document: &Outputs, paint: Paint) -> String {
    let mut table = Table::new(0, &["node", "step", "key", "value"]);
    for step in &document.outputs {
        for (key, value) in &step.values {
            table.row([
                step.node.as_str().into(),
                step.step.as_str().into(),
                key.as_str().into(),
                value.as_str().into(),
            ]);
        }
    }
    if document.outputs.is_empty() {
        "no step wrote anything to $SHOAL_OUTPUT\n".to_owned()
    } else {
        table.render(paint)
    }
}
