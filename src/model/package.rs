//! Package formats, digests, and the commands of the host's package managers.
//!
//! A package file or a package's name comes in, a command (`Tool`) comes out; what a tool printed comes in, and what it
//! means comes out. Nothing here runs a tool: `model::state::jobs::tools` does, through actions.

mod copies;
mod failure;
pub mod inventory;

use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::error::Error;
pub use copies::{clear, stop, traits, Traits};
pub use failure::{is_own_failure, may_be_refused};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Reads `SHA256:` and 64 hexadecimal digits, in either case.
    pub fn parse(text: &str) -> Option<Digest> {
        let (kind, hex) = text.trim().split_once(':')?;
        from_hex(hex.trim_start()).filter(|_| kind.eq_ignore_ascii_case("sha256")).map(Digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The file name of a job's download until it is verified. A server can choose no part of it, and it is the same in every
/// attempt.
pub fn download_name(sn: &str, id: &str) -> String {
    let hash = Sha256::new().chain_update("download\n").chain_update(sn).chain_update("\n").chain_update(id).finalize();
    hex(&hash[..16])
}

/// The bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The 32 bytes that 64 hexadecimal digits stand for, in either case.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(bytes)
}

/// A package format, which the ending of the file name decides.
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
    /// `.tar.xz` and `.txz`.
    TarXz,
    /// `.tar.zst`.
    TarZst,
}

/// The endings of file names; a file is stored with the first one of its format.
const ENDINGS: [(&str, Format); 10] = [
    (".rpm", Format::Rpm),
    (".deb", Format::Deb),
    (".apk", Format::Apk),
    (".ipk", Format::Ipk),
    (".tar", Format::Tar),
    (".tar.gz", Format::TarGz),
    (".tgz", Format::TarGz),
    (".tar.xz", Format::TarXz),
    (".txz", Format::TarXz),
    (".tar.zst", Format::TarZst),
];

impl Format {
    /// The format of a file of this name; `None` for an unknown ending.
    pub fn of(file: &str) -> Option<Format> {
        let file = file.to_ascii_lowercase();
        let fits = |ending: &str| file.len() > ending.len() && file.ends_with(ending);
        ENDINGS.iter().find(|(ending, _)| fits(ending)).map(|(_, format)| *format)
    }

    /// The ending that a file of this format is stored with.
    pub fn ending(self) -> &'static str {
        ENDINGS.iter().find(|(_, format)| *format == self).map_or("", |(ending, _)| ending)
    }

    /// Whether BootAgent unpacks it itself, instead of having the host's package manager install it.
    pub const fn is_tar(self) -> bool {
        matches!(self, Format::Tar | Format::TarGz | Format::TarXz | Format::TarZst)
    }
}

/// A command of the host's package management.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program, which is searched in PATH, and its arguments.
    pub argv: Vec<Box<str>>,
    /// If it takes longer, it is killed with all processes that it started.
    pub timeout: Duration,
}

/// The longest time that a package manager may take to install or remove a package, with the package's scripts.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(900);

/// The longest time that a package manager may take for a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a job waits for the package manager's lock.
pub const LOCK_WAIT: Duration = Duration::from_secs(600);

fn tool(argv: &[&str], timeout: Duration) -> Tool {
    Tool { argv: argv.iter().map(|arg| Box::from(*arg)).collect(), timeout }
}

