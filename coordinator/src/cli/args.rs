//! The command line's grammar: raw flags, checked where clap can check them, and their help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use shoal_proto::id::{DeploymentId, Name};

use super::units::{Limit, parse_limit, parse_positive_size, parse_reason, parse_ttl_s, parse_variable};
use crate::audit::Head;
use shoal_proto::rollout::units::{parse_duration, parse_rate};

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    something unexpected
  2    wrong usage, or a mistake in a file
  3    the deployment failed or was cancelled
  4    the deployment succeeded without some nodes
  5    blocked by a gate, a time, an operator or another deployment, or the plan does not hold any more
  6    the wait timed out; the deployment goes on
  7    the coordinator cannot be reached
  8    not allowed
  9    bytes do not have the hash that they must have
  130  Ctrl-C; the deployment goes on
";

/// Brings a release to every machine of many sites, and runs it there.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_long_help = EXIT_CODES)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The coordinator's API
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SHOAL_COORDINATOR",
        hide_env_values = true,
        default_value = "http://127.0.0.1:7441"
    )]
    pub coordinator: String,
    /// File with the operator's token, `<data_dir>/admin.token` of the coordinator; or the token itself in SHOAL_TOKEN
    #[arg(long, global = true, value_name = "FILE", env = "SHOAL_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Why: a word for the audit log, such as the number of a change request
    #[arg(long, global = true, value_name = "TEXT", env = "SHOAL_REASON", hide_env_values = true, value_parser = parse_reason)]
    pub reason: Option<String>,
    /// Who you are, for the audit log; your user and this machine's name if you do not say
    #[arg(long, global = true, value_name = "NAME", env = "SHOAL_OPERATOR", hide_env_values = true, hide_short_help = true, value_parser = parse_reason)]
    pub operator: Option<String>,
    /// How to print: for people, as one JSON document, or as one JSON document a line
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub output: Format,
    /// No progress, only results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More: every node's progress; twice: what the program does
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colours; `auto` also heeds NO_COLOR
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub color: Color,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    Table,
    /// One document in one line.
    Json,
    /// One document per item or event, each in a line.
    Jsonl,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the coordinator
    Serve(ServeArgs),
    /// Try Shoal on this machine: a throw-away mesh deploys a package in two versions, and counts what crosses its WANs
    Demo(DemoArgs),
    /// Make, list or revoke join strings for nodes
    #[command(subcommand)]
    Token(TokenCommand),
    /// What a deployment would do: nodes, bytes by site and source, time, and what is in the way. Changes nothing
    Plan(PlanArgs),
    /// Start a deployment
    Deploy(DeployArgs),
    /// How a deployment stands
    Status(StatusArgs),
    /// Follow a deployment until it ends
    Watch(WatchArgs),
    /// What a deployment's steps wrote
    Logs(LogsArgs),
    /// The values that a deployment's steps handed on by $SHOAL_OUTPUT
    Outputs(OutputsArgs),
    /// Pause a deployment: nothing starts and nothing is fetched; steps that run are let finish
    Pause(IdArgs),
    /// Go on after a pause
    Resume(IdArgs),
    /// Open a manual gate, or one that waits for its time
    Release(ReleaseArgs),
    /// Let a deployment's steps start also outside of maintenance windows and in freezes; wants --reason
    OverrideWindow(OverrideArgs),
    /// Have no step start, at some sites or anywhere, such as on the day of a sale; what runs is let finish. Wants --reason
    Freeze(FreezeArgs),
    /// End a freeze
    Thaw(ThawArgs),
    /// Begin the next wave: before the bake is over, or although too few nodes came through
    Promote(IdArgs),
    /// End a deployment; steps that run are killed
    Cancel(IdArgs),
    /// Have the nodes that a deployment changed go back to the release before, from their own caches; one that is under way
    /// is ended first
    Rollback(RollbackArgs),
    /// Answer a failed step: run it again
    Retry(AnswerArgs),
    /// Answer a failed step: go on as if it had succeeded
    Ignore(AnswerArgs),
    /// Answer a failed step: go on without the node
    Exclude(AnswerArgs),
    /// Answer a failed step: let the deployment fail
    Fail(AnswerArgs),
    /// Let a site read more over its WAN than the 1 % that it may read again
    Allow(AllowArgs),
    /// What operators did, and whether the log of it is as it was written
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The nodes of the mesh
    #[command(subcommand)]
    Nodes(NodesCommand),
    /// The sites of the mesh
    #[command(subcommand)]
    Sites(SitesCommand),
    /// The feeds of the coordinator
    #[command(subcommand)]
    Feeds(FeedsCommand),
    /// Make recipes of packages where they are built, and give them to the coordinator
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Print a shell's completion script
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print this program's manual page, to be read with `shoal man | man -l -`
    Man {
        /// Write the pages of all commands, and of shoal-node, as files to this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many sites
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub sites: u8,
    /// How many nodes in each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub nodes: u8,
    /// How fast each site's WAN is, each way
    #[arg(long, value_name = "RATE", default_value = "50mbit", value_parser = parse_rate)]
    pub wan: u64,
    /// The package; without it, a zip of about 64 MB is made
    #[arg(long, value_name = "FILE")]
    pub package: Option<PathBuf>,
    /// Keep everything that was made, to look at it
    #[arg(long)]
    pub keep: bool,
}

