//! Snapshots whose content is computed: any size, no disk, the same bytes for the same seed.
//!
//! What stands at an index is a pure function of (seed, index). A block is a large shared body from a small pool
//! plus 64 bytes of its own at the end, so distinct blocks really differ, their SHA-256 is finished from the
//! body's stored midstate in two rounds, and serving one copies nothing. Listings are computed as they are asked
//! for; memory does not grow with the size of the snapshot.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::error::{Result, StoreError};
use super::{BLOCK_LEN, ChangedBlock, Sha256, zero};

const TAIL: usize = 64;
const BODY: usize = BLOCK_LEN - TAIL;
/// Bodies of each kind; 8 MiB each kind in all.
const POOL: u64 = 16;
/// Different blocks among which a synthetic snapshot's duplicates are drawn.
pub const N_DUPLICATES: u64 = 64;
/// A chain of changed snapshots longer than this is refused, since every block may have to be looked for in each.
const MAX_GENERATIONS: usize = 64;

/// What a synthetic snapshot looks like. Fractions must add up to 1 (within a thousandth).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSpec {
    /// Size of the volume it would make, in GiB; 1 to 65,536.
    pub volume_size_gib: u64,
    /// The same seed gives the same bytes.
    pub seed: u64,
    /// Share of blocks never written.
    #[serde(default)]
    pub fraction_hole: f64,
    /// Share of blocks written with zeroes.
    #[serde(default)]
    pub fraction_zero: f64,
    /// Share of blocks drawn from [`N_DUPLICATES`] different ones.
    #[serde(default)]
    pub fraction_duplicate: f64,
    /// Share of distinct blocks that shrink to between a half and a quarter.
    #[serde(default)]
    pub fraction_compressible: f64,
    /// Share of distinct blocks that do not shrink.
    #[serde(default)]
    pub fraction_random: f64,
    /// The synthetic snapshot this one follows, and how many of each thousand of its blocks were redrawn.
    #[serde(default)]
    pub changed_from: Option<ChangedFrom>,
}

/// See [`SyntheticSpec::changed_from`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedFrom {
    /// The snapshot followed; it must be synthetic and of the same size.
    pub snapshot_id: String,
    /// Blocks redrawn of each thousand, fractions allowed: 0.1 is one in ten thousand.
    pub per_mille: f64,
}

/// One drawing of blocks: a seed, the borders of the kinds, and which indexes it covers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Generation {
    seed: u64,
    borders: [u64; 4],
    /// Indexes whose draw is below this belong to this generation; the first generation has them all.
    reach: Option<u64>,
}

/// A synthetic snapshot, ready to answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Synthetic {
    n_blocks: u32,
    /// Newest first; the last one covers everything.
    generations: Vec<Generation>,
}

/// What stands at an index; two equal contents are equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Hole,
    Zero,
    Text { key: u64, index: u64 },
    Noise { key: u64, index: u64 },
}

/// A block as the two pieces it is stored in; sent one after the other they are 524,288 bytes.
#[derive(Clone, Debug)]
pub struct BlockParts {
    /// The first piece.
    pub body: Bytes,
    /// The rest; empty when the first piece is all.
    pub tail: Bytes,
    /// SHA-256 of both together.
    pub sha256: Sha256,
}

impl BlockParts {
    /// The block in one piece; copies only when there are two.
    #[must_use]
    pub fn joined(self) -> Bytes {
        if self.tail.is_empty() {
            return self.body;
        }
        let mut whole = BytesMut::with_capacity(self.body.len() + self.tail.len());
        whole.extend_from_slice(&self.body);
        whole.extend_from_slice(&self.tail);
        whole.freeze()
    }
}

impl Synthetic {
    pub(super) fn new(spec: &SyntheticSpec, parent: Option<&Self>) -> Result<Self> {
        let bad = |text: String| StoreError::BadSpec(text);
        if !(1..=65_536).contains(&spec.volume_size_gib) {
            return Err(bad(format!("{} GiB is not between 1 and 65536", spec.volume_size_gib)));
        }
        let n_blocks = u32::try_from(spec.volume_size_gib * 2048).map_err(|e| bad(e.to_string()))?;
        let fractions = [
            spec.fraction_hole,
            spec.fraction_zero,
            spec.fraction_duplicate,
            spec.fraction_compressible,
            spec.fraction_random,
        ];
        let sum: f64 = fractions.iter().sum();
        if fractions.iter().any(|f| !(0.0..=1.0).contains(f)) || (sum - 1.0).abs() > 0.001 {
            return Err(bad(format!("the five fractions add up to {sum}, not to 1")));
        }
        let mut upto = 0.0;
        let mut borders = [0; 4];
        for (border, fraction) in borders.iter_mut().zip(fractions) {
            upto += fraction;
            *border = share(upto);
        }
        let mut generations = vec![Generation { seed: spec.seed, borders, reach: None }];
        if let (Some(changed), Some(parent)) = (&spec.changed_from, parent) {
            if parent.n_blocks != n_blocks {
                return Err(bad(format!(
                    "it has {n_blocks} blocks and the one it follows {}",
                    parent.n_blocks
                )));
            }
            if !(0.0..=1000.0).contains(&changed.per_mille) {
                return Err(bad(format!("{} is not a share of a thousand", changed.per_mille)));
            }
            if parent.generations.len() >= MAX_GENERATIONS {
                return Err(bad(format!("more than {MAX_GENERATIONS} snapshots follow one another")));
            }
            generations.iter_mut().for_each(|g| g.reach = Some(share(changed.per_mille / 1000.0)));
            generations.extend(parent.generations.iter().cloned());
        }
        Ok(Self { n_blocks, generations })
    }

