//! The operator's command line: from arguments to requests, from answers to text and an exit code.
//!
//! It decides nothing and knows nothing but the API. Data goes to standard output, progress and messages to standard
//! error. [`run`] is the whole program but for its process: tests call it with streams of their own.

pub mod args;
pub mod audit;
pub mod client;
pub mod deploy;
pub mod exit;
pub mod freeze;
pub mod logs;
pub mod man;
pub mod outputs;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod render;
pub mod rollback;
pub mod serve;
pub mod summary;
pub mod table;
pub mod terminal;
pub mod units;
pub mod watch;

#[cfg(test)]
mod tests;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::api::types::{Action, AllowRequest, Answer, FeedTestRequest, LimitRequest, ThawRequest, TokenRequest};
use crate::demo;
use crate::trail::By;
use args::{
    AllowArgs, AnswerArgs, Cli, Command, FeedTestArgs, FeedsCommand, Format, Global, NodesCommand, OverrideArgs,
    RecipeCommand, ReleaseArgs, SitesCommand, StatusArgs, TokenCommand,
};
use client::Client;
use exit::{CliError, Exit};
use terminal::Terminal;
use units::Limit;

/// Parses the process's arguments, does what they say and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut terminal = Terminal::standard(&cli.global);
    log_to_stderr(&cli);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    // A demo is many programs in one.
    if !matches!(cli.command, Command::Demo(_)) {
        threads.worker_threads(shoal_node::cli::network_threads());
    }
    let runtime = match threads.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&CliError::new(Exit::Unexpected, format!("cannot start: {error}")));
            return Exit::Unexpected.into();
        }
    };
    let token = std::env::var("SHOAL_TOKEN").ok().filter(|token| !token.is_empty());
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without the signal's handler, Ctrl-C ends the process by itself.
            std::future::pending().await
        }
    };
    runtime.block_on(run(cli, token, &mut terminal, interrupted)).into()
}

