//! API keys: `ww_<key id>_<secret><checksum>`, all base62.
//!
//! | part | characters | |
//! |---|---|---|
//! | key id | 12 | public: found in lists and events |
//! | secret | 32 | more than 190 bits; only its hash is kept |
//! | checksum | 6 | CRC-32 of everything before it: a typing error is noticed without a look-up |

use std::fmt;

use hmac::{Hmac, Mac as _};
use rand::{CryptoRng, RngExt as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use wasmwiz_events::{digest::Digest, id::KeyId};

/// How every key begins. Secret scanners look for it.
pub const PREFIX: &str = "ww_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const KEY_ID_CHARS: usize = 12;
const SECRET_CHARS: usize = 32;
const CHECKSUM_CHARS: usize = 6;
const TEXT_CHARS: usize = PREFIX.len() + KEY_ID_CHARS + 1 + SECRET_CHARS + CHECKSUM_CHARS;

/// Some bytes that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Keeps `bytes` out of sight.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How secrets are hashed on this platform.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    pepper: Option<Secret>,
}

impl Hasher {
    /// SHA-256; with a pepper, HMAC-SHA-256 under it, so that a stolen log alone verifies no guess.
    pub const fn new(pepper: Option<Secret>) -> Self {
        Self { pepper }
    }

    fn hash(&self, secret: &str) -> Digest {
        let Some(pepper) = &self.pepper else { return Digest::of(secret.as_bytes()) };
        match Hmac::<Sha256>::new_from_slice(&pepper.0) {
            Ok(mac) => Digest::from_bytes(mac.chain_update(secret).finalize().into_bytes().into()),
            // HMAC takes keys of any length.
            Err(_) => Digest::of(secret.as_bytes()),
        }
    }
}

/// The text is not an API key: wrong prefix, length, characters or checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key: one is written ww_, 12 characters, _, and 38 characters, of 0-9, A-Z and a-z")]
pub struct NotAKey;

/// An API key as it was presented. Its form is right; whether it opens anything is not known.
pub struct ApiKey {
    key_id: KeyId,
    secret: Box<str>,
}

impl ApiKey {
    /// Reads a key. The checksum comes first: a mistyped key costs no look-up.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        if text.len() != TEXT_CHARS || !text.is_ascii() {
            return Err(NotAKey);
        }
        let (body, sum) = text.split_at_checked(TEXT_CHARS - CHECKSUM_CHARS).ok_or(NotAKey)?;
        if checksum(body) != sum {
            return Err(NotAKey);
        }
        let (key_id, secret) = body.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(NotAKey)?;
        let base62 = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
        if key_id.len() != KEY_ID_CHARS || secret.len() != SECRET_CHARS || !base62(secret) {
            return Err(NotAKey);
        }
        Ok(Self { key_id: KeyId::new(key_id).map_err(|_| NotAKey)?, secret: secret.into() })
    }

    /// The public part.
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The hash under which the platform knows its secret.
    pub fn hash(&self, hasher: &Hasher) -> Digest {
        hasher.hash(&self.secret)
    }

    /// Its hash, if that is one of `hashes`. Takes the same time wherever they differ, and compares once when there is none.
    pub(crate) fn opens<'a>(&self, hasher: &Hasher, hashes: impl Iterator<Item = &'a Digest>) -> Option<Opener> {
        let offered = self.hash(hasher);
        let decoy = Digest::from_bytes([0; 32]);
        let mut opens = is_same(&decoy, &offered) & Choice::from(0);
        for known in hashes {
            opens |= is_same(known, &offered);
        }
        bool::from(opens).then_some(Opener(offered))
    }
}

/// The hash of the secret that has opened something: a stream must end with it. Shown to nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opener(Digest);

impl Opener {
    /// Would it open still what has `hashes`?
    pub(crate) fn still_opens<'a>(self, mut hashes: impl Iterator<Item = &'a Digest>) -> bool {
        hashes.any(|known| *known == self.0)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(…)")
    }
}

