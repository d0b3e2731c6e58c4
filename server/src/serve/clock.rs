//! The one place that reads the clock and randomness.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

/// A random id of 128 bits.
pub fn random_id() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    crate::wire::sign::letters(bytes)
}

/// A secret of 256 bits in hex.
pub fn secret() -> String {
    let mut bytes = [0; 32];
    fill(&mut bytes);
    crate::wire::sign::hex(&bytes)
}

/// A salt for a password.
pub fn salt() -> [u8; 16] {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    bytes
}

fn fill(bytes: &mut [u8]) {
    // Without it no id and no key could be trusted.
    getrandom::fill(bytes).expect("the kernel has randomness");
}

/// A number below `limit` to spread hosts with; not for secrets.
pub fn spread(limit: u64) -> u64 {
    static SEED: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
    let mixed = SEED.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)) % limit.max(1)
}

/// A line for the operator's log, with its time.
pub fn say(text: &str) {
    eprintln!("{} {text}", crate::pages::time::iso(now()));
}
