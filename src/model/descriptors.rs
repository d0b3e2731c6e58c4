//! Whether there are enough descriptors for the start of an agent.

/// How many descriptors must be free for a start: for its output twice, /dev/null, control groups, accounts, and some more.
const SPARE: u64 = 16;

/// Why an agent is not started while so many descriptors are open; `None`: there are enough.
pub fn shortage(open: u64, limit: u64) -> Option<String> {
    (open.saturating_add(SPARE) > limit).then(|| format!("no descriptors to spare: {open} of {limit} are open"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_needs_some_descriptors() {
        for (open, limit, want) in [
            (10, 1024, None),
            (1008, 1024, None),
            (1009, 1024, Some("no descriptors to spare: 1009 of 1024 are open")),
            (10, 0, Some("no descriptors to spare: 10 of 0 are open")),
            (10, u64::MAX, None),
        ] {
            assert_eq!(shortage(open, limit).as_deref(), want);
        }
    }
}
