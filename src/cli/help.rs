//! What the command line knows: every command and option with its help, and the nearest one to a word that is none.

use crate::text::{sanitize, suggestion};

/// One command of the command line.
pub struct CommandHelp {
    /// The word on the command line.
    pub word: &'static str,
    /// What follows the word in the usage.
    pub synopsis: &'static str,
    /// How many arguments it takes.
    pub arguments: (usize, usize),
    /// Short names of the options it knows besides `-c` and `-h`.
    pub options: &'static str,
    /// One line, for the overview.
    pub brief: &'static str,
    /// The rest, for `help COMMAND`.
    pub more: &'static str,
}

/// An option of the command line.
pub struct CliOption {
    /// Its name after one dash.
    pub short: char,
    /// Its name after two dashes.
    pub long: &'static str,
    /// What its value is called in the usage; empty when none follows.
    pub value: &'static str,
    /// What it means, for `help`.
    pub meaning: &'static str,
}

/// Every option.
pub static OPTIONS: [CliOption; 10] = [
    option('c', "config", "FILE", "instead of /etc/bootagent/bootagent.json"),
    option('d', "background", "", "in the background; the parent exits 0 once it is ready"),
    option('S', "servers", "LIST", "default servers instead of those configured: host:port,..."),
    option('j', "json", "", "for programs, as docs/protocol.md describes it"),
    option('w', "watch", "", "show it again every 2 seconds"),
    option('a', "all", "", "every agent"),
    option('n', "lines", "N", "how many; 10 by default"),
    option('f', "follow", "", "also show what is added, until interrupted"),
    option('h', "help", "", "this, or more about the command it stands with"),
    option('V', "version", "", "the version"),
];

const fn option(short: char, long: &'static str, value: &'static str, meaning: &'static str) -> CliOption {
    CliOption { short, long, value, meaning }
}

const STARTED: &str = "Exits 0 once each has been alive for its startsecs, else 1 and says why.\n";

/// Every command.
pub static COMMANDS: [CommandHelp; 17] = [
    CommandHelp {
        word: "run",
        synopsis: "[-d] [-S LIST]",
        arguments: (0, 0),
        options: "dS",
        brief: "run the daemon",
        more: "With -d a keeper stays, which starts the daemon again if it dies.\n\
               SIGTERM, SIGINT: stop the agents and exit. SIGQUIT: exit, agents keep running.\n\
               SIGHUP: reload. SIGUSR2: reexec.\n",
    },
    CommandHelp {
        word: "check",
        synopsis: "",
        arguments: (0, 0),
        options: "",
        brief: "read all configuration, print every error",
        more: "Exits 0 when there is none, else 1.\n",
    },
    CommandHelp {
        word: "status",
        synopsis: "[NAME] [--json|--watch]",
        arguments: (0, 1),
        options: "jw",
        brief: "show what runs; with NAME all about one agent",
        more: "With NAME it exits 0 when that agent runs, 1 when not or unknown, 3 without a\n\
               daemon.\n",
    },
    CommandHelp {
        word: "start",
        synopsis: "NAME...|--all",
        arguments: (0, MANY),
        options: "a",
        brief: "start agents, and keep them running",
        more: STARTED,
    },
    CommandHelp {
        word: "stop",
        synopsis: "NAME...|--all",
        arguments: (0, MANY),
        options: "a",
        brief: "stop agents, and keep them stopped",
        more: "Exits 0 once each has stopped, else 1 and says why.\n",
    },
    CommandHelp {
        word: "restart",
        synopsis: "NAME...|--all",
        arguments: (0, MANY),
        options: "a",
        brief: "stop agents if they run, and start them",
        more: STARTED,
    },
    CommandHelp {
        word: "reload",
        synopsis: "[NAME...]",
        arguments: (0, MANY),
        options: "",
        brief: "read definitions, labels and the key file again",
        more: "Prints what has changed and every error; exits 1 when there is one. An agent\n\
               whose definition did not change is not touched. With names these agents read\n\
               their own configuration again, as their \"reload\" says.\n",
    },
    CommandHelp {
        word: "logs",
        synopsis: "[NAME] [-n N] [-f]",
        arguments: (0, 1),
        options: "nf",
        brief: "show the last lines of an agent's output",
        more: "Without NAME those of the daemon's own log. Works without a daemon too.\n",
    },
    CommandHelp {
        word: "reexec",
        synopsis: "",
        arguments: (0, 0),
        options: "",
        brief: "replace the daemon by the binary now on disk",
        more: "Agents keep running. Refused (1) when the new binary does not run or its check\n\
               finds errors.\n",
    },
    CommandHelp {
        word: "report",
        synopsis: "",
        arguments: (0, 0),
        options: "",
        brief: "report to the server now, and fetch new jobs",
        more: "Exits 0 when a server took it, else 1 and says why.\n",
    },
    CommandHelp {
        word: "jobs",
        synopsis: "[--json]",
        arguments: (0, 0),
        options: "j",
        brief: "show the jobs and how they ended",
        more: "",
    },
    CommandHelp {
        word: "init",
        synopsis: "sysv|openrc|procd|systemd|inittab",
        arguments: (1, 1),
        options: "",
        brief: "print a ready start script for that init",
        more: "The script starts this binary, with this -c when there is one.\n",
    },
    CommandHelp {
        word: "completion",
        synopsis: "bash|zsh|fish",
        arguments: (1, 1),
        options: "",
        brief: "print the completion for that shell",
        more: "",
    },
    CommandHelp {
        word: "example",
        synopsis: "",
        arguments: (0, 0),
        options: "",
        brief: "print a definition to start from",
        more: "",
    },
    CommandHelp {
        word: "sha256",
        synopsis: "FILE",
        arguments: (1, 1),
        options: "",
        brief: "print the checksum in the form a job wants it",
        more: "",
    },
    CommandHelp { word: "version", synopsis: "", arguments: (0, 0), options: "", brief: "print the version", more: "" },
    CommandHelp {
        word: "help",
        synopsis: "[COMMAND]",
        arguments: (0, 1),
        options: "",
        brief: "show this, or more about one command",
        more: "",
    },
];

