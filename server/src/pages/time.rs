//! Times and spans as people read them.

pub use crate::model::host::span;

/// Year, month and day of a day since the epoch, in the proleptic Gregorian calendar.
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

fn parts(at: i64) -> String {
    let (year, month, day) = date(at.div_euclid(86_400));
    let second = at.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// `2026-11-29 16:22:03 UTC`.
pub fn exact(at: i64) -> String {
    format!("{} UTC", parts(at))
}

/// `2026-11-29T16:22:03Z`.
pub fn iso(at: i64) -> String {
    format!("{}Z", parts(at).replace(' ', "T"))
}

/// `3 min ago`, `in 5 min`, `now`.
pub fn ago(at: i64, now: i64) -> String {
    match now - at {
        -1..=1 => "now".to_string(),
        gone if gone > 0 => format!("{} ago", span(gone)),
        ahead => format!("in {}", span(-ahead)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told() {
        assert_eq!(exact(1_704_067_199), "2023-12-31 23:59:59 UTC");
        assert_eq!(iso(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(ago(100, 280), "3 min ago");
        assert_eq!(ago(280, 100), "in 3 min");
        assert_eq!(
            (ago(5, 5), span(90), span(7_200), span(259_200)),
            ("now".into(), "90 s".into(), "2 h".into(), "3 days".into())
        );
    }
}
