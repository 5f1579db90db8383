//! Steps as the agent runs them: real processes, real folders.

mod render;
mod script;
mod unpack;

use std::path::Path;

use super::*;

/// A step named `step` of release `r1` that works in `folder`.
fn step(folder: &Path, action: Action) -> StepRun {
    let name = |text: &str| Name::new(text).unwrap();
    StepRun {
        deployment: DeploymentId(12),
        release: name("r1"),
        rollback_from: None,
        node: name("web-1"),
        site: name("syd"),
        step: name("restart"),
        action,
        timeout: Duration::from_secs(30),
        packages: Vec::new(),
        outputs: Vec::new(),
        variables: Told::default(),
        work_dir: folder.join("work"),
    }
}

/// What one earlier step wrote.
fn wrote(step: &str, key: &str, value: &str) -> (Name, BTreeMap<String, String>) {
    (Name::new(step).unwrap(), [(key.to_owned(), value.to_owned())].into())
}

/// Runs `step` to its end; answers how it ended and all that it wrote.
async fn run_to_end(step: &StepRun) -> (Outcome, Vec<OutputChunk>) {
    let (output, mut chunks) = mpsc::channel(4);
    let running = async {
        let outcome = run(step, &output, &CancellationToken::new()).await;
        drop(output);
        outcome
    };
    let collecting = async {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.push(chunk);
        }
        all
    };
    tokio::join!(running, collecting)
}

fn text(chunks: &[OutputChunk], stream: OutputStream) -> String {
    let bytes: Vec<u8> =
        chunks.iter().filter(|chunk| chunk.stream == stream).flat_map(|chunk| chunk.bytes.to_vec()).collect();
    String::from_utf8(bytes).unwrap()
}
