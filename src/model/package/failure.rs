//! What the failure of an installer says of the package that it was to install.

use super::Format;

/// Whether an installer that failed says so of this version of the package itself, though its database has it. dpkg and opkg
/// do not have a package as installed whose scripts have failed.
pub fn is_own_failure(format: Format, package: &str, version: &str, output: &str) -> bool {
    let named = |text| after_name(text, package, version);
    let mut words = output.split_whitespace();
    match format {
        Format::Rpm => words.any(|word| {
            let Some((script, rest)) = word.strip_prefix('%').and_then(|word| word.split_once('(')) else {
                return false;
            };
            matches!(script, "pre" | "prein" | "post" | "postin" | "pretrans" | "posttrans")
                && named(rest).is_some_and(|rest| rest.starts_with('.') && output.contains(" scriptlet failed"))
        }),
        // `ERROR: web-2.0-r0.post-install: script exited with error 1`, or without a script where a file is not unpacked.
        Format::Apk => words.any(|word| {
            let script = named(word).and_then(|rest| rest.strip_suffix(':'));
            let scripts = ["", ".pre-install", ".post-install", ".pre-upgrade", ".post-upgrade", ".trigger"];
            script.is_some_and(|script| scripts.contains(&script))
        }),
        _ => false,
    }
}

/// Whether an installer that failed may have left another build of the same version in place, of which the database says the
/// same: all but a failure that it says is another package's.
pub fn may_be_refused(format: Format, output: &str) -> bool {
    match format {
        Format::Deb => output.contains("error processing archive ") || !output.contains("error processing package "),
        Format::Apk => !output.contains("script exited with error"),
        _ => true,
    }
}

/// What follows a package's name and version in a message, where an epoch may be left out: `web-1:2.0-1`, `web-2.0-1`.
fn after_name<'a>(text: &'a str, package: &str, version: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(package)?.strip_prefix('-')?;
    let bare = version.split_once(':').map_or(version, |(_, bare)| bare);
    rest.strip_prefix(version).or_else(|| rest.strip_prefix(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_package_is_told_from_one_of_another() {
        let (apk, rpm) = (Format::Apk, Format::Rpm);
        for (format, version, output, want) in [
            (
                apk,
                "2.0-r0",
                "(1/1) Installing web (2.0-r0) | ERROR: web-2.0-r0.post-install: script exited with error 1",
                true,
            ),
            (apk, "2.0-r0", "ERROR: web-2.0-r0.pre-upgrade: script exited with error 1", true),
            (apk, "2.0-r0", "ERROR: web-2.0-r0.trigger: script exited with error 1", true),
            (apk, "2.0-r0", "ERROR: web-2.0-r0: trying to overwrite usr/bin/a owned by b-1-r0.", true),
            (apk, "2.0-r0", "ERROR: web-extra-2.0-r0.post-install: script exited with error 1", false),
            (apk, "2.0-r0", "ERROR: web-1.9-r0.post-install: script exited with error 1", false),
            (apk, "2.0-r0", "ERROR: busybox-1.36.1-r2.trigger: script exited with error 127", false),
            (rpm, "2.0-1", "error: %post(web-2.0-1.x86_64) scriptlet failed, exit status 1", true),
            (rpm, "1:2.0-1", "warning: %post(web-1:2.0-1.x86_64) scriptlet failed, exit status 1", true),
            (rpm, "1:2.0-1", "error: %posttrans(web-2.0-1.noarch) scriptlet failed, signal 9", true),
            (rpm, "2.0-1", "error: %preun(web-2.0-1.x86_64) scriptlet failed, exit status 1", false),
            (rpm, "2.0-1", "error: %post(web-2.0-10.x86_64) scriptlet failed, exit status 1", false),
            (rpm, "2.0-1", "error: %triggerin(other-1-1.x86_64) scriptlet failed, exit status 1", false),
            (rpm, "2.0-1", "error: %post(web-extra-2.0-1.x86_64) scriptlet failed, exit status 1", false),
            (Format::Deb, "2.0", "dpkg: error processing package web (--install):", false),
        ] {
            assert_eq!(is_own_failure(format, "web", version, output), want, "{output}");
        }
    }

    #[test]
    fn a_failure_that_is_not_known_to_be_of_another_package_may_have_kept_the_new_one_out() {
        for (format, output, want) in [
            (Format::Deb, "dpkg: error processing archive /x.deb (--install): | new web package pre-install", true),
            (Format::Deb, "dpkg: error processing package other (--install): | dependency problems", false),
            (Format::Deb, "dpkg: error processing package other (--configure): | error processing archive /x", true),
            (Format::Deb, "dpkg: error: dpkg frontend lock was locked by another process", true),
            (Format::Rpm, "file /usr/lib/a from install of web-1-1 conflicts with file from package b-1-1", true),
            (Format::Apk, "ERROR: busybox-1.36.1-r2.trigger: script exited with error 127", false),
            (Format::Apk, "ERROR: web-1-r0: BAD archive", true),
        ] {
            assert_eq!(may_be_refused(format, output), want, "{output}");
        }
    }
}
