//! Signatures of requests and replies, ids of keys, digests.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]].map(char::from);
    bytes.iter().flat_map(digits).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| u8::try_from(digit(pair[0])? << 4 | digit(*pair.get(1)?)?).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

/// What `X-BootAgent-Key` says of a key.
pub fn key_id(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes())[..8])
}

/// Whether a request is signed with `secret`; compared in constant time.
pub fn is_signed(secret: &str, path: &str, sn: &str, nonce: &str, body: &[u8], signature: &str) -> bool {
    let Some(signature) = unhex(signature) else { return false };
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
    let head = format!("POST\n{path}\n{sn}\n{nonce}\n");
    mac.chain_update(head).chain_update(body).verify_slice(&signature).is_ok()
}

/// The signature of a text of ours.
pub fn text(secret: &str, text: &str) -> String {
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    hex(&mac.chain_update(text).finalize().into_bytes())
}

/// The signature of a reply.
pub fn reply(secret: &str, status: u16, nonce: &str, body: &str) -> String {
    text(secret, &format!("{status}\n{nonce}\n{body}"))
}

/// Whether a nonce has its form: 32 hex digits.
pub fn is_nonce(nonce: &str) -> bool {
    nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A random id of 128 bits in 26 letters and digits that are told apart easily.
pub fn letters(random: [u8; 16]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut number = u128::from_be_bytes(random);
    let mut text = String::with_capacity(26);
    for _ in 0..26 {
        text.push(char::from(ALPHABET[(number & 31) as usize]));
        number >>= 5;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_no_signature() {
        let mac = Hmac::<Sha256>::new_from_slice(b"0123456789abcdef").expect("a key");
        let signature = hex(&mac.chain_update("POST\n/agent/status\ns\nn\n{}").finalize().into_bytes());
        let check = |body: &[u8]| is_signed("0123456789abcdef", "/agent/status", "s", "n", body, &signature);
        assert!(check(b"{}"));
        assert!(!check(b"{ }"));
        assert!(!is_signed("0123456789abcdef", "/agent/status", "s", "n", b"{}", "zz"));
        assert!(!is_signed("0123456789abcdef", "/agent/status", "s", "n", b"{}", ""));
    }

    #[test]
    fn ids_are_26_letters() {
        assert_eq!(letters([0; 16]).len(), 26);
        assert_ne!(letters([1; 16]), letters([2; 16]));
    }
}