    pub(super) fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn content(&self, index: u32) -> Content {
        let index = u64::from(index);
        let covers = |g: &&Generation| g.reach.is_none_or(|reach| mix(g.seed ^ CHANGE, index) < reach);
        let Some(generation) = self.generations.iter().find(covers) else { return Content::Hole };
        let (seed, [hole, zero, duplicate, text]) = (generation.seed, generation.borders);
        match mix(seed ^ KIND, index) {
            draw if draw < hole => Content::Hole,
            draw if draw < zero => Content::Zero,
            draw if draw < duplicate => {
                let key = mix(seed ^ PICK, index) % N_DUPLICATES;
                if key.is_multiple_of(2) {
                    Content::Text { key, index: 0 }
                } else {
                    Content::Noise { key, index: 0 }
                }
            }
            draw if draw < text => Content::Text { key: seed, index: index + 1 },
            _ => Content::Noise { key: seed, index: index + 1 },
        }
    }

    pub(super) fn has(&self, index: u32) -> bool {
        index < self.n_blocks && self.content(index) != Content::Hole
    }

    pub(super) fn read(&self, index: u32) -> Option<BlockParts> {
        if index >= self.n_blocks {
            return None;
        }
        match self.content(index) {
            Content::Hole => None,
            Content::Zero => {
                Some(BlockParts { body: zero::block(), tail: Bytes::new(), sha256: zero::SHA256 })
            }
            Content::Text { key, index } => TEXT.get(pick(key, index)).map(|body| body.block(key, index)),
            Content::Noise { key, index } => NOISE.get(pick(key, index)).map(|body| body.block(key, index)),
        }
    }

    pub(super) fn indexes_from(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        (from..self.n_blocks).filter(|index| self.has(*index))
    }

    pub(super) fn diff_from<'a>(
        &'a self,
        other: &'a Self,
        from: u32,
    ) -> impl Iterator<Item = ChangedBlock> + 'a {
        (from..self.n_blocks.max(other.n_blocks)).filter_map(move |index| {
            let content = |s: &Self| if index < s.n_blocks { s.content(index) } else { Content::Hole };
            let (a, b) = (content(self), content(other));
            (a != b).then_some(ChangedBlock {
                index,
                in_first: a != Content::Hole,
                in_second: b != Content::Hole,
            })
        })
    }
}

const CHANGE: u64 = 0x6368_616e_6765_6421;
const KIND: u64 = 0x6b69_6e64_6f66_6974;
const PICK: u64 = 0x7069_636b_6f6e_6521;

/// A fraction of the whole range of draws.
fn share(fraction: f64) -> u64 {
    let parts = (fraction * 1e9).round().clamp(0.0, 1e9);
    let parts = format!("{parts:.0}").parse::<u64>().unwrap_or(0);
    let whole = u128::from(u64::MAX) * u128::from(parts) / 1_000_000_000;
    u64::try_from(whole).unwrap_or(u64::MAX)
}

/// A well-spread draw from two numbers (the finaliser of splitmix64, twice).
fn mix(a: u64, b: u64) -> u64 {
    let round = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    round(round(a.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn pick(key: u64, index: u64) -> usize {
    usize::try_from(mix(key, index) % POOL).unwrap_or(0)
}

/// A shared body with its hash state, to which a block's own 64 bytes are added.
struct Body {
    bytes: Bytes,
    midstate: digest::Context,
}

impl Body {
    fn new(bytes: Vec<u8>) -> Self {
        let mut midstate = digest::Context::new(&digest::SHA256);
        midstate.update(&bytes);
        Self { bytes: Bytes::from(bytes), midstate }
    }

    fn block(&self, key: u64, index: u64) -> BlockParts {
        let mut tail = Vec::with_capacity(TAIL);
        for word in 0..8 {
            tail.extend_from_slice(&mix(mix(key, index), word).to_le_bytes());
        }
        let mut hash = self.midstate.clone();
        hash.update(&tail);
        let mut sha256 = [0; 32];
        sha256.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
        BlockParts { body: self.bytes.clone(), tail: Bytes::from(tail), sha256 }
    }
}

fn pool(make: impl Fn(u64) -> Vec<u8>) -> Vec<Body> {
    (0..POOL).map(|number| Body::new(make(number))).collect()
}

static NOISE: LazyLock<Vec<Body>> = LazyLock::new(|| {
    pool(|number| {
        let words = (0..).flat_map(|word| mix(0x006e_6f69_7365_u64 + number, word).to_le_bytes());
        words.take(BODY).collect()
    })
});

/// Lines as of a log: the words come from a list of 2,048, the commoner the earlier.
static TEXT: LazyLock<Vec<Body>> = LazyLock::new(|| {
    let word = |n: u64| {
        let len = 3 + mix(n, 1) % 8;
        (0..len).map(move |at| b'a' + u8::try_from(mix(n, 2 + at) % 26).unwrap_or(0)).chain([b' '])
    };
    pool(|number| {
        let draws = (0..).map(|at| {
            let (a, b) = (mix(0x7465_7874 + number, 2 * at), mix(0x7465_7874 + number, 2 * at + 1));
            (a % 2048).min(b % 2048)
        });
        draws.flat_map(word).take(BODY).collect()
    })
});
