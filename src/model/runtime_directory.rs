//! The directories below /run that definitions name as `runtime_directory`: which names are valid, and whose a directory is
//! that two of them name.
//!
//! `daemon::runtime_directories` makes and removes them.

use std::path::Path;

use super::event::Origin;
use super::spec::{is_word, Name};

/// Whether `text` can be a `runtime_directory`: 1..=200 of `[A-Za-z0-9._@:+/-]`, without `.` and `..` as a name in it.
pub fn is_runtime_directory(text: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    is_word(text, 200, b"._@:+/-") && text.split('/').all(is_part)
}

/// Whether one of two directories is the other one, holds it, or is in it.
pub fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The first directory of `own` that is one of `others`, is in one of them, or holds one of them.
pub fn shared_directory<'a>(own: &'a [Box<str>], others: &[Box<str>]) -> Option<&'a str> {
    let is_shared = |own: &&str| others.iter().any(|other| overlap(Path::new(own), Path::new(&**other)));
    own.iter().map(|own| &**own).find(is_shared)
}

/// The directories that the definition of an agent names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Where the definition comes from.
    pub origin: Origin,
    /// The agent.
    pub name: &'a Name,
    /// The directories.
    pub directories: &'a [Box<str>],
}

/// The first directory of an agent that is another one's, and that agent's name; `None` if it can have all of its own. Of
/// two agents with the same directory, that one has it whose definition counts more, or whose name comes first.
pub fn taken<'a>(own: Claim<'a>, others: impl Iterator<Item = Claim<'a>>) -> Option<(&'a str, &'a Name)> {
    let counts_more = |other: &Claim| (other.origin, other.name) < (own.origin, own.name);
    let mut others = others.filter(|other| other.name != own.name && counts_more(other));
    others.find_map(|other| Some((shared_directory(own.directories, other.directories)?, other.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn runtime_directories_stay_below_their_place() {
        for (text, want) in [
            ("web", true),
            ("web/cache.d", true),
            ("", false),
            ("/run/web", false),
            ("web/", false),
            ("..", false),
            ("web/../..", false),
            ("./web", false),
            ("a b", false),
        ] {
            assert_eq!(is_runtime_directory(text), want, "{text}");
        }
    }

    #[test]
    fn a_directory_is_shared_with_what_holds_it_and_what_is_in_it() {
        for (own, others, want) in [
            (&["web"][..], &["web"][..], Some("web")),
            (&["a", "web/x"], &["web"], Some("web/x")),
            (&["web"], &["b", "web/x"], Some("web")),
            (&["web"], &["web2", "we"], None),
            (&[], &["web"], None),
        ] {
            assert_eq!(shared_directory(&list(own), &list(others)), want, "{own:?} {others:?}");
        }
        for (one, other, want) in [
            ("/run/bootagent", "/run/bootagent", true),
            ("/run/bootagent/x", "/run/bootagent", true),
            ("/run", "/run/bootagent", true),
            ("/run/boot", "/run/bootagent", false),
        ] {
            assert_eq!(overlap(Path::new(one), Path::new(other)), want, "{one} {other}");
            assert_eq!(overlap(Path::new(other), Path::new(one)), want, "{other} {one}");
        }
    }

    #[test]
    fn a_directory_of_two_agents_is_that_ones_whose_definition_counts_more() {
        let (web, cache) = (list(&["web"]), list(&["cache"]));
        let (a, b) = (Name::from("a"), Name::from("b"));
        let claim = |origin, name, directories| Claim { origin, name, directories };
        for (own, other, want, why) in [
            (claim(Origin::File, &b, &web), claim(Origin::File, &a, &web), Some(("web", &a)), "the first name has it"),
            (claim(Origin::File, &a, &web), claim(Origin::File, &b, &web), None, "the agent's own name is the first"),
            (claim(Origin::Job, &a, &web), claim(Origin::File, &b, &web), Some(("web", &b)), "a file counts more"),
            (claim(Origin::Job, &b, &web), claim(Origin::Package, &a, &web), None, "a package counts less"),
            (claim(Origin::File, &b, &web), claim(Origin::File, &a, &cache), None, "they have different ones"),
            (claim(Origin::File, &b, &web), claim(Origin::File, &b, &web), None, "it is the agent itself"),
        ] {
            assert_eq!(taken(own, [other].into_iter()), want, "{why}");
        }
    }
}
