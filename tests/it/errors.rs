//! What goes wrong before anything moves: each message names the thing and the next step, and the exit code fits.

use std::fs;
use std::process::Command;
use std::time::Duration;

use shoal_tests::{Behaviour, Credentials, Mesh, Origin, Process, package, program, until};

const FILE: &str = "name: model
release: '1'
packages:
  model: { feed: files, id: model.bin }
targets:
  - { select: all, packages: [model] }
steps:
  - { name: go, run: 'true' }
";

#[test]
fn what_cannot_be_deployed_is_refused_with_its_reason() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(10, 10_000));
    let secret = format!("[[feed]]\nname = 'secret'\nkind = 'http'\nurl = '{}'\n", origin.url("/secret/"));
    let wants = Some(Credentials { user: "ci", password: "hunter2" });
    origin.behave("/secret/", Behaviour { wants, ..Behaviour::default() });
    let mut mesh = Mesh::start(&(origin.feed(&[]) + &secret));
    mesh.join("osl", &["one"]);
    let table = [
        (FILE.replace("steps:", "stesp:"), 2, "deploy.yaml:7: unknown key `stesp`: did you mean `steps`?"),
        (FILE.replace("run:", "rnu:"), 2, "deploy.yaml:8: unknown key `rnu` in step `go`: did you mean `run`?"),
        (FILE.replace("files", "flies"), 2, "there is no feed `flies`: did you mean `files`?"),
        (FILE.replace("id: model", "id: modle"), 2, "feed `files` has no modle.bin: check its id"),
        (
            FILE.replace("files", "secret"),
            1,
            "feed `secret` answered 401 for model.bin: it wants a `username` and a `password_file`",
        ),
        (FILE.replace("select: all", "select: site=syd"), 2, "`select: site=syd` means none of the 1 nodes"),
        (FILE.replace("select: all", "select: 'site='"), 2, "`select: site=`"),
        (FILE.replace("[model]", "[modle]"), 2, "package `model` goes to no target"),
    ];
    for (file, code, wanted) in table {
        let ran = mesh.deploy(&file, &["-q"]);
        assert!(ran.stderr.contains(wanted), "{}\nis not\n{wanted}", ran.stderr);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
    }
    let list = mesh.shoal(&["status", "--list", "-o", "json"]).json();
    assert_eq!(list["deployments"].as_array().map(Vec::len), Some(0), "nothing began");
}

