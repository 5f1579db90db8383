//! When deployments start and run: times, expiry, maintenance windows and freezes, and waits that outlive a coordinator.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use shoal_tests::{Mesh, Origin, package, until};

const WITHIN: Duration = Duration::from_secs(60);

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A time of day so many hours from this one, in UTC, as operators write it.
fn clock_in(hours: u64) -> String {
    let minutes = now_ms() / 60_000 + hours * 60;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

/// A step that writes down when and where it runs.
fn step(mesh: &Mesh, name: &str) -> String {
    let ran = mesh.path("ran").display().to_string();
    format!("  - {{ name: {name}, run: 'echo {name} $SHOAL_NODE $(date +%s%3N) >> {ran}' }}\n")
}

fn file(name: &str, steps: &str, more: &str) -> String {
    format!("name: {name}\nrelease: '1'\ntargets:\n  - {{ select: all }}\nsteps:\n{steps}{more}")
}

/// What ran, where and when in milliseconds.
fn ran(mesh: &Mesh) -> Vec<(String, String, u64)> {
    let text = fs::read_to_string(mesh.path("ran")).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn waits_for(status: &Value, what: &str) -> bool {
    status["waiting"].to_string().contains(what)
}

fn ms(time: &Value) -> u64 {
    let text = time.as_str().expect("a time");
    u64::try_from(text.parse::<jiff::Timestamp>().expect("RFC 3339").as_millisecond()).unwrap()
}

#[test]
fn packages_come_at_once_and_steps_wait_for_their_time() {
    let origin = Origin::start();
    origin.put("model.bin", package::bytes(7, 300_000));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one", "two"]);
    let targets =
        "packages:\n  model: { feed: files, id: model.bin }\ntargets:\n  - { select: all, packages: [model] }\n";
    let model = format!("name: model\nrelease: '1'\n{targets}steps:\n{}", step(&mesh, "go"));
    let deployed = mesh.deploy(&model, &["--at", "in 1h", "--expires", "2h", "-o", "json"]).json();
    let (at, expires) = (ms(&deployed["at"]), ms(&deployed["expires"]));
    assert!(at.abs_diff(now_ms() + 3_600_000) < 60_000 && expires == at + 7_200_000, "{deployed:#}");
    let id = deployed["id"].as_str().unwrap();
    let status = mesh.await_state(id, "blocked", WITHIN);
    assert_eq!((&status["stage"], &status["sites"][0]["nodes_acquired"]), (&json!("release"), &json!(2)), "{status:#}");
    assert!(waits_for(&status, "the gate waits until") && waits_for(&status, "expires at"), "{status:#}");
    assert_eq!(ms(&status["at"]), at);
    assert_eq!(mesh.shoal(&["watch", id, "-q", "--wait-max", "1s"]).code, 5);
    assert_eq!(mesh.shoal(&["release", id]).code, 2, "its time is to come");

    mesh.kill_coordinator();
    mesh.start_coordinator();
    let status = mesh.await_state(id, "blocked", WITHIN);
    assert_eq!((ms(&status["at"]), ran(&mesh)), (at, vec![]), "a restart does not forget it: {status:#}");
    assert_eq!(mesh.shoal(&["release", id, "--now"]).code, 0);
    mesh.await_state(id, "succeeded", WITHIN);
    assert_eq!(ran(&mesh).len(), 2);

    let soon = mesh.begin(&file("soon", &step(&mesh, "soon"), "at: in 4s\n"));
    let at = ms(&mesh.status(&soon)["at"]);
    mesh.await_state(&soon, "succeeded", WITHIN);
    let began = ran(&mesh).into_iter().filter(|(step, ..)| step == "soon").map(|(.., at)| at);
    assert!(began.min().unwrap() >= at, "it began by itself, and not before");
}

#[test]
fn what_has_not_begun_by_its_time_never_runs() {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one"]);
    let manual = format!("acquire: {{ gate: manual }}\n{}", "expires: 3s\n");
    let text = file("late", &step(&mesh, "go"), &manual);
    let id = mesh.begin(&text);
    let status = mesh.await_state(&id, "failed", WITHIN);
    assert!(waits_for(&status, "expired before its steps began: nobody had released it"), "{status:#}");
    assert_eq!(mesh.shoal(&["watch", &id, "-q"]).code, 3);
    assert_eq!(ran(&mesh), []);

    let refused = |args: &[&str], message: &str| {
        let ran = mesh.deploy(&file("no", &step(&mesh, "go"), ""), args);
        assert!(ran.code == 2 && ran.stderr.contains(message), "{message}: {ran:?}");
    };
    refused(&["--at", "2020-01-01T00:00:00Z"], "`at` is over");
    refused(&["--at", "2126-01-01 10:00"], "more than a year away");
    refused(&["--at", "soon"], "`soon` is no time: write for instance `22:00`");
    refused(&["--at", "in 2h", "--expires", "in 1h"], "`expires` is not after `at`");
    refused(&["--at", "10:00", "--stage-only"], "cannot be used with");
}

#[test]
fn outside_of_its_window_a_site_starts_nothing_and_the_others_go_on() {
    let (from, to) = (clock_in(6), clock_in(8));
    let settings = format!(
        "timezone = 'UTC'\n[[site]]\nname = 'osl'\ntimezone = 'UTC'\n\
         maintenance = [{{ days = 'daily', from = '{from}', to = '{to}' }}]\n"
    );
    let mut mesh = Mesh::start(&settings);
    mesh.join("osl", &["one"]);
    mesh.join("syd", &["two"]);
    let sites = "waves: [{ name: sites, per: site }]\n";
    let text = file("task", &(step(&mesh, "go") + &step(&mesh, "then")), sites);
    let id = mesh.begin(&text);
    let status = mesh.await_state(&id, "blocked", WITHIN);
    let places: Vec<_> = ran(&mesh).into_iter().map(|(step, node, _)| (step, node)).collect();
    assert_eq!(places, [("go", "two"), ("then", "two")].map(|(step, node)| (step.to_owned(), node.to_owned())));
    assert!(waits_for(&status, "site osl waits for its maintenance window at"), "{status:#}");
    assert_eq!(
        (&status["shut"][0]["site"], &status["shut"][0]["why"]),
        (&json!("osl"), &json!("window")),
        "{status:#}"
    );
    let opens = ms(&status["shut"][0]["until"]);
    assert!(opens > now_ms() + 5 * 3_600_000 && opens <= now_ms() + 6 * 3_600_000, "{status:#}");
    assert_eq!(mesh.shoal(&["watch", &id, "-q", "--wait-max", "1s"]).code, 5);
    let plan = mesh.shoal(&["plan", "-f", "deploy.yaml"]).stdout;
    assert!(plan.contains("in the way: site osl waits for its maintenance window"), "{plan}");
    let listed = mesh.shoal(&["sites", "ls"]).stdout;
    assert!(listed.contains("steps start") && listed.contains("from "), "{listed}");

    mesh.kill_coordinator();
    mesh.start_coordinator();
    mesh.await_state(&id, "blocked", WITHIN);
    assert_eq!(mesh.shoal(&["override-window", &id]).code, 2, "it wants a reason");
    assert_eq!(mesh.shoal(&["override-window", &id, "--reason", "CHG-4711"]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(ran(&mesh).len(), 4);
    let again = mesh.deploy(&text, &["--again", "--override-window", "INC-9", "--watch", "-q"]);
    assert_eq!(again.code, 0, "{again:?}");
    let acts = mesh.shoal(&["audit", "ls", "-o", "json"]).stdout;
    for wanted in ["override-window", "CHG-4711", "past windows and freezes: INC-9"] {
        assert!(acts.contains(wanted), "{wanted} in {acts}");
    }
}

#[test]
fn a_barrier_over_sites_that_are_never_open_together_is_refused() {
    let site = |name: &str, from: u64| {
        let (from, to) = (clock_in(from), clock_in(from + 2));
        format!(
            "[[site]]\nname = '{name}'\ntimezone = 'UTC'\n\
             maintenance = [{{ days = 'daily', from = '{from}', to = '{to}' }}]\n"
        )
    };
    let mut mesh = Mesh::start(&format!("timezone = 'UTC'\n{}{}", site("osl", 6), site("syd", 9)));
    mesh.join("osl", &["one"]);
    mesh.join("syd", &["two"]);
    let step = step(&mesh, "swap").replace("{ name", "{ sync: barrier, name");
    let text = file("task", &step, "");
    let said = "step swap starts on all nodes together (`sync: barrier`), and their sites are not open at the same time: osl daily ";
    let refused = mesh.deploy(&text, &["-q"]);
    assert!(
        refused.code == 5 && refused.stderr.contains(said) && refused.stderr.contains("; syd daily "),
        "{refused:?}"
    );
    let plan = mesh.shoal(&["plan", "-f", "deploy.yaml"]).stdout;
    assert!(plan.contains(&format!("in the way: {said}")), "{plan}");
    let by_site =
        mesh.deploy(&(text.clone() + "waves: [{ name: sites, per: site }]\n"), &["--detach", "-o", "json"]).json();
    let id = by_site["id"].as_str().unwrap();
    mesh.await_state(id, "blocked", WITHIN);
    assert_eq!(mesh.shoal(&["cancel", id]).code, 0);
    mesh.await_state(id, "cancelled", WITHIN);
    assert_eq!(mesh.deploy(&text, &["--override-window", "INC-9", "--watch", "-q"]).code, 0);
    assert_eq!(ran(&mesh).len(), 2);
}

#[test]
fn in_a_freeze_nothing_starts_and_what_runs_is_let_finish() {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one"]);
    let go = mesh.path("go").display().to_string();
    let wait = format!("  - {{ name: wait, run: 'until test -e {go}; do sleep 0.05; done' }}\n");
    let id = mesh.begin(&file("task", &(wait + &step(&mesh, "then")), ""));
    mesh.await_status(&id, "it runs", WITHIN, |status| status["nodes"][0]["steps"][0]["state"] == "running");
    assert_eq!(mesh.shoal(&["freeze"]).code, 2, "it wants a reason");
    assert_eq!(mesh.shoal(&["freeze", "--site", "nowhere", "--reason", "sale"]).code, 2);
    assert_eq!(mesh.shoal(&["freeze", "--reason", "sale"]).code, 0);
    fs::write(&go, "").unwrap();
    let status = mesh.await_state(&id, "blocked", WITHIN);
    assert_eq!(status["nodes"][0]["steps"][0]["state"], "succeeded", "{status:#}");
    assert!(waits_for(&status, "site osl is frozen: sale"), "{status:#}");

    // What an operator froze outlives the coordinator (ACKED-IS-KEPT).
    mesh.kill_coordinator();
    mesh.start_coordinator();
    mesh.await_online("one");
    let status = mesh.await_state(&id, "blocked", WITHIN);
    assert_eq!((ran(&mesh), &status["shut"][0]["reason"]), (vec![], &json!("sale")), "{status:#}");
    assert_eq!(mesh.shoal(&["thaw", "--site", "osl"]).code, 2, "all sites were frozen, not this one");
    assert_eq!(mesh.shoal(&["thaw"]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);

    // What an operator went past holds again once that is taken back.
    assert_eq!(mesh.shoal(&["freeze", "--reason", "audit"]).code, 0);
    let manual = file("held", &step(&mesh, "held"), "acquire: { gate: manual }\n");
    let id = mesh.begin(&manual);
    mesh.await_state(&id, "blocked", WITHIN);
    assert_eq!(mesh.shoal(&["override-window", &id, "--end"]).code, 2, "nothing was overridden");
    assert_eq!(mesh.shoal(&["override-window", &id, "--reason", "CHG-1"]).code, 0);
    assert_eq!(mesh.status(&id)["any_hour"], true);
    assert_eq!(mesh.shoal(&["override-window", &id, "--end"]).code, 0);
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    let status = mesh.await_status(&id, "it is frozen", WITHIN, |status| waits_for(status, "is frozen: audit"));
    assert!(status["any_hour"] != true && !ran(&mesh).iter().any(|(step, ..)| step == "held"), "{status:#}");
    let acts = mesh.shoal(&["audit", "ls"]).stdout;
    assert!(acts.contains(&format!("{id} ends")), "{acts}");
    assert_eq!(mesh.shoal(&["thaw"]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);

    let froze = now_ms();
    assert_eq!(mesh.shoal(&["freeze", "--site", "osl", "--for", "3s", "--reason", "move"]).code, 0);
    let id = mesh.begin(&file("next", &step(&mesh, "next"), ""));
    mesh.await_state(&id, "succeeded", WITHIN);
    let began = ran(&mesh).into_iter().find(|(step, ..)| step == "next").unwrap().2;
    assert!(began >= froze + 3_000, "it began when the freeze was over, by itself");
}

#[test]
fn a_bake_goes_on_where_it_was_after_a_restart() {
    const BAKE_MS: u64 = 12_000;
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one", "two"]);
    let waves = "waves:\n  - { name: canary, select: 'name=one', bake: 12s }\n  - { name: rest }\n";
    let id = mesh.begin(&file("task", &step(&mesh, "go"), waves));
    mesh.await_status(&id, "it bakes", WITHIN, |status| status["waves"][0]["state"] == "baking");
    let half = Instant::now() + Duration::from_millis(BAKE_MS / 2);
    until("half of the bake is over", WITHIN, || (Instant::now() >= half).then_some(()));
    mesh.kill_coordinator();
    mesh.start_coordinator();
    let restarted = now_ms();
    mesh.await_state(&id, "succeeded", WITHIN);
    let at = |node: &str| ran(&mesh).into_iter().find(|(_, of, _)| of == node).unwrap().2;
    let between = at("two") - at("one");
    assert!(between >= BAKE_MS - 100, "the bake was cut short: {between} ms");
    assert!(at("two") < restarted + BAKE_MS, "the bake began anew: {between} ms");
}
