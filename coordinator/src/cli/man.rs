//! `shoal man`: manual pages, made from the command lines' grammars. The agent's page is made here too, so that the agent
//! need not carry the means.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::{Man, generate_to};

use super::args::Cli;
use super::exit::{CliError, Exit};
use super::terminal::Terminal;

/// Prints the page of `shoal`, or writes all pages to `dir`.
///
/// # Errors
/// If standard output or the folder does not take them.
pub fn run(terminal: &mut Terminal, dir: Option<&Path>) -> Result<(), CliError> {
    let Some(dir) = dir else { return terminal.text(&page()?) };
    write_all(dir).map_err(|error| {
        CliError::new(Exit::Unexpected, format!("cannot write the manual pages to {}: {error}", dir.display()))
    })
}

fn page() -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(shoal()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    generate_to(shoal(), dir)?;
    generate_to(shoal_node::cli::Args::command(), dir)
}

/// As `generate_to` shows it: help has no page.
fn shoal() -> Command {
    Cli::command().disable_help_subcommand(true)
}
