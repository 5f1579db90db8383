//! `shoal demo`: a throw-away mesh on this machine that deploys two versions of a package and proves what crossed each WAN.
//!
//! No path is taken by the demo alone: it writes a `coordinator.toml`, starts the coordinator's server and the nodes'
//! agents as their programs do, and speaks to the coordinator by its API. What stands around them is the demo's: a feed,
//! and for every site a WAN of limited rate (`relay`) behind which everything lies that the site does not have itself.
//! Nothing leaves the loopback addresses, and nothing stays behind.

mod deployment;
mod mesh;
mod origin;
mod package;
mod relay;
mod verdict;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::future;
use std::io;
use std::path::{Path, PathBuf};

use shoal_proto::content::Recipe;
use tempfile::TempDir;

use crate::api::types::DeployRequest;
use crate::cli::args::{DemoArgs, Format};
use crate::cli::exit::{CliError, Exit};
use crate::cli::recipe::cut;
use crate::cli::terminal::Terminal;
use crate::cli::units::{bytes, count, rate};
use crate::cli::watch::watch;
use deployment::Proof;
use mesh::Mesh;

/// The two versions.
const VERSIONS: [&str; 2] = ["1.0", "1.1"];

/// One version of the package.
struct Release {
    version: &'static str,
    /// Bytes of the package.
    size: u64,
    /// Bytes of it that no node has before it is deployed: what must cross each WAN.
    missing: u64,
    proof: Proof,
}

/// The folders of a demo.
struct Folders {
    root: PathBuf,
    /// What the feed serves.
    feed: PathBuf,
    /// Where the nodes install.
    machines: PathBuf,
}

