//! Scripts: what they see, how they end, and that nothing of them stays.

use std::time::Instant;

use shoal_proto::limits::{OUTPUT_BYTES_MAX, OUTPUT_CHUNK_BYTES_MAX};

use super::*;

fn script(folder: &Path, text: &str) -> StepRun {
    step(folder, Action::Script { run: text.into() })
}

fn succeeded(values: &[(&str, &str)]) -> Outcome {
    Outcome::Succeeded { values: values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() }
}

/// Whether the process runs: a zombie does not.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| !"ZXx".contains(state))
}

/// Starts `step`, waits until it wrote the numbers of `count` processes, does `then`, and answers how it ended, how long
/// that took, and the numbers.
async fn end_by(step: &StepRun, count: usize, then: impl FnOnce(&CancellationToken)) -> (Outcome, Duration, Vec<i32>) {
    let (output, mut chunks) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let running = async {
        let outcome = run(step, &output, &cancel).await;
        (outcome, Instant::now())
    };
    let watching = async {
        let mut seen = String::new();
        while seen.lines().count() < count || !seen.ends_with('\n') {
            let chunk = chunks.recv().await.expect("the script must write its processes' numbers");
            seen += std::str::from_utf8(&chunk.bytes).unwrap();
        }
        let pids: Vec<i32> = seen.lines().map(|line| line.parse().unwrap()).collect();
        assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
        then(&cancel);
        (pids, Instant::now())
    };
    let both = async { tokio::join!(running, watching) };
    let ((outcome, end), (pids, start)) =
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("it must end");
    (outcome, end.saturating_duration_since(start), pids)
}

/// Children, grandchildren, and one in a session of its own.
const TREE: &str =
    "sleep 1000 & echo $!; (sleep 1000 & echo $!; wait) & setsid sh -c 'echo $$; sleep 1000; true' & wait";

#[tokio::test]
async fn a_script_sees_its_variables_and_hands_on_values() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = script(
        folder.path(),
        "env | grep ^SHOAL_ | grep -v SHOAL_OUTPUT= | sort; pwd; echo oops >&2\n\
         echo version=4.2=1 >> $SHOAL_OUTPUT; echo >> $SHOAL_OUTPUT; echo _b= >> $SHOAL_OUTPUT",
    );
    let package = |index, name: &str| PackageFile {
        index: PackageIndex(index),
        name: Name::new(name).unwrap(),
        path: format!("/cache/{name}").into(),
    };
    step.packages = vec![package(0, "web"), package(1, "my-model.2")];
    step.outputs = vec![wrote("db-migrate", "color", "red"), wrote("paint", "color", "blue")];
    let (outcome, chunks) = run_to_end(&step).await;
    assert_eq!(outcome, succeeded(&[("version", "4.2=1"), ("_b", "")]));
    let work_dir = step.work_dir.canonicalize().unwrap();
    let expected = format!(
        "SHOAL_DEPLOYMENT=d12\nSHOAL_NODE=web-1\nSHOAL_OUTPUT_DB_MIGRATE_COLOR=red\n\
         SHOAL_OUTPUT_PAINT_COLOR=blue\nSHOAL_PACKAGE_MY_MODEL_2=/cache/my-model.2\n\
         SHOAL_PACKAGE_WEB=/cache/web\nSHOAL_RELEASE=r1\nSHOAL_SITE=syd\nSHOAL_STEP=restart\nSHOAL_VALUE_COLOR=blue\n{}\n",
        work_dir.display()
    );
    assert_eq!(text(&chunks, OutputStream::Stdout), expected);
    assert_eq!(text(&chunks, OutputStream::Stderr), "oops\n");
}

#[tokio::test]
async fn the_agents_environment_is_not_inherited() {
    let folder = tempfile::tempdir().unwrap();
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "cargo sets it for tests");
    let (outcome, chunks) =
        run_to_end(&script(folder.path(), "echo ${CARGO_MANIFEST_DIR-unset}; test -n \"$PATH\"")).await;
    assert_eq!((outcome, text(&chunks, OutputStream::Stdout)), (succeeded(&[]), "unset\n".to_owned()));
}

#[tokio::test]
async fn failures_tell_how_the_script_ended() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("exit 7", Some(7), "exit code 7"),
        ("kill -9 $$", Some(137), "ended by signal SIGKILL"),
        ("no-such-program", Some(127), "exit code 127"),
        ("echo nonsense > $SHOAL_OUTPUT", Some(0), "line 1 of $SHOAL_OUTPUT is not `key=value`"),
        ("printf 'a=1\\nb c=2\\n' > $SHOAL_OUTPUT", Some(0), "line 2 of $SHOAL_OUTPUT is not `key=value`"),
        ("head -c 20000 /dev/zero > $SHOAL_OUTPUT", Some(0), "$SHOAL_OUTPUT is over 16384 bytes"),
        ("for i in $(seq 70); do echo k$i=v; done > $SHOAL_OUTPUT", Some(0), "$SHOAL_OUTPUT has more than 64 values"),
    ];
    for (text, exit_code, cause) in cases {
        let (outcome, _) = run_to_end(&script(folder.path(), text)).await;
        assert_eq!(outcome, Outcome::Failed { exit_code, cause: cause.into() }, "{text}");
    }
    let mut step = script(folder.path(), "true");
    step.work_dir = "/proc/nowhere".into();
    assert!(matches!(run_to_end(&step).await.0, Outcome::Failed { exit_code: None, .. }));
}

