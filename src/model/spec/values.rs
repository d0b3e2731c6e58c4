//! The rules for single values: names, ids and versions, sizes, shares and capabilities.
//!
//! Texts come in from the parsers in `wire`, which know the file and the key; the functions here say whether a value is valid,
//! and what it means.

/// Whether `text` has 1 to `most` bytes, each a letter or digit of ASCII or one of `marks`.
pub fn is_word(text: &str, most: usize, marks: &[u8]) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || marks.contains(&b))
}

/// Whether `text` is a valid `Name`.
pub fn is_name(text: &str) -> bool {
    is_word(text, 50, b"_-")
}

/// Whether `text` is a host name that servers take.
pub fn is_host_name(text: &str) -> bool {
    is_word(text, 253, b"._-")
}

/// Whether `text` is a valid id of a job: `[A-Za-z0-9_-][A-Za-z0-9._-]{0,126}`, so that it is safe as a file name.
pub fn is_job_id(text: &str) -> bool {
    is_word(text, 127, b"._-") && !text.starts_with('.')
}

/// Whether `text` is the name of a file in a directory, and no path that leads out of it.
pub fn is_file_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '\0'])
}

/// Whether `text` is a valid version: 1..=100 of `[A-Za-z0-9._+~:-]`, not beginning with a dot, so that it is safe as a
/// directory name.
pub fn is_version(text: &str) -> bool {
    is_word(text, 100, b"._+~:-") && !text.starts_with('.')
}

/// The names of the capabilities without `CAP_`, capabilities(7), in the order of their numbers.
const CAPABILITIES: &str =
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace \
    sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control \
    setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore";

/// The bit of a capability such as `CAP_NET_BIND_SERVICE` or `net_bind_service`; `None` if there is no such capability.
pub fn parse_capability(text: &str) -> Option<u64> {
    let name = text.to_ascii_lowercase();
    let name = name.strip_prefix("cap_").unwrap_or(&name);
    let number = CAPABILITIES.split(' ').position(|known| known == name)?;
    Some(1 << number)
}

/// A size such as `4096`, `20M` or `1.5G` in bytes; K, M, G and T are powers of 1024, and may be followed by `B` or `iB`.
/// `None` if it is not one, or too large.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KB" | "KiB" | "k" => 10,
        "M" | "MB" | "MiB" | "m" => 20,
        "G" | "GB" | "GiB" | "g" => 30,
        "T" | "TB" | "TiB" | "t" => 40,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    if digits.ends_with('.') || fraction.len() > 9 {
        return None;
    }
    let unit = 1u64 << shift;
    // From the last digit on, each is divided by ten once more than the one before it.
    let part = fraction.bytes().rev().fold(0, |rest, digit| (u64::from(digit - b'0') * unit + rest) / 10);
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part)
}

/// A share such as `10%`, `0.5%` or `250%` in hundredths of a percent: at least 1, at most 1024 cores. `None` if it is not
/// one.
pub fn parse_percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 2 || number.ends_with('.') {
        return None;
    }
    let hundredths: u32 = format!("{fraction:0<2}").parse().ok()?;
    let share = whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)?;
    (1..=10_240_000).contains(&share).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_and_versions_are_checked() {
        for (text, want) in [
            ("BasicAgent", true),
            ("a-b_9", true),
            ("", false),
            ("a.b", false),
            ("a/b", false),
            ("ä", false),
            (&"x".repeat(50), true),
            (&"x".repeat(51), false),
        ] {
            assert_eq!(is_name(text), want, "{text}");
        }
        for (text, want) in [("a", true), (".a", false), ("a.b", true), ("..", false), ("a/b", false), ("", false)] {
            assert_eq!(is_job_id(text), want, "{text}");
        }
        assert!(is_job_id(&"x".repeat(127)) && !is_job_id(&"x".repeat(128)));
        assert!(is_version("1:2.3~rc1+b2") && !is_version("../1") && !is_version(""));
    }

    #[test]
    fn sizes_are_read() {
        for (text, want) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("20M", Some(20 << 20)),
            ("1.5K", Some(1536)),
            ("1GiB", Some(1 << 30)),
            ("2TB", Some(2 << 40)),
            ("20X", None),
            ("-1", None),
            ("M", None),
            ("1.M", None),
            ("1 M", None),
            ("99999999999T", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }

    #[test]
    fn capabilities_are_read() {
        for (text, want) in [
            ("CAP_CHOWN", Some(0)),
            ("cap_net_bind_service", Some(10)),
            ("NET_BIND_SERVICE", Some(10)),
            ("CAP_SYS_ADMIN", Some(21)),
            ("CAP_SYSLOG", Some(34)),
            ("CAP_CHECKPOINT_RESTORE", Some(40)),
            ("CAP_CAP_CHOWN", None),
            ("CAP_", None),
            ("", None),
            ("chown dac_override", None),
            ("10", None),
        ] {
            assert_eq!(parse_capability(text), want.map(|number: u32| 1 << number), "{text}");
        }
    }

    #[test]
    fn shares_are_read() {
        for (text, want) in [
            ("10%", Some(1000)),
            ("0.5%", Some(50)),
            ("250%", Some(25_000)),
            ("0.01%", Some(1)),
            ("0%", None),
            ("10", None),
            ("%", None),
            ("-1%", None),
            ("1.%", None),
            ("200000%", None),
        ] {
            assert_eq!(parse_percent(text), want, "{text}");
        }
    }
}
