//! What is looked at: lists, statuses, logs, recipes.

use super::*;

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
async fn a_feed_that_is_tried_says_what_to_change() {
    let fake = Fake::start(all_statuses()).await;
    let (exit, text, _) = shoal(&fake, &["feeds", "test", "nuget-main", "Acme.Web", "4.2.*"]).await;
    assert_eq!(exit, Exit::Unexpected, "one place does not work");
    insta::assert_snapshot!(text, @r#"
    nuget-main Acme.Web 4.2.1   65.3 MB   auth: password   the feed's own hash: sha512:ab12
      place                  for   works  ranges  validator  first answer  rate
      http://main/web.nupkg  all   yes    yes     "5e-1"     31 ms         11.5 MB/s
      http://syd/web.nupkg   syd*  yes    no      –          31 ms         11.5 MB/s
      http://osl/web.nupkg   osl   no     –       –          –             –
    http://main/web.nupkg: nothing is wrong with it
    http://syd/web.nupkg: it ignores ranges
    http://osl/web.nupkg: nodes cannot read here: http://osl/web.nupkg answered 401: check the feed's user name and password file
    "#);
    let (exit, text, _) = shoal(&fake, &["feeds", "test", "nuget-main"]).await;
    assert_eq!(exit, Exit::Done);
    insta::assert_snapshot!(text, @r"
    nuget-main   auth: password
      place                  for  works  ranges  validator  first answer  rate
      http://main/web.nupkg  all  yes    –       –          31 ms         –
    http://main/web.nupkg: nothing is wrong with it
    ");
    let (_, json, _) = shoal(&fake, &["-o", "json", "feeds", "test", "nuget-main", "Acme.Web"]).await;
    assert!(
        json.starts_with(r#"{"schema":"shoal.feed-test/v1","feed":"nuget-main","package":"nuget-main Acme.Web 4.2.1""#),
        "{json}"
    );
}

#[tokio::test]
async fn sites_say_their_limit_and_why() {
    let fake = Fake::start(all_statuses()).await;
    insta::assert_snapshot!(shoal(&fake, &["sites", "ls"]).await.1, @r"
    site  nodes  online  WAN limit   limited by                           WAN rate    time zone    steps start
    ams   4      4       none        –                                    0 B/s       –            yes
    bgo   4      4       6.2 MB/s    base                                 600.0 kB/s  Europe/Oslo  yes
    osl   4      4       625.0 kB/s  calendar                             600.0 kB/s  Europe/Oslo  yes
    syd   4      4       2.0 MB/s    operator until 2026-11-22T21:43:58Z  600.0 kB/s  Europe/Oslo  yes
    trd   4      4       none        operator                             600.0 kB/s  Europe/Oslo  yes
    ");
}

#[tokio::test]
async fn a_limit_is_asked_for_as_it_was_said() {
    let fake = Fake::start(all_statuses()).await;
    let limit = async |args: &[&str]| shoal(&fake, &[&["sites", "limit", "syd"], args].concat()).await.1;
    let set = |limit: &str, until: &str, span: &str| {
        format!("syd: Set {{ limit: {limit}, until: {until}, for_ms: {span} }}\n")
    };
    assert_eq!(limit(&["2MB/s"]).await, set("Some(2000000)", "None", "None"));
    assert_eq!(limit(&["2MB/s", "--until", "18:00"]).await, set("Some(2000000)", "Some(\"18:00\")", "None"));
    assert_eq!(limit(&["none", "--for", "2h"]).await, set("None", "None", "Some(7200000)"));
    assert_eq!(limit(&["default"]).await, "syd: Default\n");
    let (exit, _, err) = shoal(&fake, &["sites", "limit", "syd", "default", "--for", "2h"]).await;
    assert_eq!((exit, err.contains("leave out --until and --for")), (Exit::Usage, true), "{err}");
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
      step     done  running  failed  to do  started within
      unpack   8     0        0       0      –
      restart  7     0        1       0      –
      health   7     0        0       1      –
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
    let fake = Fake::start(vec![sample::succeeded()]).await;
    insta::assert_snapshot!(shoal(&fake, &["status"]).await.1, @r"
    storefront 2026.11.3 succeeded in 1m 52s   8 nodes, 2 sites, 3 steps
      site  nodes  package bytes  over the WAN  copies  from peers  already there  acquired in  bound  of bound
      osl   4      412.0 MB       51.5 MB       0.13    154.5 MB    1.44 GB        9.0 s        8.3 s  92 %
      syd   4      412.0 MB       51.5 MB       0.13    154.5 MB    1.44 GB        9.1 s        8.3 s  91 %
    8 copies wanted, 0.25 crossed a WAN: 3.19 GB saved.
      step     done  running  failed  to do  started within
      unpack   8     0        0       0      –
      restart  8     0        0       0      –
      health   8     0        0       0      –
    ");
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
async fn recipes_are_made_and_shown_without_a_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("web.bin");
    // The same 300 kB twice, so that some of it repeats.
    let half: Vec<u8> =
        (0..10_000_u32).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).take(300_000).collect();
    std::fs::write(&package, [&half[..], &half].concat()).unwrap();
    let path = package.display().to_string();
    let (exit, out, err) =
        shoal_until("http://127.0.0.1:1", "", &["recipe", "make", &path], std::future::pending()).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    insta::assert_snapshot!(out.replace(&path, "web.bin"), @r"
    web.bin.recipe
      package   d33a5081212bbb145e8717aeae17d7becd6f874ddf3cda408b10aae27573d01d 600.0 kB
      recipe    c26bfffcca954598fbb7d392cee350f1d102a9b207c412aca20c00e44f30642f 247 B, 256 B compressed
      segments  6 of 446.5 kB in 3 blocks
      repeats   3 of 153.5 kB
      glue      0 B, 0 % of the package
    ");
    let recipe = format!("{path}.recipe");
    let show = ["recipe", "show", &recipe, "-o", "json"];
    let (_, out, _) = shoal_until("http://127.0.0.1:1", "", &show, std::future::pending()).await;
    let content: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(content["package"], blake3::hash(&std::fs::read(&package).unwrap()).to_string());
    assert_eq!(content["recipe"], blake3::hash(&std::fs::read(&recipe).unwrap()).to_string());
    let (exit, _, err) =
        shoal_until("http://127.0.0.1:1", "", &["recipe", "show", &path], std::future::pending()).await;
    assert_eq!(exit, Exit::Usage);
    assert!(err.replace(&path, "web.bin").starts_with("error: web.bin is no recipe: "), "{err}");
}

#[tokio::test]
async fn recipes_are_given_to_the_coordinator() {
    let fake = Fake::start(all_statuses()).await;
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("web.bin");
    std::fs::write(&package, b"some bytes").unwrap();
    let path = package.display().to_string();
    let (exit, _, err) = shoal(&fake, &["recipe", "add", &path]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("web.bin is no recipe: ") && err.contains("`shoal recipe make PACKAGE` makes one"), "{err}");
    shoal(&fake, &["recipe", "make", &path]).await;
    let (exit, out, err) = shoal(&fake, &["recipe", "add", &format!("{path}.recipe")]).await;
    let known = format!("package {}\n", blake3::hash(b"some bytes"));
    assert_eq!((exit, out, err.as_str()), (Exit::Done, known, ""));
}
