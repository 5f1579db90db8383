//! `shoal recipe`: cuts a package on this machine, for instance where it is built, shows what a recipe holds, and gives it to
//! the coordinator.
//!
//! The recipe is the one that a coordinator would make: it depends on the package's bytes alone.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use shoal_node::disk::replace;
use shoal_proto::content::{Cutter, Layout, Recipe, Shape, ZipScan};
use shoal_proto::limits::RECIPE_BYTES_MAX;

use super::args::{Format, RecipeCommand};
use super::client::Client;
use super::done;
use super::exit::{CliError, Exit};
use super::terminal::Terminal;
use super::units::{bytes, percent};

/// Bytes of a package that are read at a time: few calls, little memory.
const READ_LEN: usize = 1024 * 1024;

/// What a recipe holds; its JSON.
#[derive(Debug, Serialize)]
struct Content {
    schema: &'static str,
    /// The file of the recipe's plain form.
    file: PathBuf,
    recipe: String,
    package: String,
    package_bytes: u64,
    segments: usize,
    segment_bytes: u64,
    repeats: usize,
    repeat_bytes: u64,
    glue_bytes: usize,
    blocks: u32,
    plain_bytes: usize,
    /// The plain form by zstd, without the dictionary that a related recipe is on the wire.
    compressed_bytes: usize,
}

/// Makes or shows a recipe; false for what takes a coordinator.
///
/// # Errors
/// If a file cannot be read or written, or is no recipe.
pub fn offline(terminal: &mut Terminal, command: &RecipeCommand) -> Result<bool, CliError> {
    let content = match command {
        RecipeCommand::Add { .. } => return Ok(false),
        RecipeCommand::Make { file } => {
            let recipe = cut(file).map_err(|error| unusable("cut", file, &error))?;
            let to = PathBuf::from([file.as_os_str(), ".recipe".as_ref()].join(std::ffi::OsStr::new("")));
            let plain = recipe.encode();
            // Whole or not at all, so that a build never publishes half a recipe.
            replace(&to, &plain, None).map_err(|error| unusable("write", &to, &error))?;
            content(to, &recipe, &plain)?
        }
        RecipeCommand::Show { file } => {
            let (recipe, plain) = load(file)?;
            content(file.clone(), &recipe, &plain)?
        }
    };
    match terminal.format {
        Format::Table => terminal.text(&render(&content))?,
        Format::Json | Format::Jsonl => terminal.json(&content)?,
    }
    Ok(true)
}

/// Gives a recipe to the coordinator.
///
/// # Errors
/// If the file is no recipe, and what the coordinator says.
pub async fn add(client: &Client, terminal: &mut Terminal, file: &Path) -> Result<(), CliError> {
    let (_, plain) = load(file)?;
    done(terminal, client.add_recipe(plain).await?)
}

/// The recipe in a file, and its plain form.
fn load(file: &Path) -> Result<(Recipe, Vec<u8>), CliError> {
    let plain = read(file).map_err(|error| unusable("read", file, &error))?;
    let no_recipe = |error| {
        let message = format!("{} is no recipe: {error}", file.display());
        CliError::new(Exit::Usage, message).next("`shoal recipe make PACKAGE` makes one")
    };
    let recipe = Recipe::decode(&plain).map_err(no_recipe)?;
    Ok((recipe, plain))
}

fn unusable(action: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::new(Exit::Usage, format!("cannot {action} {}: {error}", path.display()))
}

/// Reads the package at `path` once, and the end of a zip before that.
pub(crate) fn cut(path: &Path) -> io::Result<Recipe> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut cutter = Cutter::new(shape(&file, size)?).map_err(io::Error::other)?;
    let mut buffer = vec![0; READ_LEN];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            len => cutter.push(&buffer[..len]),
        }
    }
    cutter.finish().map_err(io::Error::other)
}

fn shape(file: &File, size: u64) -> io::Result<Shape> {
    let mut scan = ZipScan::new(size);
    while let Some(range) = scan.wants() {
        let mut piece = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut piece, range.start)?;
        scan.provide(&piece);
    }
    Ok(scan.finish())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    // What is longer than a recipe may be is refused as one.
    File::open(path)?.take(RECIPE_BYTES_MAX as u64 + 1).read_to_end(&mut plain)?;
    Ok(plain)
}

fn content(file: PathBuf, recipe: &Recipe, plain: &[u8]) -> Result<Content, CliError> {
    let segment_bytes = recipe.segments().iter().map(|segment| u64::from(segment.len)).sum();
    let glue_bytes = recipe.glue_bytes();
    Ok(Content {
        schema: "shoal.recipe/v1",
        file,
        recipe: recipe.id().to_string(),
        package: recipe.package().to_string(),
        package_bytes: recipe.size(),
        segments: recipe.segments().len(),
        segment_bytes,
        repeats: recipe.repeats().len(),
        repeat_bytes: recipe.size().saturating_sub(segment_bytes + glue_bytes as u64),
        glue_bytes,
        blocks: Layout::of_recipe(recipe).block_count(),
        plain_bytes: plain.len(),
        compressed_bytes: zstd::bulk::compress(plain, zstd::DEFAULT_COMPRESSION_LEVEL)?.len(),
    })
}

fn render(content: &Content) -> String {
    let share = |part: u64| percent(part as f64 / content.package_bytes.max(1) as f64);
    let glue = content.glue_bytes as u64;
    let compressed = bytes(content.compressed_bytes as u64);
    let rows = [
        ("package", format!("{} {}", content.package, bytes(content.package_bytes))),
        ("recipe", format!("{} {}, {compressed} compressed", content.recipe, bytes(content.plain_bytes as u64))),
        ("segments", format!("{} of {} in {} blocks", content.segments, bytes(content.segment_bytes), content.blocks)),
        ("repeats", format!("{} of {}", content.repeats, bytes(content.repeat_bytes))),
        ("glue", format!("{}, {} of the package", bytes(glue), share(glue))),
    ];
    let lines: Vec<_> = rows.iter().map(|(name, value)| format!("  {name:<8}  {value}\n")).collect();
    format!("{}\n{}", content.file.display(), lines.concat())
}
