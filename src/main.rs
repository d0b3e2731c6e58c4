//! The command line: options (getopts), usage, and which command gets them.
//!
//! Options may stand before or after the command, and each is accepted only by the commands that know it. The arguments
//! become a `CliAction` here, and other modules do it: `run` is `daemon`'s, the hidden `work` and `watch` are `work`'s, and
//! everything else is `cli`'s. Exit codes: 0 done, 1 it did not work, 2 usage, 3 the daemon is not running.

use std::path::PathBuf;
use std::process::exit;

use bootagent::cli::{self, OutputFormat};
use bootagent::daemon;
use bootagent::host::config_files::CONFIG;
use bootagent::model::command::Command;
use bootagent::model::schedule::parse_servers;
use bootagent::model::spec::{is_name, Name};
use bootagent::text::sanitize;
use bootagent::work::watch::WORD as WATCH;
use bootagent::{error::Error, format_error};
use getopts::{HasArg, Occur};

/// One command of the command line.
struct CommandHelp {
    word: &'static str,
    /// What follows the word in the usage.
    synopsis: &'static str,
    /// How many arguments it takes.
    arguments: (usize, usize),
    /// Short names of the options it knows besides `-c` and `-h`; `j` is `--json`.
    options: &'static str,
    /// One line, for the overview.
    brief: &'static str,
    /// The rest, for `help COMMAND`.
    more: &'static str,
}

