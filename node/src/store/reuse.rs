//! Where a segment's bytes may already be on this disk: an index over the sealed packages, derived from their recipes.
//!
//! It costs 16 bytes a segment (1 million segments: 16 MB) and knows only eight bytes of each hash, so an entry is a
//! hint: whoever reads the bytes verifies them with the whole hash (VERIFIED), and may find that they are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use shoal_proto::content::Segment;
use shoal_proto::id::{PackageId, SegmentHash};
use tracing::warn;

use super::state::Inner;
use super::{Content, Kind, StoreError, WriteError};

/// Sealed packages that are tried for one segment before it counts as missing.
const DONORS_MAX: usize = 4;

/// Files of sealed packages that are open at once while a new one is filled from them.
const DONOR_FILES_MAX: usize = 64;

/// Bits of an entry's place that say where in the package; segments further in than 1 TiB are not indexed.
const OFFSET_BITS: u32 = 40;

/// Packages that can be in the index at once; further ones are held, but not reused from.
const PACKAGES_MAX: usize = 1 << (64 - OFFSET_BITS);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// The first eight bytes of the hash.
    key: u64,
    /// The package's slot, then the offset.
    place: u64,
}

/// Hints where segments are.
#[derive(Debug, Default)]
pub(super) struct SegmentIndex {
    entries: Vec<Entry>,
    /// Whether `entries` is in order. Sorting waits for the first question, so that a start sorts once.
    sorted: bool,
    packages: Vec<Option<PackageId>>,
}

impl SegmentIndex {
    /// Adds a package's segments, unless the package is known already.
    pub(super) fn add(&mut self, package: PackageId, segments: &[Segment]) {
        if self.packages.contains(&Some(package)) {
            return;
        }
        let free = self.packages.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.packages.len());
        if slot >= PACKAGES_MAX {
            return;
        }
        if slot == self.packages.len() {
            self.packages.push(None);
        }
        self.packages[slot] = Some(package);
        let near = segments.iter().filter(|segment| segment.offset < 1 << OFFSET_BITS);
        let place = |offset| (slot as u64) << OFFSET_BITS | offset;
        self.entries.extend(near.map(|segment| Entry { key: key(segment.hash), place: place(segment.offset) }));
        self.sorted = false;
    }

    /// Forgets a package.
    pub(super) fn remove(&mut self, package: PackageId) {
        let Some(slot) = self.packages.iter().position(|held| *held == Some(package)) else { return };
        self.packages[slot] = None;
        self.entries.retain(|entry| entry.place >> OFFSET_BITS != slot as u64);
        self.entries.shrink_to(self.entries.len() * 2);
    }

    /// Where the segment may be: packages, each with an offset in bytes.
    pub(super) fn places(&mut self, hash: SegmentHash) -> impl Iterator<Item = (PackageId, u64)> {
        if !self.sorted {
            self.entries.sort_unstable();
            self.sorted = true;
        }
        let key = key(hash);
        let start = self.entries.partition_point(|entry| entry.key < key);
        let same = self.entries[start..].iter().take_while(move |entry| entry.key == key);
        same.filter_map(|entry| {
            let package = self.packages.get((entry.place >> OFFSET_BITS) as usize).copied().flatten()?;
            Some((package, entry.place & ((1 << OFFSET_BITS) - 1)))
        })
    }
}

impl Inner {
    /// Copies missing segments from sealed packages. Each is hashed between reading and writing, so that a damaged donor
    /// is noticed (VERIFIED); that reads it once, where `copy_file_range` after a check would read it twice.
    ///
    /// Returns the bytes copied, and the packages in which a segment was not what it should be.
    pub(super) fn fill(&self, content: &Content) -> Result<(u64, Vec<PackageId>), StoreError> {
        let mut donors = BTreeMap::new();
        let mut suspects = BTreeSet::new();
        let mut buffer = Vec::new();
        let mut reused_bytes = 0;
        for (segment, place) in content.missing() {
            let places: Vec<_> = self.state().segments.places(place.hash).take(DONORS_MAX).collect();
            for (package, offset) in places {
                buffer.resize(place.len as usize, 0);
                if !self.read_donor(&mut donors, package, offset, &mut buffer) {
                    suspects.insert(package);
                    continue;
                }
                match content.write_segment(segment, &buffer) {
                    Ok(_) => {
                        reused_bytes += u64::from(place.len);
                        break;
                    }
                    Err(WriteError::Store(e)) => return Err(e),
                    Err(_) => suspects.insert(package),
                };
            }
        }
        for package in &suspects {
            warn!(%package, "a segment of this package is not what its recipe says; not copied");
        }
        Ok((reused_bytes, suspects.into_iter().collect()))
    }

    fn read_donor(
        &self,
        donors: &mut BTreeMap<PackageId, Option<File>>,
        package: PackageId,
        offset: u64,
        buffer: &mut [u8],
    ) -> bool {
        if donors.len() >= DONOR_FILES_MAX {
            donors.clear();
        }
        let open = || File::open(self.folders.sealed(Kind::Package, package.into())).ok();
        let donor = donors.entry(package).or_insert_with(open);
        donor.as_ref().is_some_and(|file| file.read_exact_at(buffer, offset).is_ok())
    }
}

fn key(hash: SegmentHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(n: u8, offset: u64) -> Segment {
        Segment { hash: SegmentHash::of(&[n]), offset, len: 1 }
    }

    fn places(index: &mut SegmentIndex, n: u8) -> Vec<(PackageId, u64)> {
        index.places(SegmentHash::of(&[n])).collect()
    }

    #[test]
    fn finds_every_place_and_forgets_dropped_packages() {
        let (one, two, three) = (PackageId([1; 32]), PackageId([2; 32]), PackageId([3; 32]));
        let mut index = SegmentIndex::default();
        index.add(one, &[segment(1, 0), segment(2, 100)]);
        index.add(two, &[segment(2, 7), segment(3, (1 << 40) - 1), segment(4, 1 << 40)]);
        assert_eq!(places(&mut index, 2), [(one, 100), (two, 7)]);
        assert_eq!(places(&mut index, 3), [(two, (1 << 40) - 1)]);
        assert_eq!(places(&mut index, 4), [], "too far in to be indexed");
        index.remove(one);
        assert_eq!(places(&mut index, 1), []);
        assert_eq!(places(&mut index, 2), [(two, 7)]);
        // A slot that is used again must not bring back the entries of its last owner.
        index.add(three, &[segment(5, 1)]);
        assert_eq!(places(&mut index, 1), []);
        assert_eq!(places(&mut index, 5), [(three, 1)]);
    }

    #[test]
    fn an_entry_costs_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
