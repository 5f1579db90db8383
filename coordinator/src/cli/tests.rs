//! The command line against a real API over loopback, with a played driver behind it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};

use super::args::Cli;
use super::exit::Exit;
use super::terminal::Terminal;
use crate::api::fake::{Fake, TOKEN};
use crate::api::sample;
use crate::api::types::{Action, Answer, Status};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Exit, standard output, standard error.
type Ran = (Exit, String, String);

async fn shoal_until(url: &str, token: &str, args: &[&str], interrupted: impl Future<Output = ()>) -> Ran {
    let cli = Cli::try_parse_from([&["shoal", "--coordinator", url], args].concat()).unwrap();
    let (out, err) = (Written::default(), Written::default());
    let mut terminal = Terminal::new(&cli.global, Box::new(out.clone()), Box::new(err.clone()));
    let token = Some(token.to_owned()).filter(|token| !token.is_empty());
    let exit = super::run(cli, token, &mut terminal, interrupted).await;
    (exit, out.text(), err.text().replace(url, "http://coordinator"))
}

async fn shoal(fake: &Fake, args: &[&str]) -> Ran {
    shoal_until(&fake.url, TOKEN, args, std::future::pending()).await
}

fn all_statuses() -> Vec<Status> {
    vec![sample::acquiring(), sample::paused(), sample::succeeded()]
}

