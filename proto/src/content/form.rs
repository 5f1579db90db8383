//! The plain form of a recipe: the bytes that its id is the hash of.
//!
//! One recipe has one plain form, and decoding refuses every other spelling. Four sections: version byte and package
//! id; the parts as numbers; the hashes of the distinct segments; the glue. Like stands beside like, because the plain
//! form travels compressed against the one of the version before, where whole runs of each section recur.
//!
//! A number is unsigned LEB128 in its shortest form. The parts are their count, then one number each: the two low bits
//! say what it is (0 segment, 1 repeat, 2 glue), the others its length; for a repeat how many distinct segments back its
//! segment stands, counted from 1, so that an inserted file does not change the repeats behind it.

use super::recipe::{Part, Recipe, RecipeBuilder, RecipeError};
use crate::id::{PackageId, SegmentHash};
use crate::limits::{PACKAGE_BYTES_MAX, RECIPE_BYTES_MAX, RECIPE_SEGMENTS_MAX, SEGMENT_BYTES_MAX};

/// The version of the form; its first byte.
pub(super) const VERSION: u8 = 1;

const SEGMENT: u64 = 0;
const REPEAT: u64 = 1;
const GLUE: u64 = 2;

pub(super) fn encode(recipe: &Recipe) -> Vec<u8> {
    let parts = recipe.parts().count();
    let hashes = recipe.segments().len() * 32;
    let mut bytes = Vec::with_capacity(64 + 4 * parts + hashes + recipe.glue_bytes());
    bytes.push(VERSION);
    bytes.extend_from_slice(&recipe.package().0);
    put_number(&mut bytes, parts as u64);
    let mut distinct = 0;
    for part in recipe.parts() {
        let number = match part {
            Part::Segment(segment) => {
                distinct += 1;
                u64::from(segment.len) << 2 | SEGMENT
            }
            Part::Repeat(repeat) => (distinct - u64::from(repeat.segment)) << 2 | REPEAT,
            Part::Glue { bytes, .. } => (bytes.len() as u64) << 2 | GLUE,
        };
        put_number(&mut bytes, number);
    }
    for segment in recipe.segments() {
        bytes.extend_from_slice(&segment.hash.0);
    }
    for (_, glue) in recipe.glue() {
        bytes.extend_from_slice(glue);
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Recipe, RecipeError> {
    if bytes.len() > RECIPE_BYTES_MAX {
        return Err(RecipeError::TooLarge { len: bytes.len() });
    }
    let (&[found], rest) = bytes.split_first_chunk().ok_or(RecipeError::Truncated)?;
    if found != VERSION {
        return Err(RecipeError::Version { found });
    }
    let (package, rest) = rest.split_first_chunk().ok_or(RecipeError::Truncated)?;
    let mut rest = rest;
    let mut builder = RecipeBuilder::default();
    let glue_bytes = decode_parts(&mut rest, &mut builder)?;

    let hashes_len = builder.segments().len() * 32;
    let (hashes, glue) = rest.split_at_checked(hashes_len).ok_or(RecipeError::Truncated)?;
    builder.set_hashes(hashes.as_chunks().0.iter());
    check_distinct(&builder)?;
    let extra = glue.len().checked_sub(glue_bytes).ok_or(RecipeError::Truncated)?;
    if extra > 0 {
        return Err(RecipeError::Trailing(extra));
    }
    builder.set_glue(glue);
    Ok(builder.finish(PackageId(*package), Some(bytes)))
}

/// Reads the parts, without hashes and glue; returns how many bytes of glue they speak of.
fn decode_parts(rest: &mut &[u8], builder: &mut RecipeBuilder) -> Result<usize, RecipeError> {
    let bytes_max = rest.len() as u64;
    let (mut glue_bytes, mut after_glue) = (0, false);
    let parts = usize::try_from(take_number(rest)?).map_err(|_| RecipeError::Number)?;
    for part in 0..parts {
        let number = take_number(rest)?;
        let (kind, value) = (number & 3, number >> 2);
        if kind != GLUE && builder.occurrences() == RECIPE_SEGMENTS_MAX {
            return Err(RecipeError::TooManySegments);
        }
        match kind {
            SEGMENT if (builder.segments().len() as u64 + 1) * 32 > bytes_max => return Err(RecipeError::Truncated),
            SEGMENT => {
                let allowed = 1..=SEGMENT_BYTES_MAX as u64;
                let len = u32::try_from(value).ok().filter(|_| allowed.contains(&value));
                builder.segment(SegmentHash([0; 32]), len.ok_or(RecipeError::PartLength { part, len: value })?);
            }
            REPEAT => {
                let back = usize::try_from(value).ok().filter(|back| *back > 0);
                let segment = back.and_then(|back| builder.segments().len().checked_sub(back));
                builder.repeat(segment.ok_or(RecipeError::Repeat { part })? as u32);
            }
            GLUE if after_glue => return Err(RecipeError::SplitGlue { part }),
            GLUE if value == 0 => return Err(RecipeError::PartLength { part, len: 0 }),
            GLUE if value > bytes_max - glue_bytes => return Err(RecipeError::Truncated),
            GLUE => {
                glue_bytes += value;
                builder.glue_place(value);
            }
            _ => return Err(RecipeError::PartKind { part }),
        }
        after_glue = kind == GLUE;
        if builder.position() > PACKAGE_BYTES_MAX {
            return Err(RecipeError::PackageTooLarge);
        }
    }
    Ok(glue_bytes as usize)
}

fn check_distinct(builder: &RecipeBuilder) -> Result<(), RecipeError> {
    let segments = builder.segments();
    let mut order: Vec<u32> = (0..segments.len() as u32).collect();
    order.sort_unstable_by_key(|index| segments[*index as usize].hash);
    let same = order.windows(2).find(|pair| segments[pair[0] as usize].hash == segments[pair[1] as usize].hash);
    same.map_or(Ok(()), |pair| Err(RecipeError::SameHash { segment: pair[0].max(pair[1]) as usize }))
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(rest: &mut &[u8]) -> Result<u64, RecipeError> {
    let mut number = 0;
    // Nine groups of seven bits: more than any length here, and no overflow to look for.
    for group in 0..9 {
        let (&byte, tail) = rest.split_first().ok_or(RecipeError::Truncated)?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return if byte == 0 && group > 0 { Err(RecipeError::Number) } else { Ok(number) };
        }
    }
    Err(RecipeError::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::RecipeId;

    /// A plain form, spelled out.
    fn form(parts: &[u64], hashes: &[u8], glue: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend([9; 32]);
        put_number(&mut bytes, parts.len() as u64);
        parts.iter().for_each(|number| put_number(&mut bytes, *number));
        hashes.iter().for_each(|byte| bytes.extend([*byte; 32]));
        bytes.extend(glue);
        bytes
    }

    #[derive(Clone, Debug)]
    enum Piece {
        Segment(u32),
        Repeat(prop::sample::Index),
        Glue(Vec<u8>),
    }

    fn recipes() -> impl Strategy<Value = Recipe> {
        let piece = prop_oneof![
            (1..=SEGMENT_BYTES_MAX as u32).prop_map(Piece::Segment),
            any::<prop::sample::Index>().prop_map(Piece::Repeat),
            prop::collection::vec(any::<u8>(), 1..300).prop_map(Piece::Glue),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| {
            let mut builder = RecipeBuilder::default();
            for piece in pieces {
                let known = builder.segments().len();
                match piece {
                    Piece::Segment(len) => builder.segment(SegmentHash::of(&known.to_le_bytes()), len),
                    Piece::Repeat(index) if known > 0 => builder.repeat(index.index(known) as u32),
                    Piece::Repeat(_) => {}
                    Piece::Glue(bytes) => builder.glue(&bytes),
                }
            }
            builder.finish(PackageId([3; 32]), None)
        })
    }

    proptest! {
        #[test]
        fn round_trips(recipe in recipes()) {
            let bytes = encode(&recipe);
            prop_assert_eq!(decode(&bytes), Ok(recipe.clone()));
            prop_assert_eq!(recipe.id(), RecipeId(*blake3::hash(&bytes).as_bytes()));
        }

        #[test]
        fn what_decodes_has_no_other_spelling(
            recipe in recipes(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut: prop::sample::Index,
        ) {
            let mut bytes = encode(&recipe);
            for (index, byte) in changes {
                // Mostly in the parts, which stand at the front.
                let at = index.index(bytes.len().min(120));
                bytes[at] = byte;
            }
            if let Ok(decoded) = decode(&bytes) {
                prop_assert_eq!(encode(&decoded), bytes.clone());
            }
            let whole = bytes.len();
            bytes.truncate(cut.index(whole));
            prop_assert!(decode(&bytes).is_err(), "a part of a recipe is none");
        }

        #[test]
        fn any_bytes_decode_or_fail_without_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![VERSION];
            bytes.extend([9; 32]);
            bytes.extend(tail);
            if let Ok(decoded) = decode(&bytes) {
                prop_assert_eq!(encode(&decoded), bytes);
            }
        }
    }

    #[test]
    fn other_spellings_and_sizes_are_refused() {
        let (segment, repeat, glue) =
            (|len: u64| len << 2 | SEGMENT, |back: u64| back << 2 | REPEAT, |len: u64| len << 2 | GLUE);
        let max = SEGMENT_BYTES_MAX as u64;
        let good = form(&[segment(5), glue(2), repeat(1), segment(max)], &[1, 2], b"xy");
        assert_eq!(decode(&good).map(|recipe| recipe.size()), Ok(5 + 2 + 5 + max));
        for (bytes, error) in [
            (form(&[segment(0)], &[1], b""), RecipeError::PartLength { part: 0, len: 0 }),
            (form(&[segment(max + 1)], &[1], b""), RecipeError::PartLength { part: 0, len: max + 1 }),
            (form(&[glue(0)], &[], b""), RecipeError::PartLength { part: 0, len: 0 }),
            (form(&[glue(1), glue(1)], &[], b"xy"), RecipeError::SplitGlue { part: 1 }),
            (form(&[repeat(1), segment(5)], &[1], b""), RecipeError::Repeat { part: 0 }),
            (form(&[segment(5), repeat(0)], &[1], b""), RecipeError::Repeat { part: 1 }),
            (form(&[segment(5), repeat(2)], &[1], b""), RecipeError::Repeat { part: 1 }),
            (form(&[segment(5), 3], &[1], b""), RecipeError::PartKind { part: 1 }),
            (form(&[segment(5), segment(6)], &[1, 1], b""), RecipeError::SameHash { segment: 1 }),
            (form(&[glue(u64::MAX >> 3)], &[], b"xy"), RecipeError::Truncated),
            (form(&[segment(5), segment(6)], &[1], b""), RecipeError::Truncated),
            (form(&[glue(3)], &[], b"xy"), RecipeError::Truncated),
            (form(&[glue(1)], &[], b"xy"), RecipeError::Trailing(1)),
            (form(&[u64::MAX], &[], b""), RecipeError::Number),
        ] {
            assert_eq!(decode(&bytes), Err(error));
        }
        let mut later = good;
        later[0] = 2;
        assert_eq!(decode(&later), Err(RecipeError::Version { found: 2 }));
        let mut long_number = form(&[], &[], b"");
        long_number.splice(33.., [0x80, 0]);
        assert_eq!(decode(&long_number), Err(RecipeError::Number), "0 in two bytes");
        let too_large = vec![VERSION; RECIPE_BYTES_MAX + 1];
        assert_eq!(decode(&too_large), Err(RecipeError::TooLarge { len: RECIPE_BYTES_MAX + 1 }));
    }

    #[test]
    fn a_few_bytes_cannot_claim_a_large_package() {
        // Repeats cost a byte or two each: the number of occurrences and the package's size bound them.
        let mut parts = vec![(SEGMENT_BYTES_MAX as u64) << 2 | SEGMENT];
        parts.resize((PACKAGE_BYTES_MAX / SEGMENT_BYTES_MAX as u64) as usize + 1, 1 << 2 | REPEAT);
        assert_eq!(decode(&form(&parts, &[1], b"")), Err(RecipeError::PackageTooLarge));
        let mut parts = vec![1 << 2 | SEGMENT];
        parts.resize(RECIPE_SEGMENTS_MAX + 1, 1 << 2 | REPEAT);
        assert_eq!(decode(&form(&parts, &[1], b"")), Err(RecipeError::TooManySegments));
    }

    #[test]
    fn a_segment_costs_its_hash_and_its_length() {
        let mut builder = RecipeBuilder::default();
        for index in 0..10_000u32 {
            builder.segment(SegmentHash::of(&index.to_le_bytes()), 65_000);
        }
        let recipe = builder.finish(PackageId([3; 32]), None);
        assert_eq!(encode(&recipe).len(), 1 + 32 + 2 + 10_000 * (32 + 3));
    }
}
