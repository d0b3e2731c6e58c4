//! `bootagent completion`: prints the completion of the command line for a shell.
//!
//! The scripts are small: they give the words of the command line to the hidden command `complete` of this binary, which prints
//! what can follow, so that it is always true. It exits with 1 when a file can follow, which shells know best.

use std::path::PathBuf;

use crate::cli::help::{topic, CommandHelp, COMMANDS, OPTIONS};
use crate::cli::{agent_names, print};

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

/// Prints what the last of `words`, which are those after the program's name, can become, one on each line. Returns the exit
/// code: 1 when it can become the path of a file.
pub fn complete(words: &[String], default_config: &str) -> u8 {
    let Some(known) = completions(words, default_config) else { return 1 };
    print(&known.iter().map(|word| format!("{word}\n")).collect::<String>())
}

/// What the last word can become; `None` when it can become the path of a file.
fn completions(words: &[String], default_config: &str) -> Option<Vec<String>> {
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let mut config = PathBuf::from(default_config);
    let mut command = None;
    let mut wants_value = None;
    for word in before {
        if let Some(option) = wants_value.take() {
            if option == 'c' {
                config = PathBuf::from(word);
            }
        } else if let Some(name) = word.strip_prefix('-') {
            let is_named =
                |(short, long): (char, &str)| name.strip_prefix('-') == Some(long) || name == short.to_string();
            let named = OPTIONS.iter().find(|option| is_named((option.short, option.long)));
            wants_value = named.filter(|option| !option.value.is_empty()).map(|option| option.short);
        } else if command.is_none() {
            command = topic(word);
        }
    }
    let is_file = |command: Option<&CommandHelp>| command.is_some_and(|command| command.synopsis == "FILE");
    let mut known: Vec<String> = match (wants_value, command) {
        (Some('c'), _) => return None,
        (Some(_), _) => Vec::new(),
        (None, command) if last.starts_with('-') => {
            let knows = |short| "ch".contains(short) || command.is_none_or(|command| command.options.contains(short));
            OPTIONS.iter().filter(|option| knows(option.short)).map(|option| format!("--{}", option.long)).collect()
        }
        (None, command) if is_file(command) => return None,
        (None, None) => words_of_commands(),
        (None, Some(command)) if command.word == "help" => words_of_commands(),
        (None, Some(command)) if command.synopsis.contains("NAME") => {
            agent_names(&config).unwrap_or_default().iter().map(|name| name.to_string()).collect()
        }
        (None, Some(command)) => {
            command.synopsis.split('|').filter(|_| command.arguments.1 > 0).map(Into::into).collect()
        }
    };
    known.retain(|word| word.starts_with(last));
    Some(known)
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
        ] {
            let words: Vec<String> = line.split(' ').map(Into::into).collect();
            let got = completions(&words, "/nonexistent").map(|known| known.join(" "));
            assert_eq!(got.as_deref(), want, "{line}");
        }
    }
}