#[tokio::test]
async fn join_strings_stand_alone_on_standard_output() {
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["token", "create", "--site", "syd", "--role", "web", "--ttl", "1h"]).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "shoal1:example\n"));
    assert_eq!(err, "join string t1 for site syd expires 2026-11-22T22:43:58Z\n");
    let (_, out, err) = shoal(&fake, &["-q", "-o", "json", "token", "create", "--site", "syd"]).await;
    assert!(out.starts_with(r#"{"schema":"shoal.token/v1","join":"shoal1:example","id":"t1","site":"syd""#), "{out}");
    assert_eq!(err, "");
}

#[tokio::test]
async fn lists_are_tables_documents_or_lines() {
    let fake = Fake::start(all_statuses()).await;
    insta::assert_snapshot!(shoal(&fake, &["nodes", "ls"]).await.1, @r"
    node    site  online  labels    cached   version  last seen
    osl-1   osl   yes     role=web  1.85 GB  0.1.0    2026-11-22T21:43:58Z
    syd-10  syd   no      role=web  1.85 GB  0.1.0    2026-11-22T21:43:58Z
    ");
    insta::assert_snapshot!(shoal(&fake, &["nodes", "show", "syd-10"]).await.1, @r"
    syd-10 is offline
      site       syd
      labels     role=web
      id         12D3KooWExample
      addresses  /ip4/127.0.1.1/tcp/7442
      version    0.1.0
      cached     1.85 GB
      last seen  2026-11-22T21:43:58Z
    ");
    insta::assert_snapshot!(shoal(&fake, &["status", "--list"]).await.1, @r"
    id   name        release    state    stage    nodes  started               took
    d12  storefront  2026.11.3  running  acquire  8      2026-11-22T21:43:58Z  –
    ");
    assert!(
        shoal(&fake, &["nodes", "ls", "-o", "json"]).await.1.starts_with(r#"{"schema":"shoal.nodes/v1","nodes":[{"#)
    );
    let lines = shoal(&fake, &["nodes", "ls", "-o", "jsonl"]).await.1;
    assert_eq!(lines.lines().filter(|line| line.starts_with(r#"{"name":"#)).count(), 2, "{lines}");
    let empty = shoal(&fake, &["feeds", "ls"]).await.1;
    assert_eq!(empty, "no feed is configured: add a [[feed]] to coordinator.toml\n");
}

#[tokio::test]
async fn a_status_shows_what_goes_on_and_what_it_waits_for() {
    let fake = Fake::start(vec![sample::acquiring()]).await;
    insta::assert_snapshot!(shoal(&fake, &["status"]).await.1, @r"
    storefront 2026.11.3 (d12) is running in stage acquire after 4.0 s   8 nodes, 2 sites, 3 steps
    gate: 1 of 8 wanted nodes verified (quorum 100%), opens by itself
    waits: syd-3 is offline: start `shoal-node` there, or `shoal exclude d12 --node syd-3`
      site  acquired  have  over the WAN  copies  from peers  still missing  WAN       peers
      osl   1 of 4    93 %  25.8 MB       0.06    154.5 MB    25.8 MB        6.2 MB/s  18.7 MB/s
      syd   0 of 4    93 %  25.8 MB       0.06    154.5 MB    25.8 MB        6.2 MB/s  18.7 MB/s
      node   site  state      has    online  step
      osl-1  osl   ready      100 %  yes
      osl-2  osl   acquiring  93 %   yes
      osl-3  osl   acquiring  93 %   yes
      osl-4  osl   acquiring  93 %   yes
      syd-1  syd   acquiring  93 %   yes
      syd-2  syd   acquiring  93 %   yes
      syd-3  syd   acquiring  93 %   no
      syd-4  syd   acquiring  93 %   yes
    ");
    let fake = Fake::start(vec![sample::paused()]).await;
    insta::assert_snapshot!(shoal(&fake, &["status", "d12"]).await.1, @r"
    storefront 2026.11.3 (d12) is paused in stage steps after 1m 52s   8 nodes, 2 sites, 3 steps
    gate: 8 of 8 wanted nodes verified (quorum 100%), open
    waits: `restart` failed on syd-2: answer with `shoal retry|ignore|exclude|fail d12 --node syd-2`
      site  acquired  have   over the WAN  copies  from peers  still missing  WAN    peers
      osl   4 of 4    100 %  51.5 MB       0.13    154.5 MB    0 B            0 B/s  0 B/s
      syd   4 of 4    100 %  51.5 MB       0.13    154.5 MB    0 B            0 B/s  0 B/s
      step     done  running  failed  to do
      unpack   8     0        0       0
      restart  7     0        1       0
      health   7     0        0       1
      node   site  state            has    online  step
      osl-1  osl   succeeded        100 %  yes     health succeeded
      osl-2  osl   succeeded        100 %  yes     health succeeded
      osl-3  osl   succeeded        100 %  yes     health succeeded
      osl-4  osl   succeeded        100 %  yes     health succeeded
      syd-1  syd   succeeded        100 %  yes     health succeeded
      syd-2  syd   needs an answer  100 %  yes     restart failed
      syd-3  syd   succeeded        100 %  yes     health succeeded
      syd-4  syd   succeeded        100 %  yes     health succeeded
    failed  syd-2 (syd)  restart  exit code 3, after 3 attempts
        Stopping acme-web
        acme-web: port 8080  is in use
    ");
    let (_, out, _) = shoal(&fake, &["status", "d12", "-o", "json"]).await;
    assert!(out.starts_with(r#"{"schema":"shoal.status/v1","id":"d12","#), "{out}");
}

#[tokio::test]
async fn many_nodes_are_cut_to_those_that_need_attention() {
    let mut status = sample::paused();
    let healthy = status.nodes[0].clone();
    status.nodes.extend(std::iter::repeat_n(healthy, 60));
    let fake = Fake::start(vec![status]).await;
    let (_, out, _) = shoal(&fake, &["status"]).await;
    assert!(out.contains("  of 68 nodes, those that need attention; `-o json` has them all\n"), "{out}");
    assert_eq!(out.matches("\n  osl-1").count(), 0, "{out}");
}

fn deployment_file(folder: &tempfile::TempDir, text: &str) -> String {
    let path = folder.path().join("deploy.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn deploy_prints_the_id_or_watches_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = deployment_file(&folder, "name: storefront\n");
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["deploy", "-f", &file, "--detach"]).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "d12\n"));
    assert!(err.ends_with("deployment d12: storefront 2026.11.3 to 8 nodes; `shoal watch d12` follows it\n"), "{err}");
    let (_, out, _) = shoal(&fake, &["deploy", "-f", &file, "--detach", "-o", "json"]).await;
    assert!(out.starts_with(r#"{"schema":"shoal.deployment/v1","id":"d12","#), "{out}");
    let (exit, out, err) = shoal(&fake, &["deploy", "-f", &file, "--watch"]).await;
    assert_eq!(exit, Exit::Done);
    assert!(out.starts_with("storefront 2026.11.3 succeeded in 1m 52s   8 nodes, 2 sites, 3 steps\n"), "{out}");
    assert!(err.contains("syd: 93 % of 1.65 GB, 0 of 4 nodes"), "{err}");
    assert!(err.ends_with("2026-11-22T21:44:01Z it goes on\n"), "{err}");
}

#[tokio::test]
async fn watching_for_programs_prints_events_or_the_summary() {
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["watch", "d12", "-o", "jsonl", "-q"]).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    insta::assert_snapshot!(out, @r#"
    {"time":"2026-11-22T21:43:59Z","event":"stage","deployment":"d12","seq":1,"message":"it goes on"}
    {"time":"2026-11-22T21:44:00Z","event":"stage","deployment":"d12","seq":2,"message":"it goes on"}
    {"time":"2026-11-22T21:44:01Z","event":"ended","deployment":"d12","seq":3,"message":"it goes on"}
    "#);
    let (_, out, _) = shoal(&fake, &["watch", "d12", "-o", "json", "-q"]).await;
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(summary["schema"], "shoal.summary/v1");
    assert_eq!(summary["saved_bytes"], 3_193_000_000_u64);
    assert_eq!(summary["sites"][0]["copies"], 0.125);
}

#[tokio::test]
async fn exit_codes_say_how_it_ended() {
    for (status, exit) in [(sample::failed(), Exit::Failed), (sample::without_one(), Exit::WithoutSome)] {
        let fake = Fake::start(vec![status]).await;
        assert_eq!(shoal(&fake, &["watch", "d12"]).await.0, exit);
    }
    for (status, exit) in [(sample::acquiring(), Exit::TimedOut), (sample::paused(), Exit::Blocked)] {
        let fake = Fake::start(vec![status]).await;
        let (got, out, err) = shoal(&fake, &["watch", "d12", "--wait-max", "1s"]).await;
        assert_eq!((got, out.as_str()), (exit, ""), "{err}");
        assert!(err.ends_with("it goes on; `shoal watch d12` shows it again\n"), "{err}");
    }
}

#[tokio::test]
async fn ctrl_c_detaches_and_says_that_it_goes_on() {
    let fake = Fake::start(vec![sample::acquiring()]).await;
    let (exit, out, err) = shoal_until(&fake.url, TOKEN, &["watch", "d12", "-q"], std::future::ready(())).await;
    assert_eq!((exit, out.as_str()), (Exit::Detached, ""));
    insta::assert_snapshot!(err, @r"
    detached: deployment d12 goes on
      `shoal watch d12` shows it again, `shoal cancel d12` ends it
    ");
}

/// Lets other tasks run until `holds`.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.expect("what the test waits for happens");
}

#[tokio::test]
async fn watching_outlasts_a_restart_of_the_coordinator() {
    let before = Fake::start(vec![sample::acquiring()]).await;
    let (url, address) = (before.url.clone(), before.url.trim_start_matches("http://").to_owned());
    let cli = Cli::try_parse_from(["shoal", "--coordinator", &url, "watch", "d12"]).unwrap();
    let (out, err) = (Written::default(), Written::default());
    let mut terminal = Terminal::new(&cli.global, Box::new(out.clone()), Box::new(err.clone()));
    let watching =
        tokio::spawn(
            async move { super::run(cli, Some(TOKEN.to_owned()), &mut terminal, std::future::pending()).await },
        );
    until(async || err.text().contains("syd: 93 %")).await;
    drop(before);
    until(async || err.text().contains("no coordinator answers at")).await;
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let _after = Fake::start_on(listener, vec![sample::succeeded()]);
    assert_eq!(watching.await.unwrap(), Exit::Done);
    assert!(out.text().starts_with("storefront 2026.11.3 succeeded"), "{}", out.text());
}

#[tokio::test]
async fn answers_reach_the_driver() {
    let mut fake = Fake::start(vec![sample::paused()]).await;
    let (exit, out, _) = shoal(&fake, &["exclude", "d12", "--node", "syd-2", "--step", "restart"]).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "`restart` runs again on 1 node\n"));
    let (node, step) = ("syd-2".parse().ok(), "restart".parse().ok());
    assert_eq!(fake.actions.recv().await, Some(Action::Answer { answer: Answer::Exclude, node, step }));
    shoal(&fake, &["release", "d12"]).await;
    assert_eq!(fake.actions.recv().await, Some(Action::Release));
}

#[tokio::test]
async fn logs_are_printed_page_by_page() {
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, _) = shoal(&fake, &["logs", "d12"]).await;
    let text = "syd-1 restart: Stopping acme-web\nsyd-2 restart: Started \u{1b}[1macme-web\n";
    assert_eq!((exit, out.as_str()), (Exit::Done, text), "pipes get what the step wrote");
    let (_, out, _) = shoal(&fake, &["logs", "d12", "--follow", "--node", "syd-2"]).await;
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[tokio::test]
async fn errors_name_the_thing_the_cause_and_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = deployment_file(&folder, "name: storefront\nrelase: 1\n");
    let fake = Fake::start(all_statuses()).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{closed}");
    let nobody_home = shoal_until(&nobody, TOKEN, &["status"], std::future::pending());
    let (exit, _, err) = nobody_home.await;
    assert_eq!(exit, Exit::Unreachable);
    insta::assert_snapshot!(err, @r"
    error: no coordinator answers at http://coordinator
      is `shoal serve` running? pass --coordinator URL
    ");
    let (exit, _, err) = shoal_until(&fake.url, "", &["status"], std::future::pending()).await;
    assert_eq!(exit, Exit::NotAllowed);
    insta::assert_snapshot!(err, @r"
    error: the coordinator at http://coordinator wants the operator's token, and none is given
      pass the coordinator's <data_dir>/admin.token: --token-file FILE, SHOAL_TOKEN_FILE or SHOAL_TOKEN
    ");
    let (exit, _, err) = shoal_until(&fake.url, "wrong", &["status"], std::future::pending()).await;
    assert_eq!(exit, Exit::NotAllowed);
    insta::assert_snapshot!(err, @r"
    error: the bearer token is not this coordinator's
      pass the coordinator's <data_dir>/admin.token: --token-file FILE, SHOAL_TOKEN_FILE or SHOAL_TOKEN
    ");
    let (exit, _, err) = shoal(&fake, &["deploy", "-q", "-f", &file]).await;
    assert_eq!(exit, Exit::Usage);
    insta::assert_snapshot!(err.replace(&file, "deploy.yaml"), @r"
    error: deploy.yaml: line 2: unknown key `relase`
      did you mean `release`?
    ");
    let (exit, _, err) = shoal(&fake, &["logs", "d99"]).await;
    assert_eq!(exit, Exit::Usage);
    insta::assert_snapshot!(err, @r"
    error: there is no deployment d99
      the newest is d12
    ");
    let (exit, _, err) = shoal(&fake, &["--token-file", "/nonexistent", "status"]).await;
    assert_eq!(exit, Exit::NotAllowed);
    insta::assert_snapshot!(err, @r"
    error: cannot read the token file /nonexistent: No such file or directory (os error 2)
      it is `<data_dir>/admin.token` of the coordinator
    ");
    let (exit, _, err) = shoal_until("localhost:7441", TOKEN, &["status"], std::future::pending()).await;
    assert_eq!(exit, Exit::Usage);
    insta::assert_snapshot!(err, @r"
    error: --coordinator http://coordinator is not the URL of an API
      it looks like http://127.0.0.1:7441
    ");
}

#[tokio::test]
async fn a_server_that_is_no_coordinator_is_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(|| async { "<html>hello" });
    let server = tokio::spawn(async { axum::serve(listener, router).await });
    let (exit, _, err) = shoal_until(&url, TOKEN, &["nodes", "ls"], std::future::pending()).await;
    assert_eq!(exit, Exit::Unexpected);
    assert!(err.starts_with("error: http://coordinator answered what cannot be read"), "{err}");
    server.abort();
}

#[tokio::test]
async fn completions_need_no_coordinator() {
    let (exit, out, _) = shoal_until("http://127.0.0.1:1", "", &["completions", "bash"], std::future::pending()).await;
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("complete -F _shoal"), "{out}");
}

fn help(of: &[&str]) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let found = of.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).unwrap());
    found.render_help().to_string()
}

#[test]
fn the_grammar_is_sound_and_its_help_is_stable() {
    Cli::command().debug_assert();
    insta::assert_snapshot!(help(&[]), @r"
    Brings a release to every machine of many sites, and runs it there

    Usage: shoal [OPTIONS] <COMMAND>

    Commands:
      token        Make, list or revoke join strings for nodes
      deploy       Start a deployment
      status       How a deployment stands
      watch        Follow a deployment until it ends
      logs         What a deployment's steps wrote
      release      Open a manual gate
      cancel       End a deployment; steps that run are killed
      retry        Answer a failed step: run it again
      ignore       Answer a failed step: go on as if it had succeeded
      exclude      Answer a failed step: go on without the node
      fail         Answer a failed step: let the deployment fail
      nodes        The nodes of the mesh
      sites        The sites of the mesh
      feeds        The feeds of the coordinator
      completions  Print a shell's completion script
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --coordinator <URL>  The coordinator's API [env: SHOAL_COORDINATOR] [default:
                               http://127.0.0.1:7441]
          --token-file <FILE>  File with the operator's token, `<data_dir>/admin.token` of the
                               coordinator; or the token itself in SHOAL_TOKEN [env: SHOAL_TOKEN_FILE]
      -o, --output <FORMAT>    How to print: for people, as one JSON document, or as one JSON document a
                               line [default: table] [possible values: table, json, jsonl]
      -q, --quiet              No progress, only results and errors
      -v, --verbose...         More: every node's progress; twice: what the program does
          --color <WHEN>       When to use colours; `auto` also heeds NO_COLOR [default: auto] [possible
                               values: auto, always, never]
    ");
    insta::assert_snapshot!(help(&["deploy"]), @r"
    Start a deployment

    Usage: shoal deploy [OPTIONS] --file <FILE>

    Options:
      -f, --file <FILE>      The deployment file; `-` is standard input
          --watch            Show progress until it ends, then the summary
          --detach           Print the deployment's id and return (the default)
          --stage-only       Only bring the packages to the nodes
          --wait-max <TIME>  Stop to watch after this time, such as 10m; the deployment goes on
      -h, --help             Print help (see more with '--help')

    Global options:
          --coordinator <URL>  The coordinator's API [env: SHOAL_COORDINATOR] [default:
                               http://127.0.0.1:7441]
          --token-file <FILE>  File with the operator's token, `<data_dir>/admin.token` of the
                               coordinator; or the token itself in SHOAL_TOKEN [env: SHOAL_TOKEN_FILE]
      -o, --output <FORMAT>    How to print: for people, as one JSON document, or as one JSON document a
                               line [default: table] [possible values: table, json, jsonl]
      -q, --quiet              No progress, only results and errors
      -v, --verbose...         More: every node's progress; twice: what the program does
          --color <WHEN>       When to use colours; `auto` also heeds NO_COLOR [default: auto] [possible
                               values: auto, always, never]
    ");
    insta::assert_snapshot!(help(&["token", "create"]), @r"
    Make a join string and print it alone on standard output

    Usage: shoal token create [OPTIONS] --site <SITE>

    Options:
          --site <SITE>       The site that nodes join with it
          --role <ROLE>       A role that they get; may be repeated
          --ttl <TIME>        How long it works, such as 30m, 24h or 7d [default: 24h]
          --advertise <ADDR>  Address at which nodes reach the coordinator, such as
                              /dns4/shoal.example.com/tcp/7440; may be repeated. The default is what the
                              coordinator listens on
      -h, --help              Print help (see more with '--help')

    Global options:
          --coordinator <URL>  The coordinator's API [env: SHOAL_COORDINATOR] [default:
                               http://127.0.0.1:7441]
          --token-file <FILE>  File with the operator's token, `<data_dir>/admin.token` of the
                               coordinator; or the token itself in SHOAL_TOKEN [env: SHOAL_TOKEN_FILE]
      -o, --output <FORMAT>    How to print: for people, as one JSON document, or as one JSON document a
                               line [default: table] [possible values: table, json, jsonl]
      -q, --quiet              No progress, only results and errors
      -v, --verbose...         More: every node's progress; twice: what the program does
          --color <WHEN>       When to use colours; `auto` also heeds NO_COLOR [default: auto] [possible
                               values: auto, always, never]
    ");
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    for args in [
        &["deploy"][..],
        &["deploy", "-f", "x", "--watch", "--detach"],
        &["watch", "12"],
        &["token", "create", "--site", "a/b"],
        &["token", "create", "--site", "a", "--ttl", "5"],
        &["status", "d1", "--list"],
        &["-q", "-v", "status"],
    ] {
        let error = Cli::try_parse_from([&["shoal"], args].concat()).unwrap_err();
        assert_eq!(error.exit_code(), Exit::Usage as i32, "{args:?}");
    }
}