const COMMANDS: [CommandHelp; 13] = [
    CommandHelp {
        word: "run",
        synopsis: "[-d] [-S LIST]",
        arguments: (0, 0),
        options: "dS",
        brief: "run the daemon",
        more: "  -d, --background    in the background; the parent exits 0 once it is ready, and a\n                      keeper stays that starts the daemon again if it dies\n  \
               -S, --servers LIST  default servers instead of the configured ones: host:port,...\n\n\
               SIGTERM, SIGINT: stop the agents and exit. SIGQUIT: exit, agents keep running.\n\
               SIGHUP: read the definitions again. SIGUSR2: reexec.\n",
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
        synopsis: "[NAME] [--json]",
        arguments: (0, 1),
        options: "j",
        brief: "show what runs",
        more: "  --json  the report as a server would get it now\n",
    },
    CommandHelp {
        word: "start",
        synopsis: "NAME",
        arguments: (1, 1),
        options: "",
        brief: "start an agent, and keep it running",
        more: "Returns 0 once it has been alive for its startsecs, else 1 and why.\n",
    },
    CommandHelp {
        word: "stop",
        synopsis: "NAME",
        arguments: (1, 1),
        options: "",
        brief: "stop an agent, and keep it stopped",
        more: "Returns 0 once none of its processes is left, else 1 and why.\n",
    },
    CommandHelp {
        word: "restart",
        synopsis: "NAME",
        arguments: (1, 1),
        options: "",
        brief: "stop an agent if it runs, and start it",
        more: "Returns 0 once it has been alive for its startsecs, else 1 and why.\n",
    },
    CommandHelp {
        word: "reexec",
        synopsis: "",
        arguments: (0, 0),
        options: "",
        brief: "replace the daemon by the binary now on disk",
        more: "Agents keep running. Refused (1) when the new binary does not run or its check finds errors.\n",
    },
    CommandHelp {
        word: "report",
        synopsis: "",
        arguments: (0, 0),
        options: "",
        brief: "report to the server now",
        more: "Returns 0 when a server took it, else 1 and why.\n",
    },
    CommandHelp {
        word: "jobs",
        synopsis: "[--json]",
        arguments: (0, 0),
        options: "j",
        brief: "show the jobs and how they ended",
        more: "  --json  an array of {id, action, name, state, errcode, message, progress}\n",
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

/// How much of an unknown word is shown, bytes.
const SHOWN_MAX: usize = 100;

/// The options: short and long name, and whether a value follows.
const OPTIONS: [(&str, &str, HasArg); 6] = [
    ("c", "config", HasArg::Yes),
    ("d", "background", HasArg::No),
    ("S", "servers", HasArg::Yes),
    ("j", "json", HasArg::No),
    ("h", "help", HasArg::No),
    ("V", "version", HasArg::No),
];

/// What the command line asks for.
#[derive(Debug, PartialEq)]
enum CliAction {
    /// Print this text.
    Print(String),
    Run {
        background: bool,
        servers: Option<Vec<bootagent::model::schedule::Server>>,
    },
    Check,
    Send(Command, OutputFormat),
    Init(String),
    Sha256(PathBuf),
    Work,
    Watch(Vec<String>),
}

fn main() {
    let mut args: Vec<String> = Vec::new();
    for arg in std::env::args_os().skip(1) {
        match arg.into_string() {
            Ok(arg) => args.push(arg),
            Err(arg) => usage(&format!("argument \"{}\" is not UTF-8", arg.to_string_lossy())),
        }
    }
    if std::process::id() == 1 && is_for_init(&args) {
        args = vec!["run".to_string()];
    }
    let (config, action) = parse(&args).unwrap_or_else(|message| usage(&message));
    let config = config.unwrap_or_else(|| PathBuf::from(CONFIG));
    exit(match action {
        CliAction::Print(text) => cli::print(&text).into(),
        CliAction::Run { background, servers } => {
            daemon::run(daemon::Options { config_path: config, background, servers }).into()
        }
        CliAction::Check => cli::check::check(&config).into(),
        CliAction::Send(command, format) => cli::send_command(&config, &command, format).into(),
        CliAction::Init(system) => cli::init::init(&system, &config).into(),
        CliAction::Sha256(file) => cli::sha256(&file).into(),
        CliAction::Work => bootagent::work::run(),
        CliAction::Watch(words) => bootagent::work::watch::run(&words),
    })
}

/// Whether these are no arguments for this program: the kernel passes what it does not know on its command line to init.
fn is_for_init(args: &[String]) -> bool {
    match args.first() {
        None => true,
        Some(first) => !first.starts_with('-') && topic(first).is_none(),
    }
}

/// Prints what is wrong, and exits with 2.
fn usage(message: &str) -> ! {
    eprintln!("bootagent: {message}");
    exit(2)
}

/// The configuration file, where there is an option for it, and what to do.
///
/// # Errors
/// When the command line is wrong, with what to do about it.
fn parse(args: &[String]) -> Result<(Option<PathBuf>, CliAction), Error> {
    if args.len() == 1 && args[0] == "work" {
        return Ok((None, CliAction::Work));
    }
    if let Some((WATCH, words)) = args.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        return Ok((None, CliAction::Watch(words.to_vec())));
    }
    let mut options = getopts::Options::new();
    for (short, long, value) in OPTIONS {
        options.opt(short, long, "", "", value, Occur::Optional);
    }
    let options = options.parse(args).map_err(|error| wrong_option(&error))?;
    let mut words = options.free.iter().map(String::as_str);
    let Some(word) = words.next() else {
        return match (options.opt_present("h"), options.opt_present("V")) {
            (true, _) => Ok((None, CliAction::Print(overview()))),
            (_, true) => Ok((None, CliAction::Print(version()))),
            _ => Err(format_error!("want a command\n\n{}", overview().trim_end())),
        };
    };
    let topic = topic(word).ok_or_else(|| unknown("command", word, &COMMANDS.map(|topic| topic.word)))?;
    if options.opt_present("h") {
        return Ok((None, CliAction::Print(help(topic))));
    }
    for (short, long) in [('d', "-d"), ('S', "-S"), ('j', "--json"), ('V', "--version")] {
        if options.opt_present(&short.to_string()) && !topic.options.contains(short) {
            return Err(format_error!("\"{word}\" knows no option {long}; see \"bootagent help {word}\""));
        }
    }
    let (least, most) = topic.arguments;
    let rest: Vec<&str> = words.collect();
    if rest.len() < least {
        return Err(format_error!("\"{word}\" wants an argument: bootagent {word} {}", topic.synopsis));
    }
    if rest.len() > most {
        return Err(format_error!("\"{word}\" has one argument too many: \"{}\"", rest[most]));
    }
    let action = action(word, rest.first().copied(), &options)?;
    Ok((options.opt_str("c").map(absolute).transpose()?, action))
}

/// What to do for a command, its argument and its options, of all of which it has the right number.
fn action(word: &str, argument: Option<&str>, options: &getopts::Matches) -> Result<CliAction, Error> {
    let format = if options.opt_present("j") { OutputFormat::Json } else { OutputFormat::Text };
    let send = |command| Ok(CliAction::Send(command, format));
    match (word, argument) {
        ("run", _) => {
            let servers = options.opt_str("S").map(|list| parse_servers(&list)).transpose();
            let servers = servers.map_err(|cause| format_error!("-S: {cause}"))?;
            Ok(CliAction::Run { background: options.opt_present("d"), servers })
        }
        ("check", _) => Ok(CliAction::Check),
        ("status", agent) => send(Command::Status(agent.map(name).transpose()?)),
        ("start", Some(agent)) => send(Command::Start(name(agent)?)),
        ("stop", Some(agent)) => send(Command::Stop(name(agent)?)),
        ("restart", Some(agent)) => send(Command::Restart(name(agent)?)),
        ("reexec", _) => send(Command::Reexec),
        ("report", _) => send(Command::Report),
        ("jobs", _) => send(Command::Jobs),
        ("init", Some(system)) if cli::init::SYSTEMS.contains(&system) => Ok(CliAction::Init(system.to_string())),
        ("init", Some(system)) => Err(unknown("init system", system, &cli::init::SYSTEMS).into()),
        ("sha256", Some(file)) => Ok(CliAction::Sha256(PathBuf::from(file))),
        ("version", _) => Ok(CliAction::Print(version())),
        ("help", Some(word)) => match topic(word) {
            Some(topic) => Ok(CliAction::Print(help(topic))),
            None => Err(unknown("command", word, &COMMANDS.map(|topic| topic.word)).into()),
        },
        _ => Ok(CliAction::Print(overview())),
    }
}

fn wrong_option(error: &getopts::Fail) -> Error {
    use getopts::Fail;
    let dashed = |name: &str| if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") };
    let text = match error {
        Fail::UnrecognizedOption(name) => format!("there is no option {}", dashed(name)),
        Fail::ArgumentMissing(name) => format!("{} wants a value", dashed(name)),
        Fail::OptionDuplicated(name) => format!("{} is given more than once", dashed(name)),
        Fail::UnexpectedArgument(name) => format!("{} takes no value", dashed(name)),
        Fail::OptionMissing(name) => format!("{} is missing", dashed(name)),
    };
    format_error!("{text}; see \"bootagent help\"")
}

fn topic(word: &str) -> Option<&'static CommandHelp> {
    COMMANDS.iter().find(|topic| topic.word == word)
}

