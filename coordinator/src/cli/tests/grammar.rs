//! Help, usage errors, and what is said when something is wrong.

use clap::CommandFactory;

use super::*;

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

#[tokio::test]
async fn manual_pages_need_no_coordinator() {
    let man = async |args: &[&str]| shoal_until("http://127.0.0.1:1", "", args, std::future::pending()).await;
    let (exit, page, _) = man(&["man"]).await;
    assert_eq!(exit, Exit::Done);
    for words in [".SH NAME\nshoal ", "\nshoal\\-deploy(1)\n", "Exit codes:"] {
        assert!(page.contains(words), "{words} is not in {page}");
    }

    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("man1");
    let (exit, out, err) = man(&["man", "--dir", dir.to_str().unwrap()]).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, ""), "{err}");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for command in Cli::command().get_subcommands() {
        let page = read(&format!("shoal-{}.1", command.get_name()));
        assert!(page.contains(&format!(".TH shoal-{} 1", command.get_name())), "{page}");
    }
    assert_eq!(read("shoal.1"), page);
    assert!(read("shoal-token-create.1").contains("The site that nodes join with it"));
    assert!(read("shoal-node.1").contains("\\-\\-bulk\\-listen"));

    std::fs::write(folder.path().join("file"), "").unwrap();
    let (exit, _, err) = man(&["man", "--dir", folder.path().join("file/man1").to_str().unwrap()]).await;
    assert_eq!(exit, Exit::Unexpected);
    assert!(err.starts_with("error: cannot write the manual pages to "), "{err}");
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
      serve            Run the coordinator
      demo             Try Shoal on this machine: a throw-away mesh deploys a package in two versions,
                       and counts what crosses its WANs
      token            Make, list or revoke join strings for nodes
      plan             What a deployment would do: nodes, bytes by site and source, time, and what is in
                       the way. Changes nothing
      deploy           Start a deployment
      status           How a deployment stands
      watch            Follow a deployment until it ends
      logs             What a deployment's steps wrote
      outputs          The values that a deployment's steps handed on by $SHOAL_OUTPUT
      pause            Pause a deployment: nothing starts and nothing is fetched; steps that run are let
                       finish
      resume           Go on after a pause
      release          Open a manual gate, or one that waits for its time
      override-window  Let a deployment's steps start also outside of maintenance windows and in
                       freezes; wants --reason
      freeze           Have no step start, at some sites or anywhere, such as on the day of a sale; what
                       runs is let finish. Wants --reason
      thaw             End a freeze
      promote          Begin the next wave: before the bake is over, or although too few nodes came
                       through
      cancel           End a deployment; steps that run are killed
      rollback         Have the nodes that a deployment changed go back to the release before, from
                       their own caches; one that is under way is ended first
      retry            Answer a failed step: run it again
      ignore           Answer a failed step: go on as if it had succeeded
      exclude          Answer a failed step: go on without the node
      fail             Answer a failed step: let the deployment fail
      allow            Let a site read more over its WAN than the 1 % that it may read again
      audit            What operators did, and whether the log of it is as it was written
      nodes            The nodes of the mesh
      sites            The sites of the mesh
      feeds            The feeds of the coordinator
      recipe           Make recipes of packages where they are built, and give them to the coordinator
      completions      Print a shell's completion script
      man              Print this program's manual page, to be read with `shoal man | man -l -`
      help             Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --coordinator <URL>  The coordinator's API [env: SHOAL_COORDINATOR] [default:
                               http://127.0.0.1:7441]
          --token-file <FILE>  File with the operator's token, `<data_dir>/admin.token` of the
                               coordinator; or the token itself in SHOAL_TOKEN [env: SHOAL_TOKEN_FILE]
          --reason <TEXT>      Why: a word for the audit log, such as the number of a change request
                               [env: SHOAL_REASON]
      -o, --output <FORMAT>    How to print: for people, as one JSON document, or as one JSON document a
                               line [default: table] [possible values: table, json, jsonl]
      -q, --quiet              No progress, only results and errors
      -v, --verbose...         More: every node's progress; twice: what the program does
          --color <WHEN>       When to use colours; `auto` also heeds NO_COLOR [default: auto] [possible
                               values: auto, always, never]
    ");
}

#[test]
fn the_help_of_commands_is_stable() {
    insta::assert_snapshot!(help(&["deploy"]), @r"
    Start a deployment

    Usage: shoal deploy [OPTIONS]

    Options:
      -f, --file <FILE>               The deployment file; `-` is standard input. With --plan, the
                                      plan's own if none is given
          --plan <PLAN>               Only if it is what this plan says: nothing begins if the file, a
                                      package or the nodes are others by now
          --again                     Run it also where all is as the file wants it
          --wait                      Where another deployment of the same name has some of the nodes,
                                      begin when that is over
          --at <TIME>                 Bring the packages at once, but start no step before this time:
                                      22:00 or '2026-11-28 22:00' on the coordinator's clock, with a
                                      zone behind it such as Europe/Oslo, as 2026-11-28T22:00:00+01:00,
                                      or 'in 2h'
          --expires <TIME>            Fail it if its steps have not begun by this time, or so long after
                                      --at, such as 8h
          --override-window <REASON>  Let its steps start also outside of maintenance windows and in
                                      freezes, and say why
          --watch                     Show progress until it ends, then the summary
          --detach                    Print the deployment's id and return (the default)
          --stage-only                Only bring the packages to the nodes
      -V, --var <NAME=VALUE>          Give a variable of the file this value everywhere; may be
                                      repeated. Other users of this machine can see it: keep secrets in
                                      a `value_file`
          --wait-max <TIME>           Stop to watch after this time, such as 10m; the deployment goes on
      -h, --help                      Print help (see more with '--help')

    Global options:
          --coordinator <URL>  The coordinator's API [env: SHOAL_COORDINATOR] [default:
                               http://127.0.0.1:7441]
          --token-file <FILE>  File with the operator's token, `<data_dir>/admin.token` of the
                               coordinator; or the token itself in SHOAL_TOKEN [env: SHOAL_TOKEN_FILE]
          --reason <TEXT>      Why: a word for the audit log, such as the number of a change request
                               [env: SHOAL_REASON]
      -o, --output <FORMAT>    How to print: for people, as one JSON document, or as one JSON document a
                               line [default: table] [possible values: table, json, jsonl]
      -q, --quiet              No progress, only results and errors
      -v, --verbose...         More: every node's progress; twice: what the program does
          --color <WHEN>       When to use colours; `auto` also heeds NO_COLOR [default: auto] [possible
                               values: auto, always, never]
    ");
}

#[test]
fn the_help_of_commands_below_others_is_stable() {
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
          --reason <TEXT>      Why: a word for the audit log, such as the number of a change request
                               [env: SHOAL_REASON]
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
