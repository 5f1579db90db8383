//! The catalog against feeds of a small HTTP server and a folder.

use std::io::{Cursor, Write};

use shoal_node::origin::OriginError;
use shoal_proto::content::Layout;
use shoal_proto::limits::RECIPE_CACHE_BYTES_MAX;
use tokio::sync::OnceCell;
use zip::write::SimpleFileOptions;

use super::*;
use crate::feeds::digest::{Algorithm, Digest};
use crate::feeds::tests::{Server, feeds, reference};

/// A zip of `files` files of 3,000 bytes, of which the first few say `release`.
fn package(files: u32, changed: u32, release: u8) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    // A fixed time: without it the same call makes other bytes two seconds later.
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for file in 0..files {
        zip.start_file(format!("lib/file-{file}.bin"), options).unwrap();
        let seed = format!("{file} {}", if file < changed { release } else { 0 });
        let mut bytes = vec![0; 3000];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

struct Lab {
    server: Server,
    folder: tempfile::TempDir,
    feeds: Feeds,
    catalog: Catalog,
    store: OnceCell<Store>,
}

impl Lab {
    async fn new() -> Self {
        let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
        fs::create_dir(folder.path().join("models")).unwrap();
        let text = format!(
            "[[feed]]\nname = 'files'\nkind = 'http'\nurl = '{}'\n[[feed]]\nname = 'models'\nkind = 'folder'\npath = 'models'",
            server.url("/")
        );
        let feeds = feeds(&text, folder.path());
        let catalog = Catalog::open(&folder.path().join("data")).unwrap();
        Self { server, folder, feeds, catalog, store: OnceCell::new() }
    }

    async fn store(&self) -> &Store {
        let open = async || Store::open(&self.folder.path().join("store")).unwrap();
        self.store.get_or_init(open).await
    }

    async fn resolve(&self, feed: &str, id: &str) -> Resolved {
        self.feeds.resolve(&reference(feed, id, None)).await.unwrap()
    }

    async fn entry(&self, resolved: &Resolved) -> Result<CatalogEntry, CatalogError> {
        self.catalog.entry(&self.feeds, resolved, None, None).await
    }

    fn files_in(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join("data/catalog").join(folder)).unwrap().count()
    }
}

#[tokio::test]
async fn a_package_is_read_once_and_its_recipe_is_that_of_its_bytes() {
    let lab = Arc::new(Lab::new().await);
    let bytes = package(200, 0, 0);
    lab.server.put("/web-1.zip", bytes.clone());
    // From a task, as servers do.
    let of_task = Arc::clone(&lab);
    let read = tokio::spawn(async move {
        let resolved = of_task.resolve("files", "web-1.zip").await;
        (of_task.entry(&resolved).await.unwrap(), resolved)
    });
    let (entry, resolved) = read.await.unwrap();
    assert_eq!(entry.package.0, *blake3::hash(&bytes).as_bytes());
    assert_eq!(entry.size, bytes.len() as u64);
    let plain = lab.catalog.recipe_bytes(entry.outline.recipe).unwrap();
    assert_eq!(Outline::of_plain_form(&plain), entry.outline);
    let recipe = lab.catalog.recipe(entry.outline.recipe).unwrap();
    assert_eq!(recipe.segments().len(), 200, "a segment for each file of the zip");
    assert_eq!(Layout::of_recipe(&recipe).content(), entry.package.into());

    let asked = lab.server.asked("/web-1.zip");
    assert_eq!(lab.entry(&resolved).await.unwrap(), entry);
    let reopened = Catalog::open(&lab.folder.path().join("data")).unwrap();
    assert_eq!(reopened.entry(&lab.feeds, &resolved, None, None).await.unwrap(), entry);
    assert_eq!(lab.server.asked("/web-1.zip"), asked, "read again");
    assert_eq!(lab.files_in("incoming"), 0, "the package stays although nobody wants it");
}

#[tokio::test]
async fn bytes_that_are_not_those_that_were_wanted_are_refused() {
    let lab = Lab::new().await;
    lab.server.put("/web.zip", package(3, 0, 0));
    let mut resolved = lab.resolve("files", "web.zip").await;
    let wanted = Some(PackageId([7; 32]));
    for known in [false, true] {
        let error = lab.catalog.entry(&lab.feeds, &resolved, wanted, None).await.unwrap_err().to_string();
        assert!(error.starts_with("files web.zip has the blake3 "), "{error}");
        assert!(error.contains("0707070707"), "{error}");
        assert_eq!(lab.files_in("entries"), usize::from(known));
        lab.entry(&resolved).await.unwrap();
    }
    let of = |algorithm| Digest::of_bytes(algorithm, &package(3, 0, 0));
    for (algorithm, kind) in [(Algorithm::Sha1, "sha1"), (Algorithm::Sha256, "sha256"), (Algorithm::Sha512, "sha512")] {
        resolved.digests = vec![Digest::of_bytes(algorithm, b"another package")];
        let error = lab.entry(&resolved).await.unwrap_err();
        assert!(matches!(&error, CatalogError::WrongHash { kind: named, .. } if *named == kind), "{error}");
        resolved.digests = vec![of(Algorithm::Sha1), of(algorithm)];
        lab.entry(&resolved).await.unwrap();
    }
    assert_eq!(lab.files_in("incoming"), 0);
}

