//! Package formats, digests, and the steps that install, remove and undo one.

use std::fmt::{self, Write};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::error::Error;

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

/// The name under which what is fetched for a job lies until it is verified: nothing in it was chosen by a server, and it is
/// the same in every attempt.
pub fn download_name(sn: &str, id: &str) -> String {
    let hash = Sha256::new().chain_update("download\n").chain_update(sn).chain_update("\n").chain_update(id).finalize();
    let mut name = String::new();
    for byte in &hash[..16] {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
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

/// A command of the host's package management.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Program, looked up in PATH, and arguments.
    pub argv: Vec<Box<str>>,
    /// Killed with all it started when it takes longer.
    pub timeout: Duration,
}

/// The time an installer with its scripts may take.
const INSTALL: Duration = Duration::from_secs(900);

/// The time a question to a package tool may take.
const QUESTION: Duration = Duration::from_secs(60);

/// How long a package manager's lock is waited for.
pub const LOCK_WAIT: Duration = Duration::from_secs(600);

fn tool(argv: &[&str], timeout: Duration) -> Tool {
    Tool { argv: argv.iter().map(|arg| Box::from(*arg)).collect(), timeout }
}

/// Asks a package file for its package's name and version; `None` for a tar, which has neither.
pub fn identify(format: Format, path: &str) -> Option<Tool> {
    // An ipk is a tar (or, from old builders, an ar) of control and data; opkg itself has no query for a file.
    const IPK: &str = "{ tar -xzOf \"$1\" ./control.tar.gz || tar -xzOf \"$1\" control.tar.gz || \
        { t=$(mktemp -d) && cd \"$t\" && ar x \"$1\" control.tar.gz && cat control.tar.gz; rm -rf \"$t\"; }; } 2>/dev/null \
        | { t=$(mktemp) && cat >\"$t\" && { tar -xzOf \"$t\" ./control || tar -xzOf \"$t\" control; } 2>/dev/null; rm -f \"$t\"; }";
    Some(match format {
        Format::Deb => tool(&["dpkg-deb", "-f", path, "Package", "Version"], QUESTION),
        Format::Rpm => {
            let query = "Package: %{NAME}\nVersion: %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n";
            // A text would be taken for a list of packages, which rpm fetches from wherever it says.
            tool(&["rpm", "-qp", "--nomanifest", "--qf", query, path], QUESTION)
        }
        Format::Apk => tool(&["tar", "-xzOf", path, ".PKGINFO"], QUESTION),
        Format::Ipk => tool(&["sh", "-c", IPK, "sh", path], QUESTION),
        Format::Tar | Format::TarGz | Format::TarXz => return None,
    })
}

/// The package's name and version in what `identify`'s tool printed.
///
/// # Errors
/// Says what is missing.
pub fn identity(output: &str) -> Result<(Box<str>, Box<str>), Error> {
    let field = |names: [&str; 2]| {
        output.lines().find_map(|line| {
            let (key, value) = line.split_once([':', '='])?;
            names.contains(&key.trim()).then(|| value.trim()).filter(|value| !value.is_empty())
        })
    };
    let package = field(["Package", "pkgname"]).ok_or("the package file names no package")?;
    let version = field(["Version", "pkgver"]).ok_or("the package file names no version")?;
    let safe = |text: &str| !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if !safe(package) {
        return Err("the package file names an impossible package".into());
    }
    Ok((package.into(), version.into()))
}

/// Asks whether a package is installed: the tool exits with status 0 if it is; `None` for a tar.
pub fn query(format: Format, package: &str) -> Option<Tool> {
    const DEB: &str = "test \"$(dpkg-query -W -f '${db:Status-Status}' \"$1\" 2>/dev/null)\" = installed";
    const IPK: &str = "opkg status \"$1\" | grep -q '^Status:.* installed$'";
    Some(match format {
        Format::Deb => tool(&["sh", "-c", DEB, "sh", package], QUESTION),
        Format::Rpm => tool(&["rpm", "-q", package], QUESTION),
        Format::Apk => tool(&["apk", "info", "-e", package], QUESTION),
        Format::Ipk => tool(&["sh", "-c", IPK, "sh", package], QUESTION),
        Format::Tar | Format::TarGz | Format::TarXz => return None,
    })
}

/// Installs a package file, over another version of it where there is one, newer or older.
/// `interrupted`: an installer was killed before, so that its database may need a repair first. Only the last tool must
/// succeed: a repair may stumble over packages that are none of ours.
pub fn install(format: Format, path: &str, interrupted: bool) -> Vec<Tool> {
    // Where the rpm database does not even know who provides /bin/sh, it does not describe this host, and no dependency
    // could ever be met: such a host uses rpm only to unpack.
    const RPM: &str = "rpm -q --whatprovides /bin/sh >/dev/null 2>&1 || set -- --nodeps \"$@\"; \
        exec rpm -U --nomanifest --oldpackage --replacepkgs \"$@\"";
    let mut tools = Vec::new();
    match format {
        Format::Deb => {
            if interrupted {
                tools.push(tool(&["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"], INSTALL));
            }
            tools.push(tool(&["dpkg", "--force-confdef", "--force-confold", "-i", path], INSTALL));
        }
        Format::Rpm => tools.push(tool(&["sh", "-c", RPM, "rpm", path], INSTALL)),
        Format::Apk => tools.push(tool(&["apk", "add", "--no-network", "--allow-untrusted", path], INSTALL)),
        Format::Ipk => tools.push(tool(&["opkg", "install", "--force-downgrade", "--force-reinstall", path], INSTALL)),
        Format::Tar | Format::TarGz | Format::TarXz => {}
    }
    tools
}

/// Removes an installed package with its configuration; nothing for a tar, whose directory is removed instead.
pub fn remove(format: Format, package: &str) -> Option<Tool> {
    // A package that is not there is a success: an interrupted removal is done again.
    const RPM: &str = "rpm -q \"$1\" >/dev/null 2>&1 || exit 0; exec rpm -e \"$1\"";
    Some(match format {
        // One whose scripts were killed may be in any state.
        Format::Deb => {
            tool(&["dpkg", "--force-confdef", "--force-confold", "--force-remove-reinstreq", "-P", package], INSTALL)
        }
        Format::Rpm => tool(&["sh", "-c", RPM, "rpm", package], INSTALL),
        Format::Apk => tool(&["apk", "del", package], INSTALL),
        Format::Ipk => tool(&["opkg", "remove", package], INSTALL),
        Format::Tar | Format::TarGz | Format::TarXz => return None,
    })
}

/// Whether a tool gave up only because another one holds the package manager's lock.
pub fn is_locked(output: &str) -> bool {
    const SAYINGS: [&str; 6] = [
        "frontend lock was locked by another process",
        "status database area is locked by another process",
        "database is locked",
        "Unable to lock database",
        "Could not lock",
        "can't create transaction lock",
    ];
    SAYINGS.iter().any(|saying| output.contains(saying))
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

    #[test]
    fn what_is_fetched_has_a_name_that_no_server_chooses() {
        let name = download_name("sn", "libevil.so");
        assert!(name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        assert_eq!(download_name("sn", "libevil.so"), name);
        for (sn, id) in [("sn", "libevil.s"), ("s", "libevil.so"), ("sn\n", "libevil.so")] {
            assert_ne!(download_name(sn, id), name);
        }
    }

    #[test]
    fn identities() {
        for (output, want) in [
            ("Package: web\nVersion: 1:2.0-1\n", Ok(("web", "1:2.0-1"))),
            ("warning: NOKEY\nPackage: web\nVersion: 2-1\n", Ok(("web", "2-1"))),
            ("# made by abuild\npkgname = web\npkgver = 1.2-r0\n", Ok(("web", "1.2-r0"))),
            ("Version: 1\n", Err("names no package")),
            ("Package: web\n", Err("names no version")),
            ("Package: --purge\nVersion: 1\n", Err("impossible")),
            ("Package: ../x\nVersion: 1\n", Err("impossible")),
        ] {
            match (identity(output), want) {
                (Ok((package, version)), Ok(want)) => assert_eq!((&*package, &*version), want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
                (got, want) => panic!("{output}: got {got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn a_held_lock_is_told_from_a_broken_package() {
        assert!(is_locked("dpkg: error: dpkg frontend lock was locked by another process with pid 7"));
        assert!(is_locked("error: can't create transaction lock on /var/lib/rpm/.rpm.lock"));
        assert!(!is_locked("dpkg: error processing archive x.deb (--install)"));
    }

    #[test]
    fn a_tar_needs_no_tool() {
        for format in [Format::Tar, Format::TarGz, Format::TarXz] {
            assert_eq!(identify(format, "x"), None);
            assert!(install(format, "x", true).is_empty());
            assert_eq!(remove(format, "x"), None);
        }
        assert_eq!(install(Format::Deb, "x", true).len(), 2);
        assert_eq!(install(Format::Deb, "x", false).len(), 1);
    }
}