#[tokio::test]
async fn values_of_an_earlier_attempt_do_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run_to_end(&script(folder.path(), "echo a=1 > $SHOAL_OUTPUT")).await.0, succeeded(&[("a", "1")]));
    assert_eq!(run_to_end(&script(folder.path(), "true")).await.0, succeeded(&[]));
}

#[tokio::test]
async fn cancelling_kills_the_whole_tree() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, took, pids) = end_by(&script(folder.path(), TREE), 3, CancellationToken::cancel).await;
    assert_eq!(outcome, Outcome::Killed);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");
}

#[tokio::test]
async fn a_tree_that_ignores_term_is_killed_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let stubborn = "trap '' TERM; sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait; wait; wait; sleep 1000";
    let (outcome, took, pids) = end_by(&script(folder.path(), stubborn), 2, CancellationToken::cancel).await;
    assert_eq!(outcome, Outcome::Killed);
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree() {
    let folder = tempfile::tempdir().unwrap();
    let mut step = script(folder.path(), TREE);
    step.timeout = Duration::from_secs(2);
    let (outcome, _, pids) = end_by(&step, 3, |_| ()).await;
    assert_eq!(outcome, Outcome::TimedOut);
    assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");
}

#[tokio::test]
async fn a_script_may_clean_up_when_it_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let tidy = "trap 'echo undone > done; exit 0' TERM; echo $$; while :; do sleep 0.05; done";
    let (outcome, _, _) = end_by(&script(folder.path(), tidy), 1, CancellationToken::cancel).await;
    assert_eq!(outcome, Outcome::Killed, "its exit code does not make it a success");
    assert_eq!(std::fs::read_to_string(folder.path().join("work/done")).unwrap(), "undone\n");
}

#[tokio::test]
async fn dropping_the_run_kills_the_tree() {
    let folder = tempfile::tempdir().unwrap();
    let step = script(folder.path(), "sleep 1000 & echo $!; wait");
    let (output, mut chunks) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let chunk = tokio::select! {
        outcome = run(&step, &output, &cancel) => panic!("{outcome:?}"),
        chunk = chunks.recv() => chunk.unwrap(),
    };
    let pid: i32 = std::str::from_utf8(&chunk.bytes).unwrap().trim().parse().unwrap();
    let gone = async {
        while runs(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it was killed");
}

#[tokio::test]
async fn a_background_process_with_the_output_does_not_hold_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let (outcome, chunks) = run_to_end(&script(folder.path(), "echo before; sleep 1000 & echo $!")).await;
    assert_eq!(outcome, succeeded(&[]));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let output = text(&chunks, OutputStream::Stdout);
    let (before, pid) = output.trim().split_once('\n').unwrap();
    let pid: i32 = pid.parse().unwrap();
    assert!(before == "before" && runs(pid), "a service that a step started goes on");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn output_is_cut_at_its_bound_with_one_notice() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, chunks) =
        run_to_end(&script(folder.path(), "yes | head -c 6000000; echo end=1 > $SHOAL_OUTPUT")).await;
    assert_eq!(outcome, succeeded(&[("end", "1")]), "a chatty script is not held up");
    assert!(chunks.iter().all(|chunk| chunk.bytes.len() <= OUTPUT_CHUNK_BYTES_MAX));
    let kept = text(&chunks, OutputStream::Stdout).len() as u64;
    assert!(kept <= OUTPUT_BYTES_MAX && kept > OUTPUT_BYTES_MAX - 2 * OUTPUT_CHUNK_BYTES_MAX as u64, "{kept}");
    let notices = chunks.iter().filter(|chunk| chunk.stream == OutputStream::Notice).count();
    assert_eq!(notices, 1);
}

#[tokio::test]
async fn a_slow_or_missing_reader_loses_nothing_and_hangs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let step = script(folder.path(), "seq 100000");
    let (outcome, chunks) = run_to_end(&step).await;
    assert_eq!(outcome, succeeded(&[]));
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(text(&chunks, OutputStream::Stdout) == expected, "every line once and in order");

    let (output, chunks) = mpsc::channel(1);
    drop(chunks);
    assert_eq!(run(&step, &output, &CancellationToken::new()).await, succeeded(&[]));
}

#[tokio::test]
async fn a_check_is_a_step_with_a_line_of_output() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let probe = shoal_proto::manifest::Probe::Tcp { address: address.clone() };
    let check = Action::Check { probe, within: Duration::from_secs(60) };
    let (outcome, chunks) = run_to_end(&step(folder.path(), check.clone())).await;
    assert_eq!(outcome, succeeded(&[]));
    assert!(text(&chunks, OutputStream::Stdout).starts_with(&format!("{address} accepts connections after ")));

    drop(listener);
    let step = StepRun { timeout: Duration::from_millis(100), ..step(folder.path(), check) };
    assert_eq!(run_to_end(&step).await.0, Outcome::TimedOut);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (output, _chunks) = mpsc::channel(1);
    let step = StepRun { timeout: Duration::from_secs(60), ..step };
    assert_eq!(run(&step, &output, &cancel).await, Outcome::Killed);
}