/// The tool that prints the package name and the version of a package file; `None` for a tar, which has neither.
pub fn identify(format: Format, path: &str) -> Option<Tool> {
    // An ipk is a tar (or, from old builders, an ar) of control and data; opkg itself has no query for a file.
    const IPK: &str = "{ tar -xzOf \"$1\" ./control.tar.gz || tar -xzOf \"$1\" control.tar.gz || \
        { t=$(mktemp -d) && cd \"$t\" && ar x \"$1\" control.tar.gz && cat control.tar.gz; rm -rf \"$t\"; }; } 2>/dev/null \
        | { t=$(mktemp) && cat >\"$t\" && { tar -xzOf \"$t\" ./control || tar -xzOf \"$t\" control; } 2>/dev/null; rm -f \"$t\"; }";
    Some(match format {
        Format::Deb => tool(&["dpkg-deb", "-f", path, "Package", "Version"], QUERY_TIMEOUT),
        Format::Rpm => {
            let query = "Package: %{NAME}\nVersion: %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n";
            // Without --nomanifest rpm takes a text file for a list of packages, and downloads them from any place it names.
            tool(&["rpm", "-qp", "--nomanifest", "--qf", query, path], QUERY_TIMEOUT)
        }
        Format::Apk => tool(&["tar", "-xzOf", path, ".PKGINFO"], QUERY_TIMEOUT),
        Format::Ipk => tool(&["sh", "-c", IPK, "sh", path], QUERY_TIMEOUT),
        Format::Tar | Format::TarGz | Format::TarXz | Format::TarZst => return None,
    })
}

/// The package's name and version, from the output of `identify`'s tool.
///
/// # Errors
/// If the name or the version is missing, or the name cannot be one of a package.
pub fn identity(output: &str) -> Result<(Box<str>, Box<str>), Error> {
    let field = |names: [&str; 2]| {
        output.lines().find_map(|line| {
            let (key, value) = line.split_once([':', '='])?;
            names.contains(&key.trim()).then(|| value.trim()).filter(|value| !value.is_empty())
        })
    };
    let package = field(["Package", "pkgname"]).ok_or("the package file names no package")?;
    let version = field(["Version", "pkgver"]).ok_or("the package file names no version")?;
    // The name becomes an argument of the package manager and a part of file names.
    let is_safe = |text: &str| !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if !is_safe(package) {
        return Err("the package file has an invalid package name".into());
    }
    Ok((package.into(), version.into()))
}

/// The tool that prints each version at which a package is installed, a line each, and `hold:NAME` for a deb that is on hold,
/// this one or another whose name is a further argument; `None` for a tar. It fails when the package manager cannot tell.
pub fn query(format: Format, package: &str) -> Option<Tool> {
    // A package whose triggers are pending is whole; one that is not has a word behind its version.
    const DEB: [&str; 2] = [
        "dpkg-query -W -f '${db:Status-Status} ${Version}\n' \"$1\"",
        "sed -nE 's/^(installed|triggers-[a-z]*) //p; s/^(half-[a-z]*|unpacked) (.*)/\\2 \\1/p'; \
        dpkg-query -W -f 'hold:${Package} ${db:Status-Want}\n' \"$@\" 2>/dev/null | sed -n 's/ hold$//p'",
    ];
    const RPM: [&str; 2] =
        ["rpm -q --qf '%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n' \"$1\"", "{ grep -v ' ' || :; }"];
    // With -v it prints the name with the version behind it, and nothing for a package that is not installed.
    const APK: [&str; 2] = ["apk info -e -v \"$1\"", "sed -n \"s/^$1-//p\""];
    const IPK: [&str; 2] = ["opkg status \"$1\"", "awk '/^Version:/ {v = $2} /^Status:.* installed$/ {print v}'"];
    let [ask, pick] = match format {
        Format::Deb => DEB,
        Format::Rpm => RPM,
        Format::Apk => APK,
        Format::Ipk => IPK,
        _ => return None,
    };
    // Where a package is not installed, all but opkg end with 1.
    let failed = "case $r$o in 1*rror:*|1*ERROR:*) r=2;; esac; [ $r -le 1 ] || { printf '%s\\n' \"$o\"; exit $r; }";
    let text = ["o=$(", ask, " 2>&1); r=$?; ", failed, "; printf '%s\\n' \"$o\" | ", pick].concat();
    script(&text, &["query", package], QUERY_TIMEOUT)
}