/// Compares in the same time wherever two hashes differ.
fn is_same(known: &Digest, offered: &Digest) -> Choice {
    known.as_bytes().ct_eq(offered.as_bytes())
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, …)", self.key_id)
    }
}

/// A key that was just drawn: the only moment at which its text exists here.
pub struct NewSecret {
    key_id: KeyId,
    text: String,
    hash: Digest,
}

impl NewSecret {
    /// The public part.
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The whole key. Show it once, keep it nowhere.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the platform remembers of it.
    pub const fn hash(&self) -> Digest {
        self.hash
    }

    /// A key that an operator brings along, for instance in a file that several nodes share.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn supplied(text: &str, hasher: &Hasher) -> Result<Self, NotAKey> {
        let key = ApiKey::parse(text)?;
        let hash = key.hash(hasher);
        Ok(Self { key_id: key.key_id, text: text.to_owned(), hash })
    }
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewSecret({}, …)", self.key_id)
    }
}

/// Draws a key.
pub fn draw(rng: &mut impl CryptoRng, hasher: &Hasher) -> NewSecret {
    loop {
        let (id, secret) = (letters(rng, KEY_ID_CHARS), letters(rng, SECRET_CHARS));
        let text = text_of(&id, &secret);
        // What is drawn has the right form, so the first round is the last.
        if let Ok(new) = NewSecret::supplied(&text, hasher) {
            return new;
        }
    }
}

/// Draws another secret for a key.
///
/// # Errors
/// [`NotAKey`] when the id is not one of a key that can be written down.
pub fn draw_again(rng: &mut impl CryptoRng, key_id: &KeyId, hasher: &Hasher) -> Result<NewSecret, NotAKey> {
    NewSecret::supplied(&text_of(key_id.as_str(), &letters(rng, SECRET_CHARS)), hasher)
}

/// Writes a key down: its id and its secret, with the checksum that they have.
pub fn text_of(key_id: &str, secret: &str) -> String {
    let body = [PREFIX, key_id, "_", secret].concat();
    [body.as_str(), &checksum(&body)].concat()
}

fn letters(rng: &mut impl CryptoRng, count: usize) -> String {
    (0..count).map(|_| letter(rng.random_range(0..62))).collect()
}

fn letter(index: u32) -> char {
    ALPHABET.get(index as usize).copied().map_or('0', char::from)
}

fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [0; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = rest % 62;
        rest /= 62;
    }
    digits.into_iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "tests draw keys")]
    fn drawn() -> NewSecret {
        draw(&mut rand::rng(), &Hasher::default())
    }

    #[test]
    fn a_drawn_key_is_read_back() {
        let new = drawn();
        let key = ApiKey::parse(new.text()).unwrap();
        assert_eq!(new.text().len(), 54);
        assert_eq!(key.key_id(), new.key_id());
        assert_eq!(key.hash(&Hasher::default()), new.hash());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests draw keys")]
    fn another_secret_is_of_the_same_key_and_opens_nothing_that_the_old_one_does() {
        let (old, hasher) = (drawn(), Hasher::default());
        let new = draw_again(&mut rand::rng(), old.key_id(), &hasher).unwrap();
        assert_eq!(new.key_id(), old.key_id());
        assert_ne!(new.hash(), old.hash());
        assert!(draw_again(&mut rand::rng(), &KeyId::new("short").unwrap(), &hasher).is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed_before_any_look_up() {
        let text = drawn().text().to_owned();
        for index in 0..text.len() {
            for bit in 0..7 {
                let mut bytes = text.clone().into_bytes();
                bytes[index] ^= 1 << bit;
                let flipped = String::from_utf8(bytes).unwrap();
                assert_eq!(ApiKey::parse(&flipped).unwrap_err(), NotAKey, "{index} {bit}");
            }
        }
    }

    #[test]
    fn other_texts_are_not_keys() {
        let text = drawn().text().to_owned();
        for text in ["", "ww_", &text[1..], &format!("{text}0"), &format!(" {text}"), &"é".repeat(27)] {
            assert!(ApiKey::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_opens_only_what_has_its_hash() {
        let (new, other) = (drawn(), drawn());
        let key = ApiKey::parse(new.text()).unwrap();
        let hasher = Hasher::default();
        let opener = key.opens(&hasher, [new.hash()].iter()).unwrap();
        assert!(opener.still_opens([other.hash(), new.hash()].iter()) && !opener.still_opens([other.hash()].iter()));
        assert_eq!(format!("{opener:?}"), "Opener(…)");
        assert!(key.opens(&hasher, [other.hash(), new.hash()].iter()).is_some());
        assert!(key.opens(&hasher, [other.hash()].iter()).is_none());
        assert!(key.opens(&hasher, [].iter()).is_none());
    }

    #[test]
    fn a_pepper_changes_every_hash() {
        let key = ApiKey::parse(drawn().text()).unwrap();
        let peppered = Hasher::new(Some(Secret::new(*b"pepper")));
        assert_ne!(key.hash(&peppered), key.hash(&Hasher::default()));
        assert_ne!(key.hash(&peppered), key.hash(&Hasher::new(Some(Secret::new(*b"salt")))));
    }

    /// Two hashes, always in the same place: how long it takes to read them depends on whether they share a line of the
    /// cache, and not on what is in them.
    #[repr(align(64))]
    struct Pair(Digest, Digest);

    /// How much longer a comparison takes when the last byte differs than when the first one does: 1 is no longer. The two
    /// are measured in turn, many times, and the fastest tenth is compared: what interrupts makes a round slower, never
    /// faster.
    #[expect(clippy::disallowed_methods, reason = "the test measures time")]
    fn slower_at_the_end(is_same: impl Fn(&Digest, &Digest) -> bool) -> f64 {
        const ROUNDS: usize = 400;
        const EACH: usize = 1_000;
        let known = [0x5a; 32];
        let mut pair = Pair(Digest::from_bytes(known), Digest::from_bytes(known));
        let mut round = |at: usize| {
            let mut bytes = known;
            bytes[at] ^= 1;
            pair.1 = Digest::from_bytes(bytes);
            let begun = std::time::Instant::now();
            for _ in 0..EACH {
                let Pair(known, offered) = std::hint::black_box(&pair);
                std::hint::black_box(is_same(known, offered));
            }
            begun.elapsed().as_nanos()
        };
        let mut rounds: (Vec<_>, Vec<_>) = (0..ROUNDS).map(|_| (round(0), round(31))).unzip();
        rounds.0.sort_unstable();
        rounds.1.sort_unstable();
        rounds.1[ROUNDS / 10] as f64 / rounds.0[ROUNDS / 10] as f64
    }

    #[test]
    fn a_comparison_takes_the_same_time_wherever_hashes_differ() {
        // A machine that is busy may spoil a measurement; it does not spoil them all, and never makes an early end look late.
        const MEASUREMENTS: usize = 5;
        let measured =
            |is_same: fn(&Digest, &Digest) -> bool| (0..MEASUREMENTS).map(|_| slower_at_the_end(is_same)).collect();
        let constant: Vec<f64> = measured(|known, offered| is_same(known, offered).into());
        assert!(constant.iter().any(|slower| (0.9..1.1).contains(slower)), "{constant:?}");
        // The measure notices what it is for, every time.
        let early: Vec<f64> = measured(|known, offered| {
            known.as_bytes().iter().zip(offered.as_bytes()).all(|(one, other)| std::hint::black_box(one) == other)
        });
        assert!(early.iter().all(|slower| *slower > 1.5), "{early:?}");
    }

    #[test]
    fn no_secret_is_shown_by_accident() {
        let new = drawn();
        let secret = &new.text()[16..48];
        let shown = format!("{new:?} {:?} {:?}", ApiKey::parse(new.text()), Secret::new(*b"pepper"));
        assert!(!shown.contains(secret) && !shown.contains("pepper"), "{shown}");
    }
}