/// What to do with join strings.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join string and print it alone on standard output
    Create {
        /// The site that nodes join with it
        #[arg(long, value_name = "SITE")]
        site: Name,
        /// A role that they get; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<Name>,
        /// How long it works, such as 30m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ttl_s)]
        ttl: u64,
        /// Address at which nodes reach the coordinator, such as /dns4/shoal.example.com/tcp/7440; may be repeated.
        /// The default is what the coordinator listens on
        #[arg(long, value_name = "ADDR")]
        advertise: Vec<String>,
        /// The same for bulk transfers
        #[arg(long, value_name = "ADDR", hide_short_help = true)]
        advertise_bulk: Vec<String>,
    },
    /// List join strings that still work
    Ls,
    /// Make a join string useless; nodes that joined with it stay
    Revoke {
        /// Its id, from `token ls`
        id: String,
    },
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Settings file
    #[arg(short, long, value_name = "FILE", env = "SHOAL_CONFIG", default_value = "coordinator.toml")]
    pub config: PathBuf,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The deployment file; `-` is standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "rollback")]
    pub file: Option<PathBuf>,
    /// Plan what `shoal rollback` of this deployment, such as d12, would do
    #[arg(long, value_name = "ID", conflicts_with_all = ["file", "stage_only", "given"])]
    pub rollback: Option<DeploymentId>,
    /// Write the plan to this file as well, for `shoal deploy --plan` or `shoal rollback --plan`
    #[arg(long, value_name = "PLAN")]
    pub out: Option<PathBuf>,
    /// Plan to only bring the packages to the nodes
    #[arg(long)]
    pub stage_only: bool,
    /// Values of variables
    #[command(flatten)]
    pub variables: VariableArgs,
}

/// Values of variables.
#[derive(Args, Debug)]
pub struct VariableArgs {
    /// Give a variable of the file this value everywhere; may be repeated. Other users of this machine can see it: keep
    /// secrets in a `value_file`
    #[arg(short = 'V', long = "var", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub given: Vec<(String, String)>,
}

