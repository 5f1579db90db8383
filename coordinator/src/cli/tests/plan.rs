//! Plans, and deployments that are held to one.

use super::*;

fn folder_with_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = deployment_file(&folder, text);
    (folder, file)
}

#[tokio::test]
async fn a_plan_shows_what_moves_from_where_and_what_is_in_the_way() {
    let (_folder, file) = folder_with_file("name: storefront\n");
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["plan", "-f", &file]).await;
    assert_eq!((exit, err), (Exit::Done, format!("resolving the packages of {file}\n")));
    insta::assert_snapshot!(out, @r"
    storefront 2026.11.3   3 nodes, 2 sites, 1 package, 2 steps   plan 01010101
      package  from                       size      blake3
      web      nuget-main Acme.Web 4.2.1  412.0 MB  03030303
      site  nodes          wanted    already there  over the WAN  from peers  WAN             takes about
      osl   2              824.0 MB  721.0 MB       51.5 MB       51.5 MB     6.2 MB/s limit  8.2 s
      syd   2 (1 unknown)  824.0 MB  721.0 MB       51.5 MB       51.5 MB     –               –
      wave    nodes  at a time     may fail          to go on  bakes
      canary  1      all           0                 1         10m 00s
      rest    2      1 of 2 sites  1, 50% of a site  1         –
      node   site  online  gets  wave
      osl-1  osl   yes     web   canary
      osl-2  osl   yes     web   rest
      syd-1  syd   no      web   rest
    how long packages take is not known: a site has no WAN limit, and none was read there yet; the gate opens when 100% of the nodes have their packages
    in the way: syd-1 is offline
    ");
    let (_, out, _) = shoal(&fake, &["plan", "-f", &file, "-o", "json"]).await;
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(plan["schema"], "shoal.plan/v1");
    assert_eq!(plan["hash"], "01".repeat(32));
    assert_eq!(plan["sites"][0]["wan_bytes"], 51_500_000);
    assert_eq!(plan["blockers"][0], "syd-1 is offline");
}

#[tokio::test]
async fn a_rollback_is_planned_and_held_to_its_plan() {
    let folder = tempfile::tempdir().unwrap();
    let mut fake = Fake::start(all_statuses()).await;
    let kept = folder.path().join("back.json").display().to_string();
    let (exit, out, err) = shoal(&fake, &["plan", "--rollback", "d12", "--out", &kept]).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(err, format!("plan 05050505 is in {kept}: `shoal rollback d12 --plan` carries it out\n"));
    insta::assert_snapshot!(out, @r"
    rollback of d12   plan 05050505
    to release 2026.11.2 of d11: 2 nodes, 2 steps
      site  nodes  wanted    already there  over the WAN  from peers  WAN             takes about
      osl   2      824.0 MB  824.0 MB       0 B           0 B         6.2 MB/s limit  0 ms
      node   site  online  holds the release
      osl-1  osl   yes     yes
      osl-2  osl   no      not known
      runs vpn, restart
    syd-1 had no release before and stays as it is
    in the way: osl-2 is offline
    ");
    let (_, out, _) = shoal(&fake, &["plan", "--rollback", "d12", "-o", "json"]).await;
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&plan["schema"], &plan["hash"]), (&"shoal.way-back/v1".into(), &"05".repeat(32).into()));
    let (exit, ..) = shoal(&fake, &["rollback", "d12", "--plan", &kept]).await;
    assert_eq!(exit, Exit::Done);
    let (action, _) = fake.actions.recv().await.unwrap();
    assert_eq!(action, crate::api::types::Action::Rollback { plan: Some("05".repeat(32)) });
    let (exit, _, err) = shoal(&fake, &["rollback", "d13", "--plan", &kept]).await;
    assert_eq!((exit, err.contains("the plan takes d12 back, not d13")), (Exit::Usage, true), "{err}");
}

#[test]
fn a_plan_without_anything_to_do_says_so() {
    let plan = crate::api::types::Plan { as_wanted_since: Some("d3".to_owned()), ..sample::plan() };
    let text = crate::cli::plan::render(&plan, crate::cli::table::Paint { on: false });
    let last = text.lines().last().unwrap();
    assert_eq!(last, "nothing to do: all is as wanted since d3; `shoal deploy --again` runs it all the same");
}

#[tokio::test]
async fn a_deployment_is_held_to_its_plan() {
    let (folder, file) = folder_with_file("name: storefront\n");
    let fake = Fake::start(all_statuses()).await;
    let kept = folder.path().join("plan.json").display().to_string();
    let (exit, _, err) = shoal(&fake, &["plan", "-f", &file, "--out", &kept]).await;
    assert_eq!(exit, Exit::Done);
    assert!(err.ends_with(&format!("plan 01010101 is in {kept}: `shoal deploy --plan` carries it out\n")), "{err}");
    let deploy = ["deploy", "-f", &file, "--plan", &kept];
    let (exit, out, _) = shoal(&fake, &deploy).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "d12\n"));

    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, text.replace(&"02".repeat(32), &"04".repeat(32))).unwrap();
    let (exit, out, err) = shoal(&fake, &deploy).await;
    assert_eq!((exit, out.as_str()), (Exit::Blocked, ""));
    assert!(
        err.ends_with("not deployed: plan 01010101 does not hold any more:\n  the deployment file was changed\n"),
        "{err}"
    );

    std::fs::write(&kept, "{}").unwrap();
    let (exit, _, err) = shoal(&fake, &deploy).await;
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("plan.json is no plan: missing field `schema`"), "{err}");
    let bare = Cli::try_parse_from(["shoal", "deploy"]).unwrap_err().to_string();
    assert!(bare.contains("--file <FILE>"), "{bare}");
}

#[tokio::test]
async fn what_was_deployed_before_is_not_deployed_unless_it_is_wanted_again() {
    let (_folder, file) = folder_with_file("name: same\n");
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["deploy", "-f", &file, "--watch"]).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "d12\n"), "there is nothing to watch");
    let said = "nothing was done: all is as wanted since d12; `shoal deploy --again` runs it all the same\n";
    assert!(err.ends_with(said), "{err}");
    let (_, out, _) = shoal(&fake, &["deploy", "-f", &file, "-o", "json"]).await;
    assert!(out.contains(r#""unchanged":true"#), "{out}");
    let (_, out, _) = shoal(&fake, &["deploy", "-f", &file, "--again", "-o", "json"]).await;
    assert!(!out.contains("unchanged"), "{out}");
}

#[tokio::test]
async fn nodes_of_another_deployment_are_refused_or_waited_for() {
    let (_folder, file) = folder_with_file("name: held\n");
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["deploy", "-f", &file]).await;
    assert_eq!((exit, out.as_str()), (Exit::Blocked, ""));
    assert!(err.ends_with("not deployed: d12 is not over\n  wait\n"), "{err}");
    let (exit, out, err) = shoal(&fake, &["deploy", "-f", &file, "--wait"]).await;
    assert_eq!((exit, out.as_str()), (Exit::Done, "d12\n"), "{err}");
    assert_eq!(err.matches("not deployed: d12 is not over; waiting\n").count(), 1, "{err}");
}
