//! Releases and their artifacts: which names are permitted, and which artifact is for which host.

/// A package of a release for one kind of host.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Empty: for every one.
    pub arch: String,
    /// `ID` or `ID VERSION_ID`; empty: for every one.
    pub os: String,
    /// Lower-case hex.
    pub sha256: String,
    /// The file's name; its ending says what it is.
    pub name: String,
    /// Where it is when it is not here.
    pub url: Option<String>,
    /// The text of a .minisig file.
    pub sig: Option<String>,
}

/// The endings an agent can install.
const ENDINGS: [&str; 10] = [".rpm", ".deb", ".apk", ".ipk", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst"];

/// Whether an agent may have this name.
pub fn is_name(name: &str) -> bool {
    (1..=50).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// Checks the file name of a package; for `bootagent` itself, a bare binary, any ending will do.
///
/// # Errors
/// What is permitted.
pub fn check_file_name(agent: &str, name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~-".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !first || name.len() > 128 || !name.bytes().all(plain) {
        return Err(format!("\"{name}\": want up to 128 of A-Z a-z 0-9 . _ + ~ -, the first a letter, digit or _"));
    }
    let lower = name.to_ascii_lowercase();
    if agent != "bootagent" && !ENDINGS.iter().any(|ending| lower.ends_with(ending)) {
        return Err(format!("\"{name}\": want a package: {}", ENDINGS.join(" ")));
    }
    Ok(())
}

/// The artifact for a host: the one that says most about it.
pub fn choose<'a>(artifacts: &'a [Artifact], arch: &str, os: &str) -> Option<&'a Artifact> {
    let id = os.split(' ').next().unwrap_or_default();
    let fits = |a: &&Artifact| (a.arch.is_empty() || a.arch == arch) && (a.os.is_empty() || a.os == os || a.os == id);
    artifacts.iter().filter(fits).max_by_key(|a| (a.os.len(), a.arch.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(arch: &str, os: &str) -> Artifact {
        let name = format!("{arch}-{os}");
        Artifact { arch: arch.into(), os: os.into(), sha256: String::new(), name, url: None, sig: None }
    }

    #[test]
    fn the_closest_artifact_is_chosen() {
        let all = [artifact("", ""), artifact("x86_64", "debian"), artifact("x86_64", "debian 12")];
        let name = |arch, os| choose(&all, arch, os).map(|a| a.name.as_str());
        assert_eq!(name("x86_64", "debian 12"), Some("x86_64-debian 12"));
        assert_eq!(name("x86_64", "debian 11"), Some("x86_64-debian"));
        assert_eq!(name("armv7", "alpine 3"), Some("-"));
        assert_eq!(choose(&all[1..], "armv7", "debian 12"), None);
    }

    #[test]
    fn file_names_cannot_lead_anywhere() {
        for bad in ["../x.deb", ".x.deb", "a b.deb", "x.exe", "", "-x.deb", "a/b.deb"] {
            assert!(check_file_name("web", bad).is_err(), "{bad}");
        }
        assert!(check_file_name("web", "web_1.2~rc1+b_amd64.deb").is_ok());
        assert!(check_file_name("bootagent", "bootagent-x86_64").is_ok());
    }
}