fn log_to_stderr(cli: &Cli) {
    let serves = matches!(cli.command, Command::Serve(_));
    let level = match cli.global.verbose {
        0 | 1 if serves => "info,libp2p_swarm=warn",
        0 | 1 => "warn",
        2 => "info,shoal_coordinator=debug",
        _ => "debug,shoal_coordinator=trace",
    };
    let filter = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Does what `cli` says and reports what goes wrong; `token` is the operator's where no file is given.
pub async fn run(
    cli: Cli,
    token: Option<String>,
    terminal: &mut Terminal,
    interrupted: impl Future<Output = ()>,
) -> Exit {
    match dispatch(cli, token, terminal, interrupted).await {
        Ok(exit) => exit,
        Err(error) => {
            if !error.message.is_empty() {
                terminal.error(&error);
            }
            error.exit
        }
    }
}

async fn dispatch(
    cli: Cli,
    token: Option<String>,
    terminal: &mut Terminal,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, CliError> {
    if let Command::Completions { shell } = cli.command {
        completions(terminal, shell)?;
        return Ok(Exit::Done);
    }
    if let Command::Man { dir } = cli.command {
        man::run(terminal, dir.as_deref())?;
        return Ok(Exit::Done);
    }
    if let Command::Serve(args) = cli.command {
        serve::run(&args.config).await?;
        return Ok(Exit::Done);
    }
    if let Command::Recipe(command) = &cli.command
        && recipe::offline(terminal, command)?
    {
        return Ok(Exit::Done);
    }
    if let Command::Demo(args) = &cli.command {
        return demo::run(args, terminal, interrupted).await;
    }
    if let Command::Audit(command) = &cli.command
        && let Some(exit) = audit::offline(terminal, command)?
    {
        return Ok(exit);
    }
    let client = connect(&cli.global, token)?;
    ask(&client, cli.command, terminal, interrupted).await
}

/// What takes a coordinator.
async fn ask(
    client: &Client,
    command: Command,
    terminal: &mut Terminal,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, CliError> {
    match command {
        Command::Plan(args) => return plan::run(client, terminal, args).await,
        Command::Deploy(args) => return deploy::run(client, terminal, args, interrupted).await,
        Command::Watch(args) => {
            return watch::watch(client, terminal, args.id, args.wait.wait_max, interrupted).await;
        }
        Command::Audit(command) => return audit::online(client, terminal, command).await,
        Command::Token(command) => tokens(client, terminal, command).await?,
        Command::Status(args) => status(client, terminal, args).await?,
        Command::Logs(args) => logs::run(client, terminal, args).await?,
        Command::Outputs(args) => outputs::run(client, terminal, args).await?,
        Command::Pause(args) => done(terminal, client.operator(args.id, &Action::Pause).await?)?,
        Command::Resume(args) => done(terminal, client.operator(args.id, &Action::Resume).await?)?,
        Command::Release(args) => release(client, terminal, args).await?,
        Command::OverrideWindow(args) => override_window(client, terminal, args).await?,
        Command::Freeze(args) => freeze::begin(client, terminal, args).await?,
        Command::Thaw(args) => done(terminal, client.thaw(&ThawRequest { sites: args.sites }).await?)?,
        Command::Promote(args) => done(terminal, client.operator(args.id, &Action::Promote).await?)?,
        Command::Cancel(args) => done(terminal, client.operator(args.id, &Action::Cancel).await?)?,
        Command::Rollback(args) => rollback::run(client, terminal, args).await?,
        Command::Retry(args) => answer(client, terminal, Answer::Retry, args).await?,
        Command::Ignore(args) => answer(client, terminal, Answer::Ignore, args).await?,
        Command::Exclude(args) => answer(client, terminal, Answer::Exclude, args).await?,
        Command::Fail(args) => answer(client, terminal, Answer::Fail, args).await?,
        Command::Allow(AllowArgs { id, site, bytes, package }) => {
            done(terminal, client.allow(id, &AllowRequest { site, bytes, package }).await?)?;
        }
        Command::Recipe(RecipeCommand::Add { file }) => recipe::add(client, terminal, &file).await?,
        Command::Nodes(command) => nodes(client, terminal, command).await?,
        Command::Sites(SitesCommand::Limit { site, limit, until, for_time }) => {
            let request = limit_request(limit, until, for_time)?;
            done(terminal, client.limit_site(&site, &request).await?)?;
        }
        Command::Sites(SitesCommand::Ls) => {
            let document = client.sites().await?;
            terminal.list(&document, &document.sites, render::sites)?;
        }
        Command::Feeds(FeedsCommand::Test(args)) => return test_feed(client, terminal, args).await,
        Command::Feeds(FeedsCommand::Ls) => {
            let document = client.feeds().await?;
            terminal.list(&document, &document.feeds, render::feeds)?;
        }
        // Done before, without a coordinator.
        Command::Completions { .. } | Command::Man { .. } => {}
        Command::Demo(_) | Command::Recipe(_) | Command::Serve(_) => {}
    }
    Ok(Exit::Done)
}

fn completions(terminal: &mut Terminal, shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "shoal", &mut script);
    terminal.text(&String::from_utf8_lossy(&script))
}

fn connect(global: &Global, token: Option<String>) -> Result<Client, CliError> {
    let token = match &global.token_file {
        None => token,
        Some(path) => {
            let failed = |error| {
                let message = format!("cannot read the token file {}: {error}", path.display());
                CliError::new(Exit::NotAllowed, message).next("it is `<data_dir>/admin.token` of the coordinator")
            };
            Some(fs::read_to_string(path).map_err(failed)?.trim().to_owned())
        }
    };
    let who = global.operator.clone().unwrap_or_else(whoami);
    Ok(Client::new(&global.coordinator, token)?.on_behalf_of(By { who, reason: global.reason.clone() }))
}

/// The user and the machine, as the environment tells; what is certain is only that they have the token.
fn whoami() -> String {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let user = text("SUDO_USER").or_else(|| text("USER")).or_else(|| text("LOGNAME"));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| text("HOSTNAME"));
    let host = host.map(|host| format!("@{}", host.trim())).unwrap_or_default();
    format!("{}{host}", user.unwrap_or_else(|| "unknown".to_owned()))
}

async fn tokens(client: &Client, terminal: &mut Terminal, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Create { site, roles, ttl, advertise, advertise_bulk } => {
            let token =
                client.create_token(&TokenRequest { site, roles, ttl_s: ttl, advertise, advertise_bulk }).await?;
            match terminal.format {
                Format::Table => terminal.text(&format!("{}\n", token.join))?,
                Format::Json | Format::Jsonl => terminal.json(&token)?,
            }
            let token = token.token;
            terminal.note(&format!("join string {} for site {} expires {}", token.id, token.site, token.expires));
            Ok(())
        }
        TokenCommand::Ls => {
            let document = client.tokens().await?;
            terminal.list(&document, &document.tokens, render::tokens)
        }
        TokenCommand::Revoke { id } => done(terminal, client.revoke_token(&id).await?),
    }
}

