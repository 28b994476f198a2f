//! NATS nkeys: Ed25519 keys in base 32, with what they are for and a checksum.

/// Base 32 of RFC 4648, without padding.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What an nkey begins with, in five bits each: `S` for a seed, `U` for a user.
const SEED: u8 = 18 << 3;
const USER: u8 = 20 << 3;

/// The seed of a user: `SU…`.
pub(super) fn seed_of_user(private: &[u8; 32]) -> String {
    // The seed's own five bits, then those of what it is the seed of.
    let mut bytes = vec![SEED | (USER >> 5), (USER & 31) << 3];
    bytes.extend_from_slice(private);
    encoded(bytes)
}

/// The public key of a user: `U…`.
pub(super) fn user(public: &[u8; 32]) -> String {
    let mut bytes = vec![USER];
    bytes.extend_from_slice(public);
    encoded(bytes)
}

fn encoded(mut bytes: Vec<u8>) -> String {
    bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
    base_32(&bytes)
}

/// CRC-16/XMODEM: polynomial 0x1021, begun at 0.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(
            sum ^ (u16::from(*byte) << 8),
            |sum, _| if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0x1021 },
        )
    })
}

fn base_32(bytes: &[u8]) -> String {
    let (mut text, mut held, mut bits) = (String::new(), 0_u32, 0_u32);
    let letter = |five: u32| LETTERS.get((five & 31) as usize).map_or('A', |letter| char::from(*letter));
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(letter(held >> bits));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(letter(held << (5 - bits)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_32_and_the_checksum_are_those_of_their_standards() {
        let vectors = [("f", "MY"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("fooba", "MZXW6YTB")];
        for (text, expected) in vectors {
            assert_eq!(base_32(text.as_bytes()), expected);
        }
        assert_eq!(checksum(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_key_says_what_it_is_for() {
        let (seed, user) = (seed_of_user(&[7; 32]), user(&[7; 32]));
        assert!(seed.starts_with("SU") && seed.len() == 58, "{seed}");
        assert!(user.starts_with('U') && user.len() == 56, "{user}");
    }
}