#[test]
fn who_may_not_or_cannot_ask_is_told_so() {
    let mesh = Mesh::start("");
    fs::write(mesh.path("wrong.token"), "not-the-token\n").unwrap();
    let ran = mesh.shoal_with_token(&mesh.path("wrong.token"), &["nodes", "ls"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (8, ""));
    assert_eq!(
        ran.stderr,
        "error: the bearer token is not this coordinator's\n  pass the coordinator's <data_dir>/admin.token: \
         --token-file FILE, SHOAL_TOKEN_FILE or SHOAL_TOKEN\n"
    );
    let ran = mesh.shoal_with_token(&mesh.path("no.token"), &["nodes", "ls"]);
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(mesh.plain(&ran.stderr).contains("cannot read the token file FOLDER/no.token"), "{}", ran.stderr);

    let ran = mesh.shoal(&["status", "d99"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("d99"), "{}", ran.stderr);
    let mode = fs::metadata(mesh.path("coordinator/admin.token")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600, "only its owner reads it");
}

#[test]
fn a_coordinator_that_is_not_there_is_unreachable() {
    let mut mesh = Mesh::start("");
    assert_eq!(mesh.stop_coordinator(), Some(0));
    let ran = mesh.shoal(&["nodes", "ls"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, ""));
    assert_eq!(
        mesh.plain(&ran.stderr),
        "error: no coordinator answers at API\n  is `shoal serve` running? pass --coordinator URL\n"
    );
}

/// Starts a node that ends by itself; its exit code and what it said.
fn ended(mesh: &Mesh, name: &str, command: &mut Command) -> (Option<i32>, String) {
    let mut process = Process::start(name, command, &mesh.path(&format!("{name}.log")));
    let code = process.wait(Duration::from_secs(30)).code();
    (code, mesh.plain(&process.log()))
}

#[test]
fn a_node_with_a_join_string_that_does_not_work_is_refused() {
    let mesh = Mesh::start("");
    let refused = |name: &str, join: &str| ended(&mesh, name, &mut mesh.node_command(name, join));
    let made = mesh.shoal(&["token", "create", "--site", "osl", "-o", "json"]).json();
    let (id, join) = (made["id"].as_str().unwrap(), made["join"].as_str().unwrap());
    assert_eq!(mesh.shoal(&["token", "revoke", id]).code, 0);
    let (code, log) = refused("revoked", join);
    assert_eq!(code, Some(8), "{log}");
    assert!(log.contains("shoal-node: the coordinator refuses this node: "), "{log}");

    let brief = mesh.shoal(&["token", "create", "--site", "osl", "--ttl", "1s", "-q"]);
    let tokens = || mesh.shoal(&["token", "ls", "-o", "json"]).json()["tokens"].as_array().map(Vec::len);
    until("the join string expires", Duration::from_secs(10), || (tokens() == Some(0)).then_some(()));
    let (code, log) = refused("expired", brief.stdout.trim());
    assert_eq!(code, Some(8), "{log}");
    assert!(log.contains("expired"), "{log}");

    let (code, log) = refused("mistyped", &brief.stdout.trim()[..20]);
    assert_eq!(code, Some(2), "{log}");
    assert_eq!(mesh.shoal(&["nodes", "ls", "-o", "json"]).json()["nodes"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_configuration_that_is_wrong_stops_the_coordinator() {
    let mesh = Mesh::start("");
    fs::write(mesh.path("wrong.toml"), "data_dir = 'x'\napi_lisen = '127.0.0.1:0'\n").unwrap();
    let ran = mesh.shoal(&["serve", "-c", "wrong.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("wrong.toml:2: unknown key `api_lisen`: did you mean `api_listen`?"), "{}", ran.stderr);
}

#[test]
fn a_node_stays_with_the_coordinator_that_it_joined() {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one"]);
    mesh.kill_node("one");
    let kept = || ["identity.key", "join"].map(|name| fs::read(mesh.path("one").join(name)).unwrap());
    let before = kept();

    let other = Mesh::start("");
    let join = other.shoal(&["token", "create", "--site", "osl", "-q"]);
    let (code, log) = ended(&mesh, "one", &mut mesh.node_command("one", join.stdout.trim()));
    assert_eq!(code, Some(8), "{log}");
    for words in ["FOLDER/one belongs to coordinator ", "pass another --data-dir, or empty this one to move the node"] {
        assert!(log.contains(words), "{words} is not in {log}");
    }
    assert!(before == kept(), "what makes it a member is as it was");
    assert_eq!(other.shoal(&["nodes", "ls", "-o", "json"]).json()["nodes"].as_array().map(Vec::len), Some(0));

    mesh.start_node("one");
    mesh.await_online("one");
}

#[test]
fn a_node_that_finds_another_coordinator_ends_and_belongs_to_nobody() {
    let mut mesh = Mesh::start("");
    let old = mesh.shoal(&["token", "create", "--site", "osl", "-q"]);
    assert_eq!(mesh.stop_coordinator(), Some(0));
    fs::remove_dir_all(mesh.path("coordinator")).unwrap();
    mesh.start_coordinator();
    let (code, log) = ended(&mesh, "one", &mut mesh.node_command("one", old.stdout.trim()));
    assert_eq!(code, Some(8), "{log}");
    for words in ["at /ip4/ADDRESS/tcp/7440 is not the coordinator of the join string, ", "`shoal token create`"] {
        assert!(log.contains(words), "{words} is not in {log}");
    }
    // With a string of the coordinator that is there, the same folder will do.
    mesh.join("osl", &["one"]);
}

#[test]
fn a_node_that_is_not_told_whom_to_join_says_so_and_its_help_tells_the_exit_codes() {
    let mesh = Mesh::start("");
    let mut command = Command::new(program("shoal-node"));
    let (code, log) = ended(&mesh, "lost", command.arg("--data-dir").arg(mesh.path("lost")));
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("pass --join with a string from `shoal token create`"), "{log}");
    let help = Command::new(program("shoal-node")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let codes = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let codes: Vec<&str> = codes.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(codes[..4], ["0", "1", "2", "8"], "{help}");
}

#[test]
fn a_port_that_another_program_has_is_named_and_never_shared() {
    let mesh = Mesh::start("");
    let api = mesh.api();
    let address = api.trim_start_matches("http://").split(':').next().unwrap();
    let join = mesh.shoal(&["token", "create", "--site", "osl", "-q"]);
    for (option, port) in [("--listen", 7443), ("--listen", 7440), ("--bulk-listen", 7443)] {
        let mut command = mesh.node_command("one", join.stdout.trim());
        let (code, log) = ended(&mesh, "one", command.args([option, &format!("{address}:{port}")]));
        assert_eq!(code, Some(1), "{log}");
        let said = format!("shoal-node: {option}: cannot listen on /ip4/ADDRESS/tcp/{port}: port {port} is in use: ");
        assert!(log.contains(&said), "{said} is not in {log}");
    }
    let table = [
        ("mesh_listen", "ADDRESS", 7440),
        ("mesh_listen", "0.0.0.0", 7443),
        ("bulk_listen", "ADDRESS", 7443),
        ("api_listen", "ADDRESS", 7441),
        ("mesh_listen", "ADDRESS", 7441),
    ];
    for (key, host, port) in table {
        let host = host.replace("ADDRESS", address);
        let on = |this: &str, port: u16| if this == key { port } else { 0 };
        let config = format!(
            "data_dir = 'other'\napi_listen = '{host}:{}'\nmesh_listen = ['/ip4/{host}/tcp/{}']\n\
             bulk_listen = ['/ip4/{host}/tcp/{}']\n",
            on("api_listen", port),
            on("mesh_listen", port),
            on("bulk_listen", port)
        );
        fs::write(mesh.path("other.toml"), config).unwrap();
        let ran = mesh.shoal(&["serve", "-c", "other.toml"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let said = ran.stderr.contains(&format!("error: {key}: cannot listen on "))
            && ran
                .stderr
                .contains(&format!(": port {port} is in use: stop the program that has it, or choose another"));
        assert!(said, "{}", ran.stderr);
    }
    assert_eq!(mesh.shoal(&["nodes", "ls", "-o", "json"]).json()["nodes"].as_array().map(Vec::len), Some(0));
}
