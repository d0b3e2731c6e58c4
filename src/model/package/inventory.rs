//! What the host has of the packages that jobs installed: somebody may have removed or replaced one by hand.

use super::{query, script, Tool, QUERY_TIMEOUT};
use crate::model::record::Installed;

/// The files that change whenever a package manager installs or removes a package. Debian keeps the database of rpm in the
/// home directory.
pub const DATABASES: [&str; 14] = [
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/rpmdb.sqlite-wal",
    "/var/lib/rpm/Packages",
    "/var/lib/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite-wal",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/root/.rpmdb/rpmdb.sqlite",
    "/root/.rpmdb/rpmdb.sqlite-wal",
    "/lib/apk/db/installed",
    "/usr/lib/apk/db/installed",
    "/usr/lib/opkg/status",
    "/var/lib/opkg/status",
];

/// The tool that says of agents which versions of their packages are installed: a line for each, of which `answer` makes
/// sense; `None` where all are tars.
pub fn inventory<'a>(agents: impl Iterator<Item = (&'a str, &'a Installed)>) -> Option<Tool> {
    // The arguments are an agent, the script that asks for its package, and the package, for each agent. A query that fails
    // prints no line. The dot at the end shows that a line is whole.
    const TEXT: &str = "set -f; while [ $# -gt 0 ]; do \
        ! o=$(sh -c \"$2\" look \"$3\" 2>&1) || { printf '%s ' $1 $o; echo .; }; shift 3; done";
    let mut tool = script(TEXT, &["look"], QUERY_TIMEOUT)?;
    for (name, package) in agents {
        if let Some(query) = query(package.format, &package.package) {
            tool.argv.extend([name.into(), query.argv[2].clone(), package.package.clone()]);
        }
    }
    (tool.argv.len() > 4).then_some(tool)
}

/// The agent, and the versions of its package that the host has, of a line that the tool printed. `None`: the line was cut.
pub fn answer(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_suffix(" .")?;
    Some(line.split_once(' ').unwrap_or((line, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_says_nothing() {
        for (line, want) in [
            ("web 1.0-1 .", Some(("web", "1.0-1"))),
            ("web 1.0-1 2.0-1 .", Some(("web", "1.0-1 2.0-1"))),
            ("web .", Some(("web", ""))),
            ("web 1.0", None),
            ("...", None),
            ("", None),
        ] {
            assert_eq!(answer(line), want, "{line}");
        }
    }
}
