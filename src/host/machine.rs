//! What tells this machine, its boot and its operating system from others.

use std::path::Path;

use crate::model::package::hex;
use crate::sys::file::read_text;
use crate::text;

/// The host's machine-id, machine-id(5); empty where it has none.
pub fn machine_id() -> Box<str> {
    id_file("/etc/machine-id")
}

/// The id of this boot, random(4); empty where the kernel gives none.
pub fn boot_id() -> Box<str> {
    id_file("/proc/sys/kernel/random/boot_id")
}

/// What os-release(5) says of the operating system, such as `debian 12`; empty where there is no such file, or no ID in it.
pub fn os_release() -> Box<str> {
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.iter().find_map(|file| read_text(Path::new(file)).ok()).unwrap_or_default();
    text::os_release(&text).into()
}

fn id_file(path: &str) -> Box<str> {
    let Ok(text) = read_text(Path::new(path)) else { return "".into() };
    let id = text.trim();
    let plain = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { id } else { "" }.into()
}

/// The UUID (RFC 9562, version 4) of these random bytes.
pub fn uuid(mut random: [u8; 16]) -> Box<str> {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let digits = hex(&random);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(&*uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(&*uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(boot_id().len(), 36);
        assert_eq!(&*id_file("/etc/passwd"), "");
        assert_eq!(&*id_file("/does/not/exist"), "");
    }
}
