//! Package formats, digests, and the steps that install, remove and undo one.

use std::fmt;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Reads `SHA256:` and 64 hexadecimal digits, in either case.
    pub fn parse(text: &str) -> Option<Digest> {
        let (kind, hex) = text.split_once(':')?;
        if !kind.eq_ignore_ascii_case("sha256") || hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        Some(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SHA256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A package format, told by the ending of the file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.rpm`, for rpm(8).
    Rpm,
    /// `.deb`, for dpkg(1).
    Deb,
    /// `.apk`, for Alpine's apk(8).
    Apk,
    /// `.ipk`, for opkg.
    Ipk,
    /// `.tar`.
    Tar,
    /// `.tar.gz` and `.tgz`.
    TarGz,
    /// `.tar.xz`.
    TarXz,
}

impl Format {
    /// The format of a file of this name; `None` for an ending that is none of ours.
    pub fn of(file: &str) -> Option<Format> {
        const ENDINGS: [(&str, Format); 8] = [
            (".rpm", Format::Rpm),
            (".deb", Format::Deb),
            (".apk", Format::Apk),
            (".ipk", Format::Ipk),
            (".tar", Format::Tar),
            (".tar.gz", Format::TarGz),
            (".tgz", Format::TarGz),
            (".tar.xz", Format::TarXz),
        ];
        ENDINGS
            .iter()
            .find(|(ending, _)| file.len() > ending.len() && file.ends_with(ending))
            .map(|(_, format)| *format)
    }

    /// The ending a file of this format is kept under.
    pub const fn ending(self) -> &'static str {
        match self {
            Format::Rpm => ".rpm",
            Format::Deb => ".deb",
            Format::Apk => ".apk",
            Format::Ipk => ".ipk",
            Format::Tar => ".tar",
            Format::TarGz => ".tar.gz",
            Format::TarXz => ".tar.xz",
        }
    }

    /// Whether it is unpacked by ourselves instead of installed by the host's package manager.
    pub const fn is_tar(self) -> bool {
        matches!(self, Format::Tar | Format::TarGz | Format::TarXz)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_ending() {
        for (file, want) in [
            ("a.rpm", Some(Format::Rpm)),
            ("a-1.2.deb", Some(Format::Deb)),
            ("a.tar.gz", Some(Format::TarGz)),
            ("a.tgz", Some(Format::TarGz)),
            ("a.tar", Some(Format::Tar)),
            (".deb", None),
            ("a.zip", None),
            ("deb", None),
        ] {
            assert_eq!(Format::of(file), want, "{file}");
        }
    }

    #[test]
    fn digests() {
        let hex = "4A34b8d7d3009bb9ef9475fbf33e7bbe4a1e8db003aefc578a241c2f51c2c2f2";
        let digest = Digest::parse(&format!("sha256:{hex}")).map(|digest| digest.to_string());
        assert_eq!(digest, Some(format!("SHA256:{}", hex.to_lowercase())));
        for bad in [hex.to_string(), format!("SHA256:{}", &hex[1..]), format!("SHA256:g{}", &hex[1..]), "MD5:00".into()]
        {
            assert_eq!(Digest::parse(&bad), None, "{bad}");
        }
    }
}