fn name(text: &str) -> Result<Name, Error> {
    if is_name(text) {
        return Ok(text.into());
    }
    Err(format_error!(
        "\"{}\" cannot be the name of an agent: want 1 to 50 of A-Z a-z 0-9 _ -",
        sanitize(text, SHOWN_MAX)
    ))
}

/// The path without regard to the working directory, which the daemon leaves.
fn absolute(path: String) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|error| format_error!("-c \"{path}\": {error}"))
}

fn version() -> String {
    format!("bootagent-{}-{} ({})\n", env!("CARGO_PKG_VERSION"), env!("BOOTAGENT_ARCH"), env!("BOOTAGENT_REVISION"))
}

fn overview() -> String {
    let mut text = "Usage: bootagent [-c FILE] COMMAND ...\n\n".to_string();
    for topic in &COMMANDS {
        let usage = format!("{} {}", topic.word, topic.synopsis);
        let line = if usage.len() > 26 {
            format!("  {usage}\n{:28}  {}\n", "", topic.brief)
        } else {
            format!("  {usage:26}  {}\n", topic.brief)
        };
        text.push_str(&line);
    }
    text.push_str("\n  -c, --config FILE  the configuration; ");
    text.push_str(CONFIG);
    text.push_str(
        " by default\n  -h, --help         this, or more about the command it stands with\n  \
         -V, --version      the version\n\n\
         Exit codes: 0 done, 1 it did not work, 2 usage, 3 the daemon is not running.\n",
    );
    text
}

fn help(topic: &CommandHelp) -> String {
    let mut text = format!("Usage: bootagent [-c FILE] {} {}", topic.word, topic.synopsis);
    text.truncate(text.trim_end().len());
    let mut brief = topic.brief.chars();
    let first = brief.next().map_or(' ', |c| c.to_ascii_uppercase());
    text.push_str(&format!("\n\n{first}{}.\n", brief.as_str()));
    if !topic.more.is_empty() {
        text.push_str(topic.more);
    }
    text
}

/// The error for a `word` that is none of `known`, with the nearest of them or all.
fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let mut text = format!("there is no {what} \"{}\"", sanitize(word, SHOWN_MAX));
    let nearest = known.iter().min_by_key(|known| distance(word, known));
    match nearest {
        Some(nearest) if distance(word, nearest) <= 2.min(word.len() / 2) => {
            text.push_str(&format!("; did you mean \"{nearest}\"?"));
        }
        _ => text.push_str(&format!("; there are {}", known.join(", "))),
    }
    text
}