async fn status(client: &Client, terminal: &mut Terminal, args: StatusArgs) -> Result<(), CliError> {
    if args.list {
        let document = client.deployments().await?;
        return terminal.list(&document, &document.deployments, render::deployments);
    }
    let status = client.status(args.id, false).await?;
    match (terminal.format, &status.summary) {
        (Format::Table, Some(summary)) => {
            let paint = terminal.paint;
            let steps = render::step_counts(&status.steps, paint);
            terminal.text(&(summary::render(summary, paint) + &steps + &render::taken_back(&status)))
        }
        (Format::Table, None) => terminal.text(&render::status(&status, terminal.paint)),
        (Format::Json | Format::Jsonl, _) => terminal.json(&status),
    }
}

fn limit_request(limit: Limit, until: Option<String>, span: Option<Duration>) -> Result<LimitRequest, CliError> {
    let for_ms = span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    match limit {
        Limit::Default if until.is_some() || for_ms.is_some() => {
            Err(CliError::new(Exit::Usage, "`default` holds for ever: leave out --until and --for"))
        }
        Limit::Default => Ok(LimitRequest::Default),
        Limit::None => Ok(LimitRequest::Set { limit: None, until, for_ms }),
        Limit::Rate(rate) => Ok(LimitRequest::Set { limit: Some(rate), until, for_ms }),
    }
}

async fn nodes(client: &Client, terminal: &mut Terminal, command: NodesCommand) -> Result<(), CliError> {
    let document = client.nodes().await?;
    let NodesCommand::Show { name } = command else {
        return terminal.list(&document, &document.nodes, render::nodes);
    };
    let missing = || {
        let message = format!("no node {name} has joined");
        CliError::new(Exit::Usage, message).next("`shoal nodes ls` lists those that have")
    };
    let node = document.nodes.into_iter().find(|node| node.name == name.as_str()).ok_or_else(missing)?;
    match terminal.format {
        Format::Table => terminal.text(&render::node(&node, terminal.paint)),
        Format::Json | Format::Jsonl => terminal.json(&node),
    }
}

async fn test_feed(client: &Client, terminal: &mut Terminal, args: FeedTestArgs) -> Result<Exit, CliError> {
    let FeedTestArgs { feed, id, version, file, platform } = args;
    let test = client.test_feed(&feed, &FeedTestRequest { id, version, file, platform }).await?;
    match terminal.format {
        Format::Table => terminal.text(&render::feed_test(&test, terminal.paint))?,
        Format::Json | Format::Jsonl => terminal.json(&test)?,
    }
    Ok(if test.works { Exit::Done } else { Exit::Unexpected })
}

async fn release(client: &Client, terminal: &mut Terminal, args: ReleaseArgs) -> Result<(), CliError> {
    let ReleaseArgs { id, now, override_window } = args;
    if let Some(why) = override_window {
        client.because(why).operator(id, &Action::AnyHour).await?;
    }
    done(terminal, client.operator(id, &Action::Release { now }).await?)
}

async fn override_window(client: &Client, terminal: &mut Terminal, args: OverrideArgs) -> Result<(), CliError> {
    if args.end {
        return done(terminal, client.operator(args.id, &Action::KeepHours).await?);
    }
    if !client.says_why() {
        let message = "going past a maintenance window or a freeze wants a reason";
        return Err(CliError::new(Exit::Usage, message).next("say why: `--reason TEXT`"));
    }
    done(terminal, client.operator(args.id, &Action::AnyHour).await?)
}

async fn answer(client: &Client, terminal: &mut Terminal, answer: Answer, args: AnswerArgs) -> Result<(), CliError> {
    let action = Action::Answer { answer, node: args.node, step: args.step };
    done(terminal, client.operator(args.id, &action).await?)
}

fn done(terminal: &mut Terminal, done: crate::api::types::Done) -> Result<(), CliError> {
    match terminal.format {
        Format::Table => terminal.text(&format!("{}\n", table::printable(&done.message))),
        Format::Json | Format::Jsonl => terminal.json(&done),
    }
}
