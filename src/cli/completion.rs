//! `bootagent completion`: prints the completion of the command line for a shell.
//!
//! The scripts are small: they give the words of the command line to the hidden command `complete` of this binary, which prints
//! what can follow, so that it is always true. It exits with 1 when a file can follow, which shells know best.

use std::path::{Path, PathBuf};

use crate::cli::help::{topic, CliOption, CommandHelp, COMMANDS, OPTIONS};
use crate::cli::{agent_names, configuration, print, Ended};
use crate::host::disk::list;
use crate::model::spec::is_name;

/// The hidden command.
pub const WORD: &str = "complete";

/// The script for `shell`, which is `bash`, `zsh` or, with any other word, `fish`.
pub fn script(shell: &str) -> &'static str {
    match shell {
        "bash" => include_str!("completion/bash.sh"),
        "zsh" => include_str!("completion/zsh.zsh"),
        _ => include_str!("completion/fish.fish"),
    }
}

/// Prints what the last of `words`, which are those after the program's name, can become, one on each line.
///
/// # Errors
/// The exit code: 1 when it can become the path of a file.
pub fn complete(words: &[String], default_config: &str) -> Ended {
    let known = completions(words, default_config).ok_or(1)?;
    print(&known.iter().map(|word| format!("{word}\n")).collect::<String>())
}

/// What the last word can become; `None` when it can become the path of a file.
fn completions(words: &[String], default_config: &str) -> Option<Vec<String>> {
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let mut config = PathBuf::from(default_config);
    let mut command = None;
    let mut wants_value = None;
    for word in before {
        if let Some(option) = wants_value {
            // bash gives `--config=FILE` as three words.
            if word == "=" {
                continue;
            }
            wants_value = None;
            if option == 'c' {
                config = path(word);
            }
        } else if word.starts_with('-') {
            match option_of(word) {
                Some((option, Some(value))) if option.short == 'c' => config = path(value),
                Some((option, None)) if !option.value.is_empty() => wants_value = Some(option.short),
                _ => {}
            }
        } else if command.is_none() {
            command = topic(word);
        }
    }
    let is_file = |command: Option<&CommandHelp>| command.is_some_and(|command| command.synopsis == "FILE");
    let mut known: Vec<String> = match (wants_value, command) {
        (Some('c'), _) => return None,
        (Some(_), _) => Vec::new(),
        (None, _) if option_of(last).is_some_and(|(option, value)| option.short == 'c' && value.is_some()) => {
            return None
        }
        (None, command) if last.starts_with('-') => {
            let knows = |short| "ch".contains(short) || command.is_none_or(|command| command.options.contains(short));
            OPTIONS.iter().filter(|option| knows(option.short)).map(|option| format!("--{}", option.long)).collect()
        }
        (None, command) if is_file(command) => return None,
        (None, None) => words_of_commands(),
        (None, Some(command)) if command.word == "help" => words_of_commands(),
        (None, Some(command)) if command.synopsis.contains("NAME") => names(&config, command.word == "logs"),
        (None, Some(command)) => {
            command.synopsis.split('|').filter(|_| command.arguments.1 > 0).map(Into::into).collect()
        }
    };
    known.retain(|word| word.starts_with(last));
    Some(known)
}

/// The path that a word stands for: the shell has not put the home directory in the place of a tilde yet.
fn path(word: &str) -> PathBuf {
    let home = word.strip_prefix("~/").zip(std::env::var_os("HOME"));
    home.map_or_else(|| PathBuf::from(word), |(rest, home)| Path::new(&home).join(rest))
}

/// The option that a word names, and the value that is given in the same word.
fn option_of(word: &str) -> Option<(&'static CliOption, Option<&str>)> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        return OPTIONS.iter().find(|option| option.long == name).map(|option| (option, value));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let short = letters.next()?;
    let option = OPTIONS.iter().find(|option| option.short == short)?;
    Some((option, Some(letters.as_str()).filter(|value| !value.is_empty())))
}

/// The names of the agents: those of the daemon, or those that have a definition while there is none; with `logs` those too
/// that have left output.
fn names(config: &Path, logs: bool) -> Vec<String> {
    let mut names: Vec<String> = agent_names(config).unwrap_or_default().iter().map(|name| name.to_string()).collect();
    let Ok(loaded) = configuration(config) else { return names };
    let add_defined = names.is_empty();
    let mut add = |dir: &str, ending| names.extend(list(Path::new(dir), ending).unwrap_or_default());
    if add_defined {
        add(&loaded.config.agents_dir, ".json");
    }
    if logs {
        add(&loaded.config.log_dir, ".log");
    }
    names.retain(|name| is_name(name) && name != "bootagent");
    names.sort();
    names.dedup();
    names
}

fn words_of_commands() -> Vec<String> {
    COMMANDS.iter().map(|command| command.word.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed() {
        for (line, want) in [
            ("stat", Some("status")),
            ("re", Some("restart reload reexec report")),
            ("init sy", Some("sysv systemd")),
            ("-c x completion z", Some("zsh")),
            ("status --j", Some("--json")),
            ("logs --", Some("--config --lines --follow --help")),
            ("logs -n ", Some("")),
            ("--config=x help ver", Some("version")),
            ("example ", Some("")),
            ("xyz", Some("")),
            ("sha256 ", None),
            ("check -c ", None),
            ("check --config=x", None),
            ("check --config = ", None),
            ("--config = x help ver", Some("version")),
            ("-cx help ver", Some("version")),
            ("-cx", None),
            ("logs -n3 --fol", Some("--follow")),
        ] {
            let words: Vec<String> = line.split(' ').map(Into::into).collect();
            let got = completions(&words, "/nonexistent").map(|known| known.join(" "));
            assert_eq!(got.as_deref(), want, "{line}");
        }
    }
}
