//! The order of versions, as dpkg has it: epoch, upstream version, revision; digits by value, `~` before everything.

use std::cmp::Ordering;

/// Compares two versions as `dpkg --compare-versions` does.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (split(left), split(right));
    left.0.cmp(&right.0).then_with(|| part(left.1, right.1)).then_with(|| part(left.2, right.2))
}

/// Epoch, upstream version and revision.
fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) if epoch.parse::<u64>().is_ok() => (epoch.parse().unwrap_or(0), rest),
        _ => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Runs of other characters and runs of digits in turn.
fn part(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (words, digits) = (leading(left, false), leading(right, false));
        let order = words_order(&left[..words], &right[..digits]);
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[words..], &right[digits..]);
        let (here, there) = (leading(left, true), leading(right, true));
        let order = digits_order(&left[..here], &right[..there]);
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[here..], &right[there..]);
    }
    Ordering::Equal
}

fn leading(text: &str, digits: bool) -> usize {
    text.bytes().position(|byte| byte.is_ascii_digit() != digits).unwrap_or(text.len())
}

fn words_order(left: &str, right: &str) -> Ordering {
    let weight = |byte: Option<u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    };
    let (mut left, mut right) = (left.bytes(), right.bytes());
    loop {
        let (here, there) = (left.next(), right.next());
        match weight(here).cmp(&weight(there)) {
            Ordering::Equal if here.is_none() => return Ordering::Equal,
            Ordering::Equal => (),
            order => return order,
        }
    }
}

fn digits_order(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::compare;
    use std::cmp::Ordering::{Equal, Greater, Less};

    #[test]
    fn orders_as_dpkg_does() {
        for (left, order, right) in [
            ("1.0", Less, "1.1"),
            ("1.9", Less, "1.10"),
            ("1.0~rc1", Less, "1.0"),
            ("1.0", Less, "1.0-1"),
            ("1:0.1", Greater, "9.9"),
            ("1.0", Equal, "1.00"),
            ("1.0a", Greater, "1.0"),
            ("1.0+b", Greater, "1.0a"),
            ("2.0-1", Less, "2.0-1.1"),
        ] {
            assert_eq!(compare(left, right), order, "{left} {right}");
        }
    }
}
