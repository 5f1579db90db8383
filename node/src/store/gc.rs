//! Making room: which packages go when the cache is over its size.
//!
//! Invariant: what a deployment pins, and what is open, never goes. What goes, goes as a whole: the package's file and its
//! recipe's. The least recently used goes first; partial files and recipes that nothing wants go whatever the size.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::id::{ContentId, DeploymentId, PackageId, RecipeId};
use shoal_proto::limits::PINS_PER_PACKAGE_MAX;
use shoal_proto::node::Pin;
use shoal_proto::time::WallTime;
use tracing::info;

use super::files;
use super::index::Record;
use super::state::{Claimed, Entry, Inner, Key, State};
use super::{Kind, Store, StoreError};

/// A package as the choice sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) package: PackageId,
    /// Bytes of its file and its recipe's.
    pub(super) bytes: u64,
    pub(super) complete: bool,
    /// Pinned, open or being opened.
    pub(super) kept: bool,
    pub(super) last_use: WallTime,
}

/// What making room did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Packages dropped, partial ones included.
    pub packages: usize,
    /// Bytes freed, recipes included.
    pub freed_bytes: u64,
    /// Bytes of packages and recipes that are left, whatever keeps them.
    pub left_bytes: u64,
}

/// The packages to drop, in order, so that at most `bytes_max` are left if that is possible.
pub(super) fn choose(mut candidates: Vec<Candidate>, bytes_max: u64) -> Vec<PackageId> {
    let mut left: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    candidates.retain(|candidate| !candidate.kept);
    // Ties by id, so that a test and a second run choose the same.
    candidates.sort_by_key(|candidate| (candidate.complete, candidate.last_use, candidate.package));
    let dropped = candidates.into_iter().take_while(|candidate| {
        let goes = !candidate.complete || left > bytes_max;
        left -= if goes { candidate.bytes } else { 0 };
        goes
    });
    dropped.map(|candidate| candidate.package).collect()
}

impl Store {
    /// Keeps exactly these packages, held or not yet, whatever the size; replaces what was pinned before. Durable when this
    /// returns. If it fails, what is pinned is unknown, and nothing is dropped until it succeeds.
    ///
    /// # Errors
    /// Those of the index.
    pub fn replace_pins(&self, pins: &BTreeSet<Pin>) -> Result<(), StoreError> {
        let mut state = self.inner.state();
        let state = &mut *state;
        let changed = state.repinned(pins);
        state.pins_lost = true;
        self.inner.index.put_all(&changed)?;
        state.records.extend(changed);
        state.pins_lost = false;
        Ok(())
    }

    /// Drops what is neither pinned nor open: partial files and recipes without a package always, packages until at most
    /// `bytes_max` are left, least recently used first. Nothing as long as it is unknown what is pinned, since the index was
    /// lost: [`Store::replace_pins`] says it again.
    ///
    /// # Errors
    /// Those of the disk; what was dropped before stays dropped.
    pub fn collect(&self, bytes_max: u64) -> Result<Collected, StoreError> {
        let inner = &self.inner;
        let before = inner.state().bytes();
        let mut packages = 0;
        if !inner.state().pins_lost {
            let candidates = inner.state().candidates();
            for package in choose(candidates, bytes_max) {
                packages += usize::from(inner.drop_package(package)?);
            }
            let orphans = inner.state().orphans();
            for recipe in orphans {
                inner.drop_files((Kind::Recipe, recipe))?;
            }
        }
        let left_bytes = inner.state().bytes();
        let collected = Collected { packages, freed_bytes: before.saturating_sub(left_bytes), left_bytes };
        if collected.freed_bytes > 0 {
            info!(packages, freed_bytes = collected.freed_bytes, left_bytes, "made room in the cache");
        }
        Ok(collected)
    }
}

impl State {
    /// The records that `pins` change, as they are to be.
    fn repinned(&mut self, pins: &BTreeSet<Pin>) -> Vec<(PackageId, Record)> {
        let mut wanted: BTreeMap<PackageId, (RecipeId, BTreeSet<DeploymentId>)> = BTreeMap::new();
        // From the newest on: where there are too many the oldest go unnamed, and the package is pinned all the same.
        for Pin { package, recipe, deployment } in pins.iter().rev() {
            let (_, deployments) = wanted.entry(*package).or_insert((*recipe, BTreeSet::new()));
            if deployments.len() < PINS_PER_PACKAGE_MAX {
                deployments.insert(*deployment);
            }
        }
        let last_use = self.now();
        let mut changed = Vec::new();
        for (package, record) in &self.records {
            let (_, pins) = wanted.remove(package).unwrap_or((record.recipe, BTreeSet::new()));
            if record.pins != pins {
                changed.push((*package, Record { pins, ..record.clone() }));
            }
        }
        let fresh = |(package, (recipe, pins))| (package, Record { recipe, sealed_bytes: None, last_use, pins });
        changed.extend(wanted.into_iter().map(fresh));
        changed
    }

    fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let packages = self.entries.iter().filter(|((kind, _), _)| *kind == Kind::Package);
        let candidate = |((_, content), entry): (&Key, &Entry)| {
            let package = PackageId(content.0);
            let record = self.records.get(&package);
            let recipe = record.and_then(|record| self.entries.get(&(Kind::Recipe, record.recipe.into())));
            let pinned = record.is_some_and(|record| !record.pins.is_empty());
            Candidate {
                package,
                bytes: entry.bytes + recipe.map_or(0, |recipe| recipe.bytes),
                complete: entry.sealed,
                kept: pinned || entry.in_use() || recipe.is_some_and(Entry::in_use),
                last_use: record.map(|record| record.last_use).unwrap_or_default(),
            }
        };
        packages.map(candidate).collect()
    }

    /// Recipes that belong to no package that is held or pinned.
    fn orphans(&self) -> Vec<ContentId> {
        let wanted = self.records.iter().filter(|(package, record)| {
            !record.pins.is_empty() || self.entries.contains_key(&(Kind::Package, ContentId::from(**package)))
        });
        let wanted: BTreeSet<_> = wanted.map(|(_, record)| ContentId::from(record.recipe)).collect();
        let recipes = self
            .entries
            .iter()
            .filter(|((kind, recipe), entry)| *kind == Kind::Recipe && !entry.in_use() && !wanted.contains(recipe));
        recipes.map(|((_, recipe), _)| *recipe).collect()
    }
}

impl Inner {
    /// Drops a package's two files, then its record: what a crash leaves is a file without a record, or a record without
    /// a file, and both are put right at start. `false` if it is in use or pinned by this moment.
    fn drop_package(&self, package: PackageId) -> Result<bool, StoreError> {
        let key = (Kind::Package, ContentId::from(package));
        let recipe = match self.state().records.get(&package) {
            Some(record) if !record.pins.is_empty() => return Ok(false),
            record => record.map(|record| record.recipe),
        };
        if !self.drop_files(key)? {
            return Ok(false);
        }
        if let Some(recipe) = recipe {
            self.drop_files((Kind::Recipe, recipe.into()))?;
        }
        // Pinned meanwhile, the record is the promise to fetch it again.
        let mut state = self.state();
        if state.records.get(&package).is_some_and(|record| record.pins.is_empty()) {
            self.index.remove(package)?;
            state.records.remove(&package);
        } else if let Some(record) = state.records.get_mut(&package) {
            record.sealed_bytes = None;
            self.index.put(package, record)?;
        }
        Ok(true)
    }

    /// Deletes a content's files unless it is in use; its entry goes with the claim.
    fn drop_files(&self, key: Key) -> Result<bool, StoreError> {
        let Ok(Claimed::Mine(_claim)) = self.claim(key) else { return Ok(false) };
        if key.0 == Kind::Package {
            self.state().segments.remove(PackageId(key.1.0));
        }
        files::remove(&self.folders.sealed(key.0, key.1))?;
        files::remove(&self.folders.partial(key.0, key.1))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u8, bytes: u64, last_use: u64) -> Candidate {
        Candidate { package: PackageId([n; 32]), bytes, complete: true, kept: false, last_use: WallTime(last_use) }
    }

    fn chosen(candidates: &[Candidate], bytes_max: u64) -> Vec<u8> {
        choose(candidates.to_vec(), bytes_max).iter().map(|package| package.0[0]).collect()
    }

    #[test]
    fn oldest_first_and_no_more_than_needed() {
        let held = [candidate(1, 10, 300), candidate(2, 20, 100), candidate(3, 30, 200)];
        assert_eq!(chosen(&held, 60), [0u8; 0]);
        assert_eq!(chosen(&held, 59), [2]);
        assert_eq!(chosen(&held, 40), [2]);
        assert_eq!(chosen(&held, 39), [2, 3]);
        assert_eq!(chosen(&held, 0), [2, 3, 1]);
    }

    #[test]
    fn kept_packages_stay_and_still_count() {
        let mut held = [candidate(1, 10, 300), candidate(2, 20, 100), candidate(3, 30, 200)];
        held[1].kept = true;
        assert_eq!(chosen(&held, 50), [3]);
        assert_eq!(chosen(&held, 0), [3, 1]);
    }

    #[test]
    fn partial_files_that_nothing_wants_go_first_whatever_the_size() {
        let mut held = [candidate(1, 10, 100), candidate(2, 20, 300)];
        held[1].complete = false;
        assert_eq!(chosen(&held, 1000), [2]);
        assert_eq!(chosen(&held, 9), [2, 1]);
    }
}