/// The tool that succeeds if the directory of a tar is there.
pub fn look(dir: &str) -> Tool {
    tool(&["test", "-d", dir], QUERY_TIMEOUT)
}

/// A script of the shell, which people see under the name that is the first of `args`.
fn script(text: &str, args: &[&str], timeout: Duration) -> Option<Tool> {
    let mut argv = vec!["sh", "-c", text];
    argv.extend_from_slice(args);
    Some(tool(&argv, timeout))
}

/// The tools that install a package file, in place of any other version of the package, newer or older. `interrupted`: an
/// installer was killed before, so that its database may need a repair first; `back`: it was there before, and is to come back
/// in any case, with the configuration that was moved aside in so many minutes; `held`: what `query` said before of packages on
/// hold. What has become of the package is for `query` to say: a tool may fail because of packages that have nothing to do with
/// this one.
pub fn install(
    format: Format,
    path: &str,
    package: &str,
    interrupted: bool,
    back: Option<u64>,
    held: &str,
) -> Vec<Tool> {
    const DEB: &str = "exec dpkg --force-confdef --force-confold -i \"$1\"";
    // If no package in the rpm database provides /bin/sh, the database does not describe this host, and no dependency can
    // be met: such a host uses rpm only to unpack packages. A configuration file that rpm moved out of the way comes back,
    // as with dpkg: the package's own lies beside it.
    // Where a script of a package fails when that is replaced, the package stays in the database beside the new one. On the
    // way back, and where the job finds both, nothing but a removal without scripts helps. A new package with another %preun, or
    // none, counts as one in which it is mended: as dpkg then turns to the script of the new package, that of the old is skipped.
    const RPM: &str = "f=$1; n=$2; b=$3; set -- --nomanifest --oldpackage --replacepkgs \"$f\"; s=$(mktemp); \
        rpm -q --whatprovides /bin/sh >/dev/null 2>&1 || set -- --nodeps \"$@\"; \
        put() { rpm -U --define \"_install_script_path $PATH\" \"$@\"; r=$?; }; \
        preun() { rpm -q --nomanifest --qf '%{PREUN}' \"$@\" 2>/dev/null; }; \
        twice() { [ -n \"$(rpm -q --qf '%{ARCH}\n' \"$n\" 2>/dev/null | sort | uniq -d)\" ]; }; \
        clear() { twice && rpm -e --nodeps --noscripts --allmatches \"$n\"; }; \
        clear; o=$(preun \"$n\"); put \"$@\"; if [ -n \"$b\" ]; then ! clear || put \"$@\"; \
        elif twice && [ \"$o\" != \"$(preun -p \"$f\")\" ]; then put --nopreun \"$@\"; fi; \
        [ \"$b\" ] && new=\"-cmin -$b\" || new=\"-cnewer $s\"; \
        rpm -qc \"$n\" 2>/dev/null | while IFS= read -r c; do for e in rpmsave rpmorig; do \
        [ ! -e \"$c.$e\" ] || [ -z \"$(find \"$c.$e\" $new)\" ] || { mv \"$c\" \"$c.rpmnew\"; mv \"$c.$e\" \"$c\"; }; \
        done; done; rm -f \"$s\"; exit $r";
    let mut tools = Vec::new();
    match format {
        Format::Deb => {
            if interrupted {
                tools.push(tool(&["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"], INSTALL_TIMEOUT));
            }
            tools.extend(script(DEB, &["dpkg -i", path, package], INSTALL_TIMEOUT));
            if held.contains("hold:") {
                tools.extend(keep(format, package, held));
            }
        }
        Format::Rpm => {
            let back = back.map(|minutes| minutes.to_string()).unwrap_or_default();
            tools.extend(script(RPM, &["rpm -U", path, package, &back], INSTALL_TIMEOUT));
        }
        Format::Apk => tools.push(tool(&["apk", "add", "--no-network", "--allow-untrusted", path], INSTALL_TIMEOUT)),
        Format::Ipk => {
            tools.push(tool(&["opkg", "install", "--force-downgrade", "--force-reinstall", path], INSTALL_TIMEOUT))
        }
        Format::Tar | Format::TarGz | Format::TarXz | Format::TarZst => {}
    }
    tools
}

