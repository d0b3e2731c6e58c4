//! Which configuration a daemon uses: the file, the last good copy of it, or defaults that close what guards.
//!
//! A bad file must not switch signatures off. What the file and the copy are, and which signatures were last required, comes
//! in; the choice comes out. `host::config_files` reads the files, and says the choice in words.

/// The configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// There is a file, and nothing is wrong with it.
    Good,
    /// Something is wrong with it, or it cannot be read.
    Bad,
    /// There is none, where none is needed.
    Missing,
}

/// The last good copy of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copy {
    /// There is none, or it is of another file.
    Missing,
    /// It cannot be read just now.
    Unreadable,
    /// Something is wrong with it.
    Damaged,
    /// It can be used, and requires these signatures.
    Good(String),
}

/// The record of which signatures the file last required, as the keys of the file that require some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guards {
    /// There is no record.
    Missing,
    /// It cannot be read just now.
    Unreadable,
    /// Its words; empty if it is damaged.
    Recorded(String),
}

/// What a daemon uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The file, or defaults where there is no file and none is needed.
    File,
    /// The last good copy.
    Copy,
    /// Defaults. They require no signatures although the file may have required some, so there must be neither exchanges nor
    /// jobs.
    Defaults(Cause),
}

/// Why the copy is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is none.
    NoCopy,
    /// It cannot be read.
    UnreadableCopy,
    /// It is damaged.
    DamagedCopy,
    /// It requires fewer signatures than were last required.
    WeakerCopy,
}

/// A word that no configuration satisfies: which signatures were required is not known.
const UNKNOWN: &str = "anything";

/// Chooses the configuration.
pub fn choose(file: File, copy: &Copy, guards: &Guards) -> Choice {
    let required = required(copy, guards);
    match (file, copy) {
        (File::Good, _) => Choice::File,
        (File::Missing, _) if required.is_empty() => Choice::File,
        (_, Copy::Good(own)) if satisfies(own, required) => Choice::Copy,
        (_, Copy::Good(_)) => Choice::Defaults(Cause::WeakerCopy),
        (_, Copy::Damaged) => Choice::Defaults(Cause::DamagedCopy),
        (_, Copy::Unreadable) => Choice::Defaults(Cause::UnreadableCopy),
        (_, Copy::Missing) => Choice::Defaults(Cause::NoCopy),
    }
}

/// Whether a configuration that requires the signatures `own` requires all of `required` too. A word that this version does
/// not know may stand for anything, so it is not satisfied.
pub fn satisfies(own: &str, required: &str) -> bool {
    required.split_ascii_whitespace().all(|word| own.split(' ').any(|key| key == word))
}

/// The signatures that were last required.
fn required<'a>(copy: &'a Copy, guards: &'a Guards) -> &'a str {
    match (guards, copy) {
        // There is such a record only if something was required.
        (Guards::Recorded(words), _) if words.trim().is_empty() => UNKNOWN,
        (Guards::Recorded(words), _) => words,
        // Version 1.0 kept no record, only the copy.
        (Guards::Missing, Copy::Good(own)) => own,
        (Guards::Missing, Copy::Missing) => "",
        (Guards::Missing | Guards::Unreadable, _) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_never_switches_signatures_off() {
        let good = |words: &str| Copy::Good(words.to_string());
        let recorded = |words: &str| Guards::Recorded(words.to_string());
        let (no_copy, weaker) = (Choice::Defaults(Cause::NoCopy), Choice::Defaults(Cause::WeakerCopy));
        let (damaged, unreadable) = (Choice::Defaults(Cause::DamagedCopy), Choice::Defaults(Cause::UnreadableCopy));
        for (file, copy, guards, want) in [
            (File::Good, Copy::Damaged, recorded("key_file"), Choice::File),
            (File::Bad, good("key_file"), recorded("key_file"), Choice::Copy),
            (File::Bad, good("key_file trusted_keys"), recorded("trusted_keys"), Choice::Copy),
            (File::Bad, good(""), recorded("key_file"), weaker),
            (File::Bad, good("key_file"), recorded("key_file trusted_keys"), weaker),
            (File::Bad, good("key_file"), recorded("of_a_later_version"), weaker),
            (File::Bad, good("key_file"), recorded(" "), weaker),
            (File::Bad, good("key_file"), Guards::Unreadable, weaker),
            // 1.0.0 kept the copy alone.
            (File::Bad, good("key_file"), Guards::Missing, Choice::Copy),
            (File::Bad, good(""), Guards::Missing, Choice::Copy),
            (File::Bad, Copy::Missing, Guards::Missing, no_copy),
            (File::Bad, Copy::Damaged, Guards::Missing, damaged),
            (File::Bad, Copy::Unreadable, recorded("key_file"), unreadable),
            (File::Missing, Copy::Missing, Guards::Missing, Choice::File),
            (File::Missing, good(""), Guards::Missing, Choice::File),
            (File::Missing, good("key_file"), Guards::Missing, Choice::Copy),
            (File::Missing, Copy::Missing, recorded("key_file"), no_copy),
            (File::Missing, Copy::Missing, Guards::Unreadable, no_copy),
            (File::Missing, Copy::Damaged, Guards::Missing, damaged),
            (File::Missing, Copy::Unreadable, Guards::Missing, unreadable),
        ] {
            assert_eq!(choose(file, &copy, &guards), want, "{file:?} {copy:?} {guards:?}");
        }
    }
}