#[tokio::test]
async fn a_package_that_changed_since_it_was_resolved_is_named() {
    let lab = Lab::new().await;
    lab.server.put("/web.zip", package(3, 0, 0));
    let resolved = lab.resolve("files", "web.zip").await;
    lab.server.put("/web.zip", package(3, 3, 1));
    let error = lab.entry(&resolved).await.unwrap_err();
    let CatalogError::Origin { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, OriginError::Changed { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot read files web.zip: the package at http://"), "{error}");
    assert_eq!((lab.files_in("incoming"), lab.files_in("entries"), lab.files_in("recipes")), (0, 0, 0));

    fs::write(lab.folder.path().join("models/m.bin"), "a model").unwrap();
    let resolved = lab.resolve("models", "m.bin").await;
    fs::write(lab.folder.path().join("models/m.bin"), "other").unwrap();
    let error = lab.entry(&resolved).await.unwrap_err().to_string();
    assert!(error.contains("m.bin has changed since it was resolved"), "{error}");
}

#[tokio::test]
async fn what_the_coordinator_is_the_origin_of_is_in_its_store() {
    let lab = Lab::new().await;
    let store = lab.store().await;
    let bytes = package(20, 0, 0);
    lab.server.put("/web.zip", bytes.clone());
    fs::write(lab.folder.path().join("models/m.bin"), &bytes[..20_000]).unwrap();
    for (feed, id, len) in [("files", "web.zip", bytes.len()), ("models", "m.bin", 20_000)] {
        let resolved = lab.resolve(feed, id).await;
        // First for its recipe alone, then to keep.
        let entry = lab.entry(&resolved).await.unwrap();
        assert_eq!(store.holds(entry.package.into()), Held::No);
        for _ in 0..2 {
            assert_eq!(
                lab.catalog.entry(&lab.feeds, &resolved, None, Some(store)).await.unwrap().package,
                entry.package
            );
            assert_eq!(fs::read(store.path_of(entry.package).unwrap()).unwrap(), bytes[..len]);
        }
        assert!(store.recipe(entry.outline.recipe).unwrap().is_some());
    }
    assert!(lab.folder.path().join("models/m.bin").exists(), "a feed's own file stays");
    assert_eq!(lab.files_in("incoming"), 0);
}

#[tokio::test]
async fn pieces_are_small_against_the_version_before() {
    let lab = Lab::new().await;
    let mut entries = Vec::new();
    for (release, id) in [(1, "web-1.zip"), (2, "web-2.zip")] {
        lab.server.put(&format!("/{id}"), package(2000, 100, release));
        entries.push(lab.entry(&lab.resolve("files", id).await).await.unwrap());
    }
    lab.server.put("/api-1.zip", package(5, 5, 9));
    let other = lab.entry(&lab.resolve("files", "api-1.zip").await).await.unwrap();
    let [old, new] = [&entries[0].outline, &entries[1].outline];
    assert_eq!(lab.catalog.related(new.recipe), [old.recipe]);
    assert!(lab.catalog.related(other.outline.recipe).is_empty());

    let plain = lab.catalog.recipe_bytes(new.recipe).unwrap();
    let dictionary = lab.catalog.recipe_bytes(old.recipe).unwrap();
    let piece = &plain[..plain.len().min(SEGMENT_BYTES_MAX)];
    let alone = lab.catalog.compressed_piece(new.recipe, 0, None).unwrap();
    let against = lab.catalog.compressed_piece(new.recipe, 0, Some(old.recipe)).unwrap();
    assert_eq!(decompress(&alone, None, piece.len()).unwrap(), piece);
    assert_eq!(decompress(&against, Some(&dictionary), piece.len()).unwrap(), piece);
    assert!(against.len() * 5 < alone.len(), "{} against {}", against.len(), alone.len());
    let again = lab.catalog.compressed_piece(new.recipe, 0, Some(old.recipe)).unwrap();
    assert!(Arc::ptr_eq(&against, &again), "compressed again");

    let error = lab.catalog.compressed_piece(new.recipe, 99, None).unwrap_err();
    assert!(matches!(error, CatalogError::NoPiece { piece: 99, .. }), "{error}");
}

#[tokio::test]
async fn damaged_files_of_the_catalog_are_made_again() {
    let lab = Lab::new().await;
    lab.server.put("/web.zip", package(3, 0, 0));
    let resolved = lab.resolve("files", "web.zip").await;
    let entry = lab.entry(&resolved).await.unwrap();
    let catalog = lab.folder.path().join("data/catalog");
    fs::write(catalog.join("recipes").join(format!("{}.zst", entry.outline.recipe)), "rubbish").unwrap();
    let error = lab.catalog.recipe(entry.outline.recipe).unwrap_err();
    assert!(matches!(error, CatalogError::NoRecipe { .. }), "{error}");
    for file in fs::read_dir(catalog.join("entries")).unwrap() {
        fs::write(file.unwrap().path(), "rubbish").unwrap();
    }
    fs::write(catalog.join("incoming/7"), "what a killed coordinator left").unwrap();
    fs::write(catalog.join("recipes/.x.zst.shoal"), "what a killed coordinator left").unwrap();
    let reopened = Catalog::open(&lab.folder.path().join("data")).unwrap();
    assert!(reopened.entries().is_empty());
    assert_eq!((lab.files_in("incoming"), lab.files_in("recipes")), (0, 1));
    let again = reopened.entry(&lab.feeds, &resolved, None, None).await.unwrap();
    assert_eq!(again.outline, entry.outline);
    assert!(reopened.recipe(entry.outline.recipe).is_ok());
}

#[test]
fn the_cache_of_pieces_is_bounded_and_drops_the_oldest() {
    let mut pieces = Pieces::default();
    let large: Arc<[u8]> = vec![0; RECIPE_CACHE_BYTES_MAX / 2].into();
    let key = |piece| (RecipeId([1; 32]), piece, None);
    for piece in 0..3 {
        pieces.insert(key(piece), Arc::clone(&large));
        pieces.insert(key(piece), Arc::clone(&large));
    }
    assert_eq!((0..3).map(|piece| pieces.find(&key(piece)).is_some()).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(pieces.bytes, RECIPE_CACHE_BYTES_MAX / 2 * 2);
}

#[tokio::test]
async fn a_package_whose_recipe_was_given_is_not_read() {
    let lab = Lab::new().await;
    let bytes = package(40, 0, 0);
    lab.server.put("/web-1.zip", bytes.clone());
    let recipe = cut(&bytes);
    let given = lab.catalog.give(&recipe.encode()).unwrap();
    assert_eq!((given.package, given.size), (recipe.package(), bytes.len() as u64));
    let resolved = lab.resolve("files", "web-1.zip").await;
    let asked = lab.server.asked("/web-1.zip");
    // Also by a coordinator that was started since.
    let catalog = Catalog::open(&lab.folder.path().join("data")).unwrap();
    let entry = catalog.entry(&lab.feeds, &resolved, Some(recipe.package()), None).await.unwrap();
    assert_eq!(lab.server.asked("/web-1.zip"), asked, "it was read");
    assert_eq!((&entry.outline, entry.package), (&given.outline, given.package));
    assert_eq!((entry.description.as_str(), &entry.lineage), ("files web-1.zip", &resolved.lineage));
    // From then on it is known like one that was read; where the coordinator is to have the bytes, it is read.
    assert_eq!(catalog.entry(&lab.feeds, &resolved, None, None).await.unwrap(), entry);
    assert_eq!(lab.server.asked("/web-1.zip"), asked);
    let kept = catalog.entry(&lab.feeds, &resolved, Some(recipe.package()), Some(lab.store().await)).await.unwrap();
    assert_eq!(kept.outline, entry.outline);
    assert!(lab.server.asked("/web-1.zip") > asked);
    assert_eq!(lab.store().await.holds(entry.package.into()), Held::Sealed);
}

#[tokio::test]
async fn a_recipe_that_was_given_serves_only_who_names_its_package() {
    let lab = Lab::new().await;
    let (first, other) = (package(8, 0, 0), package(9, 0, 0));
    lab.server.put("/web.zip", first.clone());
    lab.server.put("/other.zip", other);
    let recipe = cut(&first);
    lab.catalog.give(&recipe.encode()).unwrap();
    let resolved = lab.resolve("files", "web.zip").await;
    let asked = lab.server.asked("/web.zip");
    lab.entry(&resolved).await.unwrap();
    assert!(lab.server.asked("/web.zip") > asked, "nobody said which bytes it has");
    // Of other bytes than were wanted the feed is not believed.
    let resolved = lab.resolve("files", "other.zip").await;
    let refused = lab.catalog.entry(&lab.feeds, &resolved, Some(recipe.package()), None).await.unwrap_err();
    assert!(matches!(refused, CatalogError::WrongHash { .. }), "{refused}");
    let no_recipe = lab.catalog.give(b"no recipe").unwrap_err();
    assert!(matches!(no_recipe, CatalogError::Recipe(_)), "{no_recipe}");
}

/// The recipe as it is made where a package is built.
fn cut(bytes: &[u8]) -> Recipe {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    fs::write(&path, bytes).unwrap();
    crate::cli::recipe::cut(&path).unwrap()
}