/// The tool that says to dpkg that a package is to stay, as an attempt to remove it has said that it is not, and that those which
/// `query` has called `held` are on hold, where they are there: dpkg takes an installation for the end of that.
pub fn keep(format: Format, package: &str, held: &str) -> Option<Tool> {
    const TEXT: &str = "{ echo \"$1 install\"; for p in $2; do n=${p#hold:}; \
        case $p,$(dpkg-query -W -f '${db:Status-Status}' \"$n\" 2>/dev/null) in hold:*,[hitu]*) echo \"$n hold\";; esac; done; } \
        | dpkg --set-selections";
    script(TEXT, &["keep", package, held], QUERY_TIMEOUT).filter(|_| format == Format::Deb)
}

/// The tool that removes an installed package; `None` for a tar, whose directory is removed instead. Configuration that
/// somebody has changed stays, unless it is to `purge`. It succeeds if the package is not installed, as an interrupted
/// removal is done again.
pub fn remove(format: Format, package: &str, purge: bool) -> Option<Tool> {
    // Somebody's configuration file goes back to its place. --allmatches, as a failed script leaves two versions there.
    const RPM: &str = "c=$(rpm -qc \"$1\" 2>/dev/null) || exit 0; rpm -e --define \"_install_script_path $PATH\" --allmatches \"$1\" || exit; \
        printf '%s\n' \"$c\" | while IFS= read -r f; do \
        for e in rpmsave rpmorig; do [ ! -e \"$f.$e\" ] || [ -e \"$f\" ] || mv \"$f.$e\" \"$f\"; done; \
        [ -z \"$2\" ] || rm -f \"$f\" \"$f.rpmnew\"; done";
    const APK: &str = "apk info -e \"$1\" >/dev/null || exit 0; exec apk del $2 \"$1\"";
    const IPK: &str = "c=$(cat /usr/lib/opkg/info/\"$1\".conffiles 2>/dev/null); opkg remove \"$1\" || exit; \
        [ -z \"$2\" ] || for f in $c; do rm -f \"$f\"; done";
    // --force-remove-reinstreq, as a package whose scripts were killed may be in any state.
    let option = if purge { "-P" } else { "-r" };
    let purge = if purge { "--purge" } else { "" };
    match format {
        Format::Deb => Some(tool(
            &["dpkg", "--force-confdef", "--force-confold", "--force-remove-reinstreq", option, package],
            INSTALL_TIMEOUT,
        )),
        Format::Rpm => script(RPM, &["rpm -e", package, purge], INSTALL_TIMEOUT),
        Format::Apk => script(APK, &["apk del", package, purge], INSTALL_TIMEOUT),
        Format::Ipk => script(IPK, &["opkg remove", package, purge], INSTALL_TIMEOUT),
        Format::Tar | Format::TarGz | Format::TarXz | Format::TarZst => None,
    }
}

impl Tool {
    /// Whether it only asks, so that nothing is lost with what it has printed.
    pub fn asks(&self) -> bool {
        self.timeout == QUERY_TIMEOUT
    }

    /// What people read of it: for a script its name and arguments, without the text.
    pub fn shown(&self) -> String {
        let argv = if *self.argv[0] == *"sh" && self.argv.len() > 3 { &self.argv[3..] } else { &self.argv[..] };
        argv.join(" ")
    }
}

/// What is said in front of the output of a package manager that a script of the installed package hinders.
pub fn advice(output: &str) -> &'static str {
    match output.contains("%preun(") || output.contains(" pre-removal script ") {
        true => "a script that is run before a removal fails, give a package in which it is mended: ",
        false => "",
    }
}

