//! Page and block tokens: opaque to the client, bound to what they were given for, of limited life.
//!
//! A token is 45 bytes in base64 (60 characters, like AWS's): kind, a digest of the snapshots, an index, when it
//! ends, and three words of a keyed hash over all that. The key is the store's, so tokens outlive a restart. The
//! hash keeps honest clients honest and finds every change; it is not made to withstand an attacker.

use std::hash::{DefaultHasher, Hasher};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const LEN: usize = 45;
const SIGNED: usize = 21;

/// What a token lets its bearer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read one block of one snapshot.
    Block,
    /// Go on with ListSnapshotBlocks at an index.
    SnapshotPage,
    /// Go on with ListChangedBlocks at an index.
    ChangedPage,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Block => 0,
            Self::SnapshotPage => 1,
            Self::ChangedPage => 2,
        }
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not ours, changed, or given for something else.
    Invalid,
    /// Given for this, but too long ago.
    Expired,
}

/// Makes and checks the tokens of one kind for one snapshot or pair.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    secret: [u8; 16],
    kind: Kind,
    digest: u64,
}

impl Tokens {
    pub(super) fn new(secret: [u8; 16], kind: Kind, snapshots: &[&str]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&secret);
        for id in snapshots {
            hasher.write(id.as_bytes());
            hasher.write_u8(0);
        }
        Self { secret, kind, digest: hasher.finish() }
    }

    /// Appends the token for `index`, good until `expires` (seconds since 1970).
    pub(super) fn write(&self, index: u32, expires: u64, out: &mut String) {
        let mut signed = [0; SIGNED];
        let fields = [self.kind.code()]
            .into_iter()
            .chain(self.digest.to_be_bytes())
            .chain(index.to_be_bytes())
            .chain(expires.to_be_bytes());
        signed.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        let mut whole = [0; LEN];
        let fields = signed.into_iter().chain(self.mac(&signed));
        whole.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        STANDARD.encode_string(whole, out);
    }

    pub(super) fn make(&self, index: u32, expires: u64) -> String {
        let mut out = String::with_capacity(60);
        self.write(index, expires, &mut out);
        out
    }

    /// The index that the token is for.
    pub(super) fn check(&self, token: &str, now: u64) -> Result<u32, Refused> {
        let bytes = STANDARD.decode(token).map_err(|_| Refused::Invalid)?;
        let (signed, mac) = bytes.split_first_chunk::<SIGNED>().ok_or(Refused::Invalid)?;
        if *mac != self.mac(signed) {
            return Err(Refused::Invalid);
        }
        let (kind, rest) = signed.split_first().ok_or(Refused::Invalid)?;
        let (digest, rest) = rest.split_first_chunk::<8>().ok_or(Refused::Invalid)?;
        let (index, rest) = rest.split_first_chunk::<4>().ok_or(Refused::Invalid)?;
        let (expires, _) = rest.split_first_chunk::<8>().ok_or(Refused::Invalid)?;
        if *kind != self.kind.code() || u64::from_be_bytes(*digest) != self.digest {
            return Err(Refused::Invalid);
        }
        if u64::from_be_bytes(*expires) <= now {
            return Err(Refused::Expired);
        }
        Ok(u32::from_be_bytes(*index))
    }

    fn mac(&self, signed: &[u8; SIGNED]) -> [u8; LEN - SIGNED] {
        let mut mac = [0; LEN - SIGNED];
        let words = (0..3).flat_map(|word| {
            let mut hasher = DefaultHasher::new();
            hasher.write(&self.secret);
            hasher.write_u8(word);
            hasher.write(signed);
            hasher.finish().to_be_bytes()
        });
        mac.iter_mut().zip(words).for_each(|(to, from)| *to = from);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(kind: Kind, snapshots: &[&str]) -> Tokens {
        Tokens::new([7; 16], kind, snapshots)
    }

    #[test]
    fn token_is_good_for_what_it_was_given_for_only() {
        let block = tokens(Kind::Block, &["snap-1"]);
        let token = block.make(42, 1000);
        assert_eq!(token.len(), 60);
        assert_eq!(block.check(&token, 999), Ok(42));
        assert_eq!(block.check(&token, 1000), Err(Refused::Expired));
        assert_eq!(tokens(Kind::Block, &["snap-2"]).check(&token, 999), Err(Refused::Invalid));
        assert_eq!(tokens(Kind::SnapshotPage, &["snap-1"]).check(&token, 999), Err(Refused::Invalid));
        assert_eq!(Tokens::new([8; 16], Kind::Block, &["snap-1"]).check(&token, 999), Err(Refused::Invalid));
    }

    #[test]
    fn every_changed_character_is_found() {
        let block = tokens(Kind::Block, &["snap-1"]);
        let token = block.make(42, 1000);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(block.check(&changed, 999), Err(Refused::Invalid), "character {at}");
        }
    }
}
