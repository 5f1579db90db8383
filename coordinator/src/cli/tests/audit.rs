//! The audit log, from the coordinator and from its file.

use super::*;
use crate::api::types::Act;
use crate::journal::Journal;
use crate::trail;

#[tokio::test]
async fn what_operators_did_is_listed_with_why_and_what_was_refused() {
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, err) = shoal(&fake, &["audit", "ls"]).await;
    assert_eq!((exit, err), (Exit::Done, format!("the log ends at {}\n", sample::HEAD)));
    insta::assert_snapshot!(out, @r"
    entry  time                  who         command       what                                     plan      reason
    7      2026-11-22T21:43:58Z  ola@laptop  token create  site syd                                 –         –
    38     2026-11-22T21:44:58Z  ola@laptop  deploy        storefront 2026.11.3 from deploy.yaml    01010101  CHG-4711
    41     2026-11-22T21:45:08Z  ola@laptop  release       d12 (refused: the gate is open already)  –         –
    ");
    let (_, out, _) = shoal(&fake, &["audit", "ls", "--count", "1", "-o", "jsonl"]).await;
    insta::assert_snapshot!(out, @r#"
    {"entry":41,"time":"2026-11-22T21:45:08Z","who":"ola@laptop","command":"release","what":"d12","refused":"the gate is open already"}
    "#);
}

#[tokio::test]
async fn a_log_that_was_changed_ends_with_9_and_names_the_entry() {
    let fake = Fake::start(all_statuses()).await;
    let (exit, out, _) = shoal(&fake, &["audit", "verify"]).await;
    assert_eq!(
        (exit, out),
        (Exit::Done, format!("41 entries are as they were written; the log ends at {}\n", sample::HEAD))
    );
    let (exit, out, _) = shoal(&fake, &["audit", "verify", "--head", sample::HEAD]).await;
    assert_eq!(exit, Exit::Integrity);
    insta::assert_snapshot!(out, @r"
    entry 42 at byte 9000 is not as it was written: its bytes were changed, or are not all there; 41 before it are
    ");
    let wrong = Cli::try_parse_from(["shoal", "audit", "verify", "--head", "41"]).unwrap_err().to_string();
    assert!(wrong.contains("`41` is no head"), "{wrong}");
}

#[tokio::test]
async fn a_file_is_listed_and_verified_without_a_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    let (mut journal, _) = Journal::open(folder.path()).unwrap();
    for number in 1..=3 {
        let act = Act { command: "release".to_owned(), what: format!("d{number}"), ..Act::default() };
        journal.append(&[trail::entry(act)]).unwrap();
    }
    let head = journal.head().to_string();
    drop(journal);
    let nobody = "http://127.0.0.1:1";
    let run = async |args: &[&str]| shoal_until(nobody, "", args, std::future::pending()).await;
    let (exit, out, _) = run(&["audit", "ls", "--data-dir", &dir, "--count", "2", "-o", "jsonl"]).await;
    let told: Vec<_> = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
    assert_eq!(exit, Exit::Done);
    assert_eq!(told.iter().map(|entry| entry["what"].as_str().unwrap()).collect::<Vec<_>>(), ["d2", "d3"]);
    let (exit, out, _) = run(&["audit", "verify", "--data-dir", &dir, "--head", &head]).await;
    assert_eq!((exit, out), (Exit::Done, format!("4 entries are as they were written; the log ends at {head}\n")));

    let file = folder.path().join("audit.log");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(2).position(|pair| pair == b"d2").unwrap();
    bytes[at + 1] = b'9';
    std::fs::write(&file, bytes).unwrap();
    let (exit, out, _) = run(&["audit", "verify", "--file", &file.display().to_string()]).await;
    assert_eq!(exit, Exit::Integrity);
    assert!(out.starts_with("entry 3 at byte ") && out.contains("its bytes were changed"), "{out}");
    let (exit, _, err) = run(&["audit", "verify", "--file", "/nonexistent"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("cannot read the audit log /nonexistent: No such file"), "{err}");
}
