//! Starting, watching and steering deployments.

use super::*;
use crate::trail::By;

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
    let watching = tokio::spawn(async move {
        crate::cli::run(cli, Some(TOKEN.to_owned()), &mut terminal, std::future::pending()).await
    });
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
    let (action, by) = fake.actions.recv().await.unwrap();
    assert_eq!(action, Action::Answer { answer: Answer::Exclude, node, step });
    assert!(!by.who.is_empty() && by.reason.is_none(), "{by:?}");
    shoal(&fake, &["release", "d12", "--operator", "Åse", "--reason", "CHG-4711: it is time"]).await;
    let by = By { who: "Åse".to_owned(), reason: Some("CHG-4711: it is time".to_owned()) };
    assert_eq!(fake.actions.recv().await, Some((Action::Release { now: false }, by)));
}

#[tokio::test]
async fn an_operator_may_pay_for_more_reading() {
    let fake = Fake::start(vec![sample::acquiring()]).await;
    let allow = ["allow", "d12", "--site", "syd", "--bytes"];
    let (exit, out, _) = shoal(&fake, &[&allow[..], &["20MB", "--package", "web"]].concat()).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "syd may read 20000000 bytes more of web\n"));
    let nothing = Cli::try_parse_from(["shoal"].iter().chain(&allow).chain(&["0MB"])).unwrap_err().to_string();
    assert!(nothing.contains("invalid value '0MB' for '--bytes <SIZE>': 0 allows nothing"), "{nothing}");
}