/// Whether a tool with this output failed only because another one holds the package manager's lock.
pub fn is_locked(output: &str) -> bool {
    const MESSAGES: [&str; 6] = [
        "frontend lock was locked by another process",
        "status database area is locked by another process",
        "database is locked",
        "Unable to lock database",
        "Could not lock",
        "can't create transaction lock",
    ];
    MESSAGES.iter().any(|message| output.contains(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_the_format() {
        for (file, want) in [
            ("a.rpm", Some(Format::Rpm)),
            ("a-1.2.deb", Some(Format::Deb)),
            ("a.tar.gz", Some(Format::TarGz)),
            ("a.tgz", Some(Format::TarGz)),
            ("a.tar", Some(Format::Tar)),
            ("a.txz", Some(Format::TarXz)),
            ("A-1.Tar.ZST", Some(Format::TarZst)),
            ("A.DEB", Some(Format::Deb)),
            (".deb", None),
            ("a.zip", None),
            ("deb", None),
        ] {
            assert_eq!(Format::of(file), want, "{file}");
        }
    }

    #[test]
    fn digests_are_read_and_written() {
        let hex = "4A34b8d7d3009bb9ef9475fbf33e7bbe4a1e8db003aefc578a241c2f51c2c2f2";
        let digest = Digest::parse(&format!("sha256:{hex}")).map(|digest| digest.to_string());
        assert_eq!(digest, Some(format!("SHA256:{}", hex.to_lowercase())));
        for bad in [hex.to_string(), format!("SHA256:{}", &hex[1..]), format!("SHA256:g{}", &hex[1..]), "MD5:00".into()]
        {
            assert_eq!(Digest::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_server_does_not_choose_the_name_of_a_download() {
        let name = download_name("sn", "libevil.so");
        assert!(name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        assert_eq!(download_name("sn", "libevil.so"), name);
        for (sn, id) in [("sn", "libevil.s"), ("s", "libevil.so"), ("sn\n", "libevil.so")] {
            assert_ne!(download_name(sn, id), name);
        }
    }

    #[test]
    fn names_and_versions_are_read_from_the_output_of_tools() {
        for (output, want) in [
            ("Package: web\nVersion: 1:2.0-1\n", Ok(("web", "1:2.0-1"))),
            ("warning: NOKEY\nPackage: web\nVersion: 2-1\n", Ok(("web", "2-1"))),
            ("# made by abuild\npkgname = web\npkgver = 1.2-r0\n", Ok(("web", "1.2-r0"))),
            ("Version: 1\n", Err("names no package")),
            ("Package: web\n", Err("names no version")),
            ("Package: --purge\nVersion: 1\n", Err("invalid")),
            ("Package: ../x\nVersion: 1\n", Err("invalid")),
        ] {
            match (identity(output), want) {
                (Ok((package, version)), Ok(want)) => assert_eq!((&*package, &*version), want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
                (got, want) => panic!("{output}: got {got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn a_held_lock_is_distinguished_from_a_broken_package() {
        assert!(is_locked("dpkg: error: dpkg frontend lock was locked by another process with pid 7"));
        assert!(is_locked("error: can't create transaction lock on /var/lib/rpm/.rpm.lock"));
        assert!(!is_locked("dpkg: error processing archive x.deb (--install)"));
    }

    #[test]
    fn a_tar_needs_no_tool() {
        for format in [Format::Tar, Format::TarGz, Format::TarXz, Format::TarZst] {
            assert_eq!(identify(format, "x"), None);
            assert!(install(format, "x", "x", true, Some(1), "").is_empty());
            assert_eq!(remove(format, "x", false), None);
        }
        assert_eq!(install(Format::Deb, "x", "x", true, None, "1").len(), 2);
        assert_eq!(install(Format::Deb, "x", "x", false, None, "1").len(), 1);
        assert_eq!(install(Format::Deb, "x", "x", false, None, "1 hold:x").len(), 2);
    }
}