/// Arguments of `deploy`.
#[derive(Args, Debug)]
pub struct DeployArgs {
    /// The deployment file; `-` is standard input. With --plan, the plan's own if none is given
    #[arg(short, long, value_name = "FILE", required_unless_present = "plan")]
    pub file: Option<PathBuf>,
    /// Only if it is what this plan says: nothing begins if the file, a package or the nodes are others by now
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<PathBuf>,
    /// Run it also where all is as the file wants it
    #[arg(long)]
    pub again: bool,
    /// Where another deployment of the same name has some of the nodes, begin when that is over
    #[arg(long)]
    pub wait: bool,
    /// Bring the packages at once, but start no step before this time: 22:00 or '2026-11-28 22:00' on the coordinator's clock,
    /// with a zone behind it such as Europe/Oslo, as 2026-11-28T22:00:00+01:00, or 'in 2h'
    #[arg(long, value_name = "TIME", conflicts_with = "stage_only")]
    pub at: Option<String>,
    /// Fail it if its steps have not begun by this time, or so long after --at, such as 8h
    #[arg(long, value_name = "TIME", conflicts_with = "stage_only")]
    pub expires: Option<String>,
    /// Let its steps start also outside of maintenance windows and in freezes, and say why
    #[arg(long, value_name = "REASON", value_parser = parse_reason, conflicts_with = "stage_only")]
    pub override_window: Option<String>,
    /// Show progress until it ends, then the summary
    #[arg(long, conflicts_with = "detach")]
    pub watch: bool,
    /// Print the deployment's id and return (the default)
    #[arg(long)]
    pub detach: bool,
    /// Only bring the packages to the nodes
    #[arg(long)]
    pub stage_only: bool,
    /// Values of variables
    #[command(flatten)]
    pub variables: VariableArgs,
    /// How long to watch
    #[command(flatten)]
    pub watching: WaitArgs,
}

/// How long to watch.
#[derive(Args, Clone, Copy, Debug)]
pub struct WaitArgs {
    /// Stop to watch after this time, such as 10m; the deployment goes on
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wait_max: Option<std::time::Duration>,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Which deployment, such as d12; the newest if none is given
    pub id: Option<DeploymentId>,
    /// List the deployments instead
    #[arg(short, long, conflicts_with = "id")]
    pub list: bool,
}

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// How long to watch.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// Of this node only
    #[arg(long)]
    pub node: Option<Name>,
    /// Of this step only
    #[arg(long)]
    pub step: Option<Name>,
    /// Go on until the deployment ends
    #[arg(long)]
    pub follow: bool,
}

/// Arguments of `outputs`.
#[derive(Args, Debug)]
pub struct OutputsArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// Of this node only; `coordinator` for its own steps
    #[arg(long)]
    pub node: Option<Name>,
    /// Of this step only
    #[arg(long)]
    pub step: Option<Name>,
}

/// A deployment.
#[derive(Args, Debug)]
pub struct IdArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
}

/// Arguments of `rollback`.
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// Only if it is what this plan says, from `shoal plan --rollback`: nothing begins if other nodes or releases are meant by now
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<PathBuf>,
}

/// Arguments of `override-window`.
#[derive(Args, Debug)]
pub struct OverrideArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// Take it back: from here on its steps wait for maintenance windows and freezes again
    #[arg(long)]
    pub end: bool,
}

/// Arguments of `release`.
#[derive(Args, Debug)]
pub struct ReleaseArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// Do not wait for the time that --at or the file says
    #[arg(long)]
    pub now: bool,
    /// Let its steps start also outside of maintenance windows and in freezes, and say why
    #[arg(long, value_name = "REASON", value_parser = parse_reason)]
    pub override_window: Option<String>,
}

/// Arguments of `freeze`.
#[derive(Args, Debug)]
pub struct FreezeArgs {
    /// At this site only; may be repeated
    #[arg(long = "site", value_name = "SITE")]
    pub sites: Vec<Name>,
    /// Until this time, such as 18:00 on the coordinator's clock, or '2027-01-04 06:00 Europe/Oslo'
    #[arg(long, value_name = "TIME", conflicts_with = "for_time")]
    pub until: Option<String>,
    /// For this long, such as 2h
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub for_time: Option<std::time::Duration>,
}

