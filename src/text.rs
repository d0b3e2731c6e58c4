//! Words for numbers of things.

/// So many of a thing: `1 agent`, `2 agents`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        for (number, want) in [(0, "0 early ends"), (1, "1 early end"), (2, "2 early ends")] {
            assert_eq!(count(number, "early end"), want);
        }
    }
}
