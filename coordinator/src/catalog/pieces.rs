//! Compressed pieces of recipes, kept in memory up to a number of bytes: every site wants the same ones at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::id::RecipeId;
use shoal_proto::limits::RECIPE_CACHE_BYTES_MAX;

/// Compressed pieces, the oldest going first.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    by_age: BTreeMap<u64, (PieceKey, Arc<[u8]>)>,
    numbers: BTreeMap<PieceKey, u64>,
    next: u64,
    pub(super) bytes: usize,
}

/// Of which recipe, which piece, against which dictionary.
pub(super) type PieceKey = (RecipeId, u32, Option<RecipeId>);

impl Pieces {
    pub(super) fn find(&self, key: &PieceKey) -> Option<Arc<[u8]>> {
        let number = self.numbers.get(key)?;
        self.by_age.get(number).map(|(_, bytes)| Arc::clone(bytes))
    }

    pub(super) fn insert(&mut self, key: PieceKey, bytes: Arc<[u8]>) {
        if self.numbers.contains_key(&key) {
            return;
        }
        self.bytes += bytes.len();
        self.numbers.insert(key, self.next);
        self.by_age.insert(self.next, (key, bytes));
        self.next += 1;
        while self.bytes > RECIPE_CACHE_BYTES_MAX
            && let Some((_, (key, bytes))) = self.by_age.pop_first()
        {
            self.bytes -= bytes.len();
            self.numbers.remove(&key);
        }
    }
}
