//! Times and spans as people read them.

pub use crate::model::host::span;
use jiff::Timestamp;

fn told(at: i64, form: &str) -> String {
    // What no calendar has is shown as its end.
    let end = if at < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(at).unwrap_or(end).strftime(form).to_string()
}

/// `2026-11-29 16:22:03 UTC`.
pub fn exact(at: i64) -> String {
    told(at, "%Y-%m-%d %H:%M:%S UTC")
}

/// `2026-11-29T16:22:03Z`.
pub fn iso(at: i64) -> String {
    told(at, "%Y-%m-%dT%H:%M:%SZ")
}

/// `3 min ago`, `in 5 min`, `now`.
pub fn ago(at: i64, now: i64) -> String {
    match now.saturating_sub(at) {
        -1..=1 => "now".to_string(),
        gone if gone > 0 => format!("{} ago", span(gone)),
        ahead => format!("in {}", span(ahead.saturating_neg())),
    }
}

/// `3 min ago (2026-11-29 16:22:03 UTC)`.
pub fn both(at: i64, now: i64) -> String {
    format!("{} ({})", ago(at, now), exact(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told() {
        assert_eq!(exact(1_704_067_199), "2023-12-31 23:59:59 UTC");
        assert_eq!(iso(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(iso(0), "1970-01-01T00:00:00Z");
        assert_eq!((exact(i64::MAX).get(..4), exact(i64::MIN).get(..5)), (Some("9999"), Some("-9999")));
        assert_eq!(ago(100, 280), "3 min ago");
        assert_eq!(ago(280, 100), "in 3 min");
        assert_eq!(both(1_704_067_199, 1_704_067_379), "3 min ago (2023-12-31 23:59:59 UTC)");
        assert_eq!(
            (ago(5, 5), span(90), span(7_200), span(259_200)),
            ("now".into(), "90 s".into(), "2 h".into(), "3 days".into())
        );
    }
}