/// Runs the demo until its end, or until `interrupted`; either way nothing of it goes on.
///
/// # Errors
/// If something cannot be started or made, if a site read more than it had to, or when it was interrupted.
pub async fn run(
    args: &DemoArgs,
    terminal: &mut Terminal,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, CliError> {
    let place = tempfile::Builder::new().prefix("shoal-demo-").tempdir().map_err(failed("make a temporary folder"))?;
    let mut mesh = None;
    let ended = tokio::select! {
        biased;
        () = interrupted => Err(CliError::new(Exit::Detached, "stopped: nothing of the demo goes on")),
        ended = deploy_all(args, terminal, place.path(), &mut mesh) => ended,
    };
    if let Some(mesh) = mesh {
        mesh.stop().await;
    }
    leave(place, args.keep, terminal);
    ended
}

/// Removes the demo's folder, or says where it stays.
fn leave(place: TempDir, keep: bool, terminal: &mut Terminal) {
    let path = place.path().to_owned();
    if keep {
        let kept = place.keep();
        terminal.note(&format!("everything is kept in {}", kept.display()));
    } else if let Err(error) = place.close() {
        terminal.note(&format!("cannot remove {}: {error}", path.display()));
    }
}

async fn deploy_all(
    args: &DemoArgs,
    terminal: &mut Terminal,
    place: &Path,
    running: &mut Option<Mesh>,
) -> Result<Exit, CliError> {
    let folders = Folders::make(place)?;
    terminal.note("making two versions of a package, the second with a tenth of it changed");
    let releases = make_releases(args.package.clone(), &folders).await?;
    let sites = count(u32::from(args.sites), "site");
    let nodes = count(u32::from(args.nodes), "node");
    terminal.note(&format!("starting {sites} of {nodes}, each site behind a WAN of {}", rate(args.wan)));
    let mesh = running.insert(Mesh::start(args, &folders).await?);
    mesh.online().await?;
    for release in &releases {
        let exit = deploy(release, mesh, &folders, terminal).await?;
        if exit != Exit::Done {
            return Ok(exit);
        }
    }
    Ok(Exit::Done)
}

/// Deploys one version, shows it, and compares what the relays counted with what had to cross.
async fn deploy(
    release: &Release,
    mesh: &mut Mesh,
    folders: &Folders,
    terminal: &mut Terminal,
) -> Result<Exit, CliError> {
    let text = deployment::text(release.version, &release.proof, &folders.machines, mesh.health());
    let file = format!("demo-{}.yaml", release.version);
    match terminal.format {
        Format::Table if release.version == VERSIONS[0] => {
            terminal.text(&format!("# {file}, as `shoal deploy -f {file}` would send it\n{text}\n"))?;
        }
        Format::Table => terminal.note(&format!("\n{file} differs in nothing but its version")),
        Format::Json | Format::Jsonl => {}
    }
    let before = mesh.crossed();
    let request = DeployRequest { file, text, ..DeployRequest::default() };
    let deployment = mesh.client().deploy(&request).await?;
    let (version, size, missing) = (release.version, bytes(release.size), bytes(release.missing));
    terminal.note(&format!("deploying version {version}: {size}, of which {missing} are new to each site"));
    let client = mesh.client().clone();
    let exit = tokio::select! {
        exit = watch(&client, terminal, deployment.id, None, future::pending()) => exit?,
        error = mesh.broken() => return Err(error),
    };
    let counted = verdict::since(&before, &mesh.crossed());
    let text = verdict::render(&counted, release.missing);
    match terminal.format {
        Format::Table => terminal.text(&text)?,
        Format::Json | Format::Jsonl => terminal.note(text.trim_end()),
    }
    if exit == Exit::Done {
        verdict::judge(release.version, &counted, release.missing)?;
    }
    Ok(exit)
}

impl Folders {
    fn make(place: &Path) -> Result<Self, CliError> {
        let root = place.canonicalize().map_err(failed("use the temporary folder"))?;
        // They become part of a script and of a deployment file, which shows them.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+ ".contains(c);
        if !root.to_str().is_some_and(|text| text.chars().all(plain)) {
            let message = format!("the temporary folder {} has a name with unusual letters", root.display());
            return Err(CliError::new(Exit::Usage, message).next("set TMPDIR to another folder"));
        }
        let folders = Self { feed: root.join("feed"), machines: root.join("machines"), root };
        for folder in [&folders.feed, &folders.machines] {
            std::fs::create_dir(folder).map_err(failed("make a folder"))?;
        }
        Ok(folders)
    }

    /// Where the feed has a version.
    fn package(&self, version: &str) -> PathBuf {
        self.feed.join(format!("app-{version}.zip"))
    }
}

async fn make_releases(given: Option<PathBuf>, folders: &Folders) -> Result<Vec<Release>, CliError> {
    let paths = VERSIONS.map(|version| (version, folders.package(version)));
    let root = folders.root.clone();
    let make = move || -> Result<Vec<Release>, CliError> {
        let [(_, first), (_, second)] = &paths;
        match &given {
            Some(file) => std::fs::copy(file, first).map(drop).map_err(unusable(file))?,
            None => package::generate(first).map_err(failed("make the package"))?,
        }
        package::next_version(first, second).map_err(failed("make the second version"))?;
        let mut releases = Vec::new();
        let mut last: Option<Recipe> = None;
        for (version, path) in &paths {
            let recipe = cut(path).map_err(failed("cut the package"))?;
            let proof =
                Proof::of(path, &root.join(format!("app-{version}.sha256"))).map_err(failed("hash the package"))?;
            let missing = missing_bytes(&recipe, last.as_ref());
            releases.push(Release { version, size: recipe.size(), missing, proof });
            last = Some(recipe);
        }
        Ok(releases)
    };
    tokio::task::spawn_blocking(make).await.map_err(failed("make the package"))?
}

/// Bytes of segments of `new` that are not in `old`: what must come from outside to who has `old`. Glue is none of them, it
/// comes with the recipe.
fn missing_bytes(new: &Recipe, old: Option<&Recipe>) -> u64 {
    let known: BTreeSet<_> = old.into_iter().flat_map(Recipe::segments).map(|segment| segment.hash).collect();
    let missing = new.segments().iter().filter(|segment| !known.contains(&segment.hash));
    missing.map(|segment| u64::from(segment.len)).sum()
}

/// An error of the demo's own surroundings, which says what could not be done.
fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> CliError {
    move |error| CliError::new(Exit::Unexpected, format!("cannot {what}: {error}"))
}

fn unusable(file: &Path) -> impl Fn(io::Error) -> CliError {
    move |error| CliError::new(Exit::Usage, format!("cannot read the package {}: {error}", file.display()))
}
