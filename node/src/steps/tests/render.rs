//! Files that are filled in, and what steps see of variables.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn told() -> Told {
    let one = |name: &str, text: &str| [(name.to_owned(), text.to_owned())].into();
    Told { plain: one("port", "8080"), secret: one("password", "it's hunter2") }
}

#[tokio::test]
async fn a_file_is_filled_in_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("app.j2"), "port={{ port }}\npassword={{ password }}\nsize={{ outputs.count.size }}\n").unwrap();
    fs::write(path("web-1.conf"), "before").unwrap();
    let action = Action::Template { from: path("app.j2"), to: path("${SHOAL_NODE}.conf"), mode: 0o640 };
    let mut run = StepRun { variables: told(), ..step(folder.path(), action) };
    let (outcome, _) = run_to_end(&run).await;
    let Outcome::Failed { cause, .. } = outcome else { panic!("{outcome:?}") };
    assert!(cause.ends_with("app.j2: line 3: it names a variable or an output that there is not"), "{cause}");
    assert_eq!(fs::read_to_string(path("web-1.conf")).unwrap(), "before");
    run.outputs.push(wrote("count", "size", "12"));
    let (outcome, _) = run_to_end(&run).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    let text = fs::read_to_string(path("web-1.conf")).unwrap();
    assert_eq!(text, "port=8080\npassword=it's hunter2\nsize=12\n");
    assert_eq!(fs::metadata(path("web-1.conf")).unwrap().permissions().mode() & 0o777, 0o640);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test]
async fn scripts_see_variables_in_their_text_and_their_environment_and_secrets_in_the_latter_alone() {
    let folder = tempfile::tempdir().unwrap();
    let script = |text: &str| {
        let action = Action::Script { run: text.to_owned() };
        StepRun { variables: told(), ..step(folder.path(), action) }
    };
    let (outcome, chunks) = run_to_end(&script("echo {{ port }} $SHOAL_VAR_PORT \"$SHOAL_VAR_PASSWORD\"")).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(text(&chunks, OutputStream::Stdout), "8080 8080 it's hunter2\n");
    let (outcome, _) = run_to_end(&script("echo {{ password }}")).await;
    let Outcome::Failed { cause, exit_code: None } = outcome else { panic!("{outcome:?}") };
    assert!(cause.starts_with("`password` is a secret"), "{cause}");
}
