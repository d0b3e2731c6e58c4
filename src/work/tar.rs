//! The headers of a tar archive: ustar (POSIX.1-1988), pax (POSIX.1-2001), and GNU tar's long names and sizes.
//!
//! Blocks come in and a `Header` goes out; no file is touched here. `unpack` decides what a member may be and where it may go.

use crate::work::{Failure, FailureKind, Result};

/// The unit of a tar archive, bytes.
pub const BLOCK: usize = 512;

/// One header block.
pub type Block = [u8; BLOCK];

/// The fields of a header, unchecked.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// The member's kind as tar writes it: `0` file, `1` hard link, `2` symbolic link, `5` directory, and so on.
    pub kind: u8,
    /// Name, with the prefix field before it.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits and set-id bits.
    pub mode: u32,
    /// Bytes that follow.
    pub size: u64,
    /// Modification time, s since the epoch; 0 where it is unusable.
    pub mtime: u64,
}

/// Reads a header block; `Ok(None)` for a block of zeros, which ends the archive.
///
/// # Errors
/// When the checksum is wrong, or the mode or size is no number.
pub fn header(block: &Block) -> Result<Option<Header>, &'static str> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum = number(&block[148..156]).ok_or("a header without a checksum")?;
    if sum != checksum(block) {
        return Err("a header whose checksum is wrong");
    }
    let mut name = text(&block[..100]).to_vec();
    // Only POSIX has a prefix there; old GNU archives keep times in it.
    if &block[257..263] == b"ustar\0" {
        let prefix = text(&block[345..500]);
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    Ok(Some(Header {
        kind: if block[156] == 0 { b'0' } else { block[156] },
        name,
        link: text(&block[157..257]).to_vec(),
        mode: number(&block[100..108]).ok_or("a header with an unreadable mode")? as u32,
        size: number(&block[124..136]).ok_or("a header with an unreadable size")?,
        mtime: number(&block[136..148]).unwrap_or(0),
    }))
}

/// Sets the checksum to the right value.
pub fn set_checksum(block: &mut Block) {
    let sum = format!("{:06o}\0 ", checksum(block));
    block[148..156].copy_from_slice(sum.as_bytes());
}

/// The sum of the block's bytes, its checksum field taken as spaces.
fn checksum(block: &Block) -> u64 {
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let field: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    all - field + 8 * u64::from(b' ')
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, spaces around it, or (GNU, star) in base 256 when the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len().saturating_sub(9));
        if high.iter().any(|byte| *byte != 0) {
            return None;
        }
        return Some(low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    let mut value: u64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))?;
    }
    Some(value)
}

/// The records of a pax header, `LENGTH KEY=VALUE\n` each; `None` when they are not that.
pub fn records(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    // GNU tar and others pad with NULs.
    while bytes.first().is_some_and(|byte| *byte != 0) {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = rest;
    }
    Some(records)
}

/// The fields of a member that came in extra headers before its own.
#[derive(Default)]
pub struct Extra {
    /// Name, where it is too long for the header.
    pub name: Option<Vec<u8>>,
    /// Target of a link.
    pub link: Option<Vec<u8>>,
    /// Bytes that follow.
    pub size: Option<u64>,
    /// The member is sparse: holes are left out of the bytes that follow.
    pub sparse: bool,
}

/// `size` rounded up to whole blocks.
pub fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

/// The bytes before the first NUL, which ends GNU's long names.
pub fn up_to_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

/// Reads names and sizes from a pax header; times, owners and the like are not kept.
///
/// # Errors
/// When it is no pax header.
pub fn pax(bytes: &[u8], extra: &mut Extra) -> Result<()> {
    let wrong = || Failure::new(FailureKind::Final, "no tar archive: a pax header that is none");
    for (key, value) in records(bytes).ok_or_else(wrong)? {
        match key {
            b"path" => extra.name = Some(value.to_vec()),
            b"linkpath" => extra.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                extra.size = Some(size.ok_or_else(wrong)?);
            }
            _ if key.starts_with(b"GNU.sparse.") => extra.sparse = true,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header block with a good checksum.
    fn block(name: &[u8], kind: u8, size: &[u8]) -> Block {
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000644\0");
        block[124..124 + size.len()].copy_from_slice(size);
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        set_checksum(&mut block);
        block
    }

    #[test]
    fn headers() {
        let mut long = block(b"c", b'0', b"00000000017\0");
        long[345..348].copy_from_slice(b"a/b");
        set_checksum(&mut long);
        let read = header(&long).expect("good").expect("not the end");
        assert_eq!((read.name.as_slice(), read.size, read.mode, read.kind), (&b"a/b/c"[..], 15, 0o644, b'0'));
        assert_eq!(header(&[0; BLOCK]), Ok(None));
        long[0] ^= 1;
        assert!(header(&long).is_err());
        let big = block(b"c", 0, &[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(header(&big).expect("good").map(|read| (read.size, read.kind)), Some((2 << 32, b'0')));
        for size in [&b"0000000009\0"[..], b"-1\0", &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[0xff; 12]] {
            assert!(header(&block(b"c", b'0', size)).is_err());
        }
    }

    #[test]
    fn pax_records() {
        assert_eq!(records(b"12 path=a/b\n13 size=1234\n\0\0").map(|found| found.len()), Some(2));
        assert_eq!(records(b"10 path==\n").map(|found| found[0]), Some((&b"path"[..], &b"="[..])));
        assert_eq!(records(b""), Some(Vec::new()));
        for bad in
            [&b"99 path=a\n"[..], b"12 path=a/b ", b"0 path=a\n", b"2 path=a\n", b"x path=a\n", b"9 path:a\n", b"12"]
        {
            assert_eq!(records(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
