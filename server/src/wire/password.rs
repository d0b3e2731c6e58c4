//! Passwords and tokens as they are kept: argon2id with a salt for what people choose, a plain digest for what is random.

use super::sign::hex;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::Argon2;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The hash of a password as it is kept. It takes some 20 ms and 19 MiB: not for the threads that answer.
pub fn hash(password: &str, salt: [u8; 16]) -> String {
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    // Nothing that was chosen here can be refused; an empty hash verifies no password.
    hash.map(|hash| hash.to_string()).unwrap_or_default()
}

/// Whether a password is the one that was hashed; compared in constant time. As slow as [`hash`].
pub fn is_right(password: &str, kept: &str) -> bool {
    let Ok(kept) = PasswordHash::new(kept) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &kept).is_ok()
}

/// What is kept of a secret that was random: whoever reads the database cannot use it.
pub fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// A second secret that comes from the first, for another purpose.
pub fn derive(secret: &str, purpose: &str) -> String {
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    hex(&mac.chain_update(purpose).finalize().into_bytes()[..16])
}

/// Whether two secrets are the same; compared in constant time. Nothing is the same as nothing.
pub fn same(one: &str, other: &str) -> bool {
    use subtle::ConstantTimeEq;
    !one.is_empty() && bool::from(one.as_bytes().ct_eq(other.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords() {
        let kept = hash("correct horse", [7; 16]);
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(is_right("correct horse", &kept));
        assert!(!is_right("correct horsf", &kept));
        assert!(!is_right("", "") && !is_right("a", "a"));
        assert_ne!(kept, hash("correct horse", [8; 16]));
    }

    #[test]
    fn secrets() {
        assert!(same("a", "a") && !same("a", "b") && !same("", "") && !same("a", ""));
        assert_ne!(derive("a", "csrf"), derive("b", "csrf"));
        assert_ne!(derive("a", "csrf"), derive("a", "other"));
    }
}