/// No limit to the number of arguments.
const MANY: usize = usize::MAX;

/// How much of an unknown word is shown, bytes.
pub const SHOWN_MAX: usize = 100;

/// The usage of all commands.
pub fn overview() -> String {
    let mut text = "Usage: bootagent [-c FILE] COMMAND ...\n\n".to_string();
    for command in &COMMANDS {
        let usage = format!("{} {}", command.word, command.synopsis);
        // A usage that is too long for its column has a line of its own.
        let column = if usage.len() > 26 { format!("{usage}\n{:28}", "") } else { usage };
        text.push_str(&format!("  {column:26}  {}\n", command.brief));
    }
    text.push_str(&help_of_options("chV"));
    text + "\nExit codes: 0 done, 1 it did not work, 2 usage, 3 the daemon is not running.\n"
}

/// The usage of one command.
pub fn help(command: &CommandHelp) -> String {
    let usage = format!("Usage: bootagent [-c FILE] {} {}", command.word, command.synopsis);
    let (first, rest) = command.brief.split_at(1);
    let first = first.to_uppercase();
    format!("{}\n\n{first}{rest}.\n{}{}", usage.trim_end(), command.more, help_of_options(command.options))
}

/// A line for each of the options, after an empty one.
fn help_of_options(shorts: &str) -> String {
    let mut text = String::new();
    for CliOption { short, long, value, meaning } in OPTIONS.iter().filter(|option| shorts.contains(option.short)) {
        let name = format!("{long} {value}");
        text.push_str(&format!("{}  -{short}, --{name:12}  {meaning}\n", if text.is_empty() { "\n" } else { "" }));
    }
    text
}

/// The error for a `word` that is none of `known`, with the nearest of them or all.
pub fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let shown = sanitize(word, SHOWN_MAX);
    let others = suggestion(word, known).unwrap_or_else(|| format!("there are {}", known.join(", ")));
    format!("there is no {what} \"{shown}\"; {others}")
}

/// The command with this word.
pub fn topic(word: &str) -> Option<&'static CommandHelp> {
    COMMANDS.iter().find(|command| command.word == word)
}

/// The error for a `word` that is no command.
pub fn unknown_command(word: &str) -> String {
    let words: Vec<&str> = COMMANDS.iter().map(|command| command.word).collect();
    unknown("command", word, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word with one letter left out, doubled, mistaken or taken for its neighbour, at each place.
    fn misspelled(word: &str) -> Vec<String> {
        let mut found = Vec::new();
        for at in 0..word.len() {
            let (before, rest) = word.split_at(at);
            let letter = &rest[..1];
            found.push(format!("{before}{}", &rest[1..]));
            found.push(format!("{before}{letter}{rest}"));
            found.push(format!("{before}q{}", &rest[1..]));
            found.push(swapped(word, at));
        }
        found
    }

    fn swapped(word: &str, at: usize) -> String {
        let mut letters: Vec<char> = word.chars().collect();
        if at + 1 < letters.len() {
            letters.swap(at, at + 1);
        }
        letters.into_iter().collect()
    }

    #[test]
    fn each_command_is_suggested_for_its_misspellings_and_beginnings() {
        let mut count = 0;
        for command in &COMMANDS {
            let beginnings = (1..command.word.len()).map(|end| command.word[..end].to_string());
            for word in misspelled(command.word).into_iter().chain(beginnings) {
                // Another command, or the beginning of another one only, as "stat" is of "status".
                let is_others = COMMANDS.iter().any(|other| other.word.starts_with(&word));
                if topic(&word).is_some() || is_others && !command.word.starts_with(&word) {
                    continue;
                }
                let said = unknown_command(&word);
                assert!(said.contains(&format!("\"{}\"", command.word)), "{}: {said}", command.word);
                count += 1;
            }
        }
        assert!(count > 300, "{count} words");
    }
}