/// Arguments of `thaw`.
#[derive(Args, Debug)]
pub struct ThawArgs {
    /// At this site, which was frozen by itself; may be repeated. What was frozen everywhere if none is given
    #[arg(long = "site", value_name = "SITE")]
    pub sites: Vec<Name>,
}

/// Arguments of the four answers.
#[derive(Args, Debug)]
pub struct AnswerArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// On this node; on every node that waits for an answer if none is given
    #[arg(long)]
    pub node: Option<Name>,
    /// To this step only
    #[arg(long)]
    pub step: Option<Name>,
}

/// Arguments of `allow`.
#[derive(Args, Debug)]
pub struct AllowArgs {
    /// Which deployment, such as d12
    pub id: DeploymentId,
    /// The site
    #[arg(long)]
    pub site: Name,
    /// How much more it may read of each package, such as 20MB
    #[arg(long, value_name = "SIZE", value_parser = parse_positive_size)]
    pub bytes: u64,
    /// Of this package only; without it, of each that waits
    #[arg(long)]
    pub package: Option<Name>,
}

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what operators did
    Ls {
        /// How many, from the newest
        #[arg(long, value_name = "N", default_value_t = 50)]
        count: u32,
        /// Where the log is.
        #[command(flatten)]
        source: AuditSource,
    },
    /// Check that no entry was changed, removed or put in. That the end was cut off shows only to the coordinator that runs,
    /// or with --head
    Verify {
        /// A place that the log must hold, as `audit ls` or an earlier `audit verify` told it
        #[arg(long, value_name = "NUMBER:LINK")]
        head: Option<Head>,
        /// Where the log is.
        #[command(flatten)]
        source: AuditSource,
    },
}

/// A log to read without asking the coordinator, which may run or not.
#[derive(Args, Debug)]
pub struct AuditSource {
    /// Read this log instead of asking the coordinator
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    pub file: Option<PathBuf>,
    /// Read the log in this data folder of a coordinator instead of asking it
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// What to do with recipes.
#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Cut a package and write its recipe beside it, as FILE.recipe
    Make {
        /// The package
        file: PathBuf,
    },
    /// What a recipe holds
    Show {
        /// The recipe
        file: PathBuf,
    },
    /// Give a recipe to the coordinator, which then need not read its package
    Add {
        /// The recipe
        file: PathBuf,
    },
}

/// What to see of nodes.
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// List them
    Ls,
    /// All about one of them
    Show {
        /// Its name
        name: Name,
    },
}

/// What to do with sites.
#[derive(Debug, Subcommand)]
pub enum SitesCommand {
    /// List them
    Ls,
    /// Set how fast a site reads over its WAN, in place of what its calendar says; holds at once
    Limit {
        /// The site
        site: Name,
        /// Such as 2MB/s or 20mbit; `none` for no limit, `default` for what the calendar says
        #[arg(value_name = "RATE", value_parser = parse_limit)]
        limit: Limit,
        /// Until this time, such as 18:00 on the site's clocks, or 2026-11-26T18:00:00+11:00
        #[arg(long, value_name = "TIME", conflicts_with = "for_time")]
        until: Option<String>,
        /// For this long, such as 2h
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        for_time: Option<std::time::Duration>,
    },
}

/// What to do with feeds.
#[derive(Debug, Subcommand)]
pub enum FeedsCommand {
    /// List them
    Ls,
    /// Find a package, read a little of it at each place that has it, and say what to change; exits with 1 if one does not work
    Test(FeedTestArgs),
}

/// Arguments of `feeds test`.
#[derive(Args, Debug)]
pub struct FeedTestArgs {
    /// The feed
    pub feed: Name,
    /// What the feed calls the package; without one, it is only seen whether the feed answers
    pub id: Option<String>,
    /// Which version of it
    pub version: Option<String>,
    /// Which of its files
    #[arg(long, value_name = "NAME", requires = "id")]
    pub file: Option<String>,
    /// Which of its variants, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", requires = "id")]
    pub platform: Option<String>,
}