/// The edit distance: how many bytes must be changed, inserted or removed to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Option<PathBuf>, CliAction), Error> {
        parse(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn commands_and_their_options_in_any_order() {
        let json = |name: Option<&str>| CliAction::Send(Command::Status(name.map(Into::into)), OutputFormat::Json);
        for (line, want) in [
            ("check", CliAction::Check),
            ("status --json web", json(Some("web"))),
            ("status web --json", json(Some("web"))),
            ("--json status", json(None)),
            ("status", CliAction::Send(Command::Status(None), OutputFormat::Text)),
            ("restart web", CliAction::Send(Command::Restart("web".into()), OutputFormat::Text)),
            ("jobs", CliAction::Send(Command::Jobs, OutputFormat::Text)),
            ("run", CliAction::Run { background: false, servers: None }),
            ("run -d", CliAction::Run { background: true, servers: None }),
            ("run -S a:1,b:2", CliAction::Run { background: false, servers: parse_servers("a:1,b:2").ok() }),
            ("init sysv", CliAction::Init("sysv".into())),
            ("sha256 -- -x", CliAction::Sha256("-x".into())),
            ("work", CliAction::Work),
        ] {
            assert_eq!(parsed(line).map(|(_, action)| action), Ok(want), "{line}");
        }
        for line in ["-c /x/y.json check", "check -c /x/y.json", "check --config=/x/y.json"] {
            assert_eq!(parsed(line), Ok((Some("/x/y.json".into()), CliAction::Check)), "{line}");
        }
        let (config, _) = parsed("check -c y.json").unwrap();
        assert!(config.is_some_and(|path| path.is_absolute() && path.ends_with("y.json")));
    }

    #[test]
    fn misuse_says_what_is_wrong() {
        for (line, want) in [
            ("", "want a command"),
            ("stauts", "there is no command \"stauts\"; did you mean \"status\"?"),
            ("dance", "there is no command \"dance\"; there are run, check,"),
            ("help strat", "did you mean \"start\"?"),
            ("init sysvv", "there is no init system \"sysvv\"; did you mean \"sysv\"?"),
            ("init", "\"init\" wants an argument: bootagent init sysv|openrc"),
            ("start", "\"start\" wants an argument: bootagent start NAME"),
            ("start a b", "\"start\" has one argument too many: \"b\""),
            ("check x", "too many"),
            ("start ../x", "cannot be the name"),
            ("check -d", "\"check\" knows no option -d"),
            ("report --json", "\"report\" knows no option --json"),
            ("status --jsn", "there is no option --jsn"),
            ("status -x", "there is no option -x"),
            ("check -c", "-c wants a value"),
            ("check -c a --config b", "--config is given more than once"),
            ("status --json=x", "--json takes no value"),
            ("run -S a", "-S: server \"a\": want host:port"),
            ("work x", "there is no command"),
        ] {
            let got = parsed(line).expect_err(line);
            assert!(got.contains(want), "{line}: {got}");
        }
    }

    #[test]
    fn help_is_there_for_every_command() {
        let overview = overview();
        for topic in &COMMANDS {
            assert!(overview.contains(&format!("\n  {} ", topic.word)), "{}", topic.word);
            for line in [format!("help {}", topic.word), format!("{} --help", topic.word), format!("-h {}", topic.word)]
            {
                let (_, action) = parsed(&line).unwrap();
                let CliAction::Print(text) = action else { panic!("{line}: {action:?}") };
                assert!(text.starts_with(&format!("Usage: bootagent [-c FILE] {}", topic.word)), "{line}: {text}");
            }
        }
        for line in ["help", "--help", "-h"] {
            assert_eq!(parsed(line), Ok((None, CliAction::Print(overview.clone()))));
        }
        assert!(overview.lines().all(|line| line.len() <= 80), "{overview}");
    }

    #[test]
    fn arguments_of_the_kernel_to_init_are_known() {
        for (args, want) in [(&[][..], true), (&["auto", "x"], true), (&["run"], false), (&["-c", "x"], false)] {
            let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
            assert_eq!(is_for_init(&args), want, "{args:?}");
        }
    }

    #[test]
    fn every_command_and_option_is_documented() {
        let readme = include_str!("../README.md");
        let manual = include_str!("../man/bootagent.8");
        for topic in &COMMANDS {
            assert!(readme.contains(topic.word), "README.md: {}", topic.word);
            assert!(manual.contains(&format!("\n.It Cm {}", topic.word)), "bootagent.8: {}", topic.word);
        }
        for option in
            ["-c", "--config", "-d", "--background", "-S", "--servers", "--json", "-h", "--help", "-V", "--version"]
        {
            assert!(readme.contains(option), "README.md: {option}");
            let marked = option.strip_prefix("--").map_or(format!("Fl {}", &option[1..]), |long| format!("-{long}"));
            assert!(manual.contains(&marked), "bootagent.8: {option}");
        }
    }
}
