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
    let now = now();
    let (days, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    eprintln!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z {text}", second % 60);
}

/// The date of a day since the epoch, in the proleptic Gregorian calendar.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_right() {
        assert_eq!(super::date(0), (1970, 1, 1));
        assert_eq!(super::date(11_016), (2000, 2, 29));
        assert_eq!(super::date(19_723), (2024, 1, 1));
    }
}
