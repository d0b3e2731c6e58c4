//! The command line: options (getopts), usage, and which command gets them.
//!
//! Options may stand before or after the command, and each is accepted only by the commands that know it. The arguments
//! become a `CliAction` here, and other modules do it: `run` is `daemon`'s, the hidden `work` and `watch` are `work`'s, and
//! everything else is `cli`'s. Exit codes: 0 done, 1 it did not work, 2 usage, 3 the daemon is not running.

use std::path::PathBuf;
use std::process::exit;

use bootagent::cli::completion;
use bootagent::cli::help::{
    help, overview, topic, unknown, unknown_command, CliOption, CommandHelp, OPTIONS, SHOWN_MAX,
};
use bootagent::cli::{self, OutputFormat};
use bootagent::daemon;
use bootagent::host::config_files::CONFIG;
use bootagent::model::command::Command;
use bootagent::model::schedule::parse_servers;
use bootagent::model::spec::{is_name, Name};
use bootagent::text::{sanitize, suggestion};
use bootagent::work::watch::WORD as WATCH;
use bootagent::{error::Error, format_error};
use getopts::{HasArg, Occur};

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
    Status {
        name: Option<Name>,
        format: OutputFormat,
        watch: bool,
    },
    /// The command `word` for these agents; `None`: for all.
    Agents(&'static str, Option<Vec<Name>>),
    Logs {
        name: Option<Name>,
        lines: usize,
        follow: bool,
    },
    Init(String),
    /// What can follow these words of the command line.
    Complete(Vec<String>),
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
    let ended = match action {
        CliAction::Print(text) => cli::print(&text),
        CliAction::Run { background, servers } => {
            exit(daemon::run(daemon::Options { config_path: config, background, servers }).into())
        }
        CliAction::Check => cli::check::check(&config),
        CliAction::Send(command, format) => cli::send_command(&config, &command, format),
        CliAction::Status { name, format, watch } => cli::show_status(&config, name, format, watch),
        CliAction::Agents(word, names) => {
            let command = match word {
                "start" => Command::Start,
                "stop" => Command::Stop,
                "reload" => Command::Reload,
                _ => Command::Restart,
            };
            cli::send_to_agents(&config, names, command)
        }
        CliAction::Logs { name, lines, follow } => cli::logs::logs(&config, name.as_deref(), lines, follow),
        CliAction::Complete(words) => completion::complete(&words, CONFIG),
        CliAction::Init(system) => cli::init::init(&system, &config),
        CliAction::Sha256(file) => cli::sha256(&file),
        CliAction::Work => bootagent::work::run(),
        CliAction::Watch(words) => exit(bootagent::work::watch::run(&words)),
    };
    exit(ended.err().unwrap_or(0).into())
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
    match args.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        Some((WATCH, words)) => return Ok((None, CliAction::Watch(words.to_vec()))),
        Some((completion::WORD, words)) => return Ok((None, CliAction::Complete(words.to_vec()))),
        _ => {}
    }
    let mut options = getopts::Options::new();
    for option in &OPTIONS {
        let value = if option.value.is_empty() { HasArg::No } else { HasArg::Yes };
        options.opt(&option.short.to_string(), option.long, "", "", value, Occur::Optional);
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
    let topic = topic(word).ok_or_else(|| unknown_command(word))?;
    if options.opt_present("h") {
        return Ok((None, CliAction::Print(help(topic))));
    }
    for CliOption { short, long, .. } in &OPTIONS {
        if !"ch".contains(*short) && options.opt_present(long) && !topic.options.contains(*short) {
            return Err(format_error!("\"{word}\" knows no option -{short}/--{long}; see \"bootagent help {word}\""));
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
    let action = match topic.word {
        word @ ("start" | "stop" | "restart") => {
            CliAction::Agents(word, agents(word, &rest, options.opt_present("a"))?)
        }
        "reload" if !rest.is_empty() => CliAction::Agents("reload", agents("reload", &rest, false)?),
        _ => action(topic, rest.first().copied(), &options)?,
    };
    Ok((options.opt_str("c").map(absolute).transpose()?, action))
}

/// What to do for a command, its argument and its options, of all of which it has the right number.
fn action(command: &CommandHelp, argument: Option<&str>, options: &getopts::Matches) -> Result<CliAction, Error> {
    let format = if options.opt_present("j") { OutputFormat::Json } else { OutputFormat::Text };
    let send = |command| Ok(CliAction::Send(command, format));
    match (command.word, argument) {
        (word @ ("init" | "completion"), Some(kind)) => {
            let kinds: Vec<&str> = command.synopsis.split('|').collect();
            match kinds.contains(&kind) {
                true if word == "init" => Ok(CliAction::Init(kind.to_string())),
                true => Ok(CliAction::Print(completion::script(kind).to_string())),
                false => Err(unknown(&format!("{word} for"), kind, &kinds).into()),
            }
        }
        ("run", _) => {
            let servers = options.opt_str("S").map(|list| parse_servers(&list)).transpose();
            let servers = servers.map_err(|cause| format_error!("-S: {cause}"))?;
            Ok(CliAction::Run { background: options.opt_present("d"), servers })
        }
        ("check", _) => Ok(CliAction::Check),
        ("status", agent) => {
            let name = agent.map(name).transpose()?;
            let watch = options.opt_present("w");
            if watch && format == OutputFormat::Json {
                return Err("\"status\" takes --json or --watch, not both: --watch is for people".into());
            }
            Ok(CliAction::Status { name, format, watch })
        }
        ("logs", agent) => {
            let name = agent.map(name).transpose()?;
            let lines = options.opt_str("n").unwrap_or_else(|| "10".to_string());
            let lines = lines.parse().map_err(|_| format_error!("-n: want a number of lines, got \"{lines}\""))?;
            Ok(CliAction::Logs { name, lines, follow: options.opt_present("f") })
        }
        ("reload", _) => send(Command::Reread),
        ("example", _) => Ok(CliAction::Print(cli::EXAMPLE.to_string())),
        ("reexec", _) => send(Command::Reexec),
        ("report", _) => send(Command::Report),
        ("jobs", _) => send(Command::Jobs),
        ("sha256", Some(file)) => Ok(CliAction::Sha256(PathBuf::from(file))),
        ("version", _) => Ok(CliAction::Print(version())),
        ("help", Some(word)) => {
            let asked = topic(word).ok_or_else(|| unknown_command(word))?;
            Ok(CliAction::Print(help(asked)))
        }
        _ => Ok(CliAction::Print(overview())),
    }
}

/// The agents that the arguments name; `None`: all.
fn agents(word: &str, arguments: &[&str], all: bool) -> Result<Option<Vec<Name>>, Error> {
    match (arguments, all) {
        ([], true) => Ok(None),
        ([], false) => Err(format_error!("\"{word}\" wants an agent: bootagent {word} NAME...|--all")),
        (_, true) => Err(format_error!("\"{word}\" takes either names or --all")),
        (names, false) => names.iter().map(|text| name(text)).collect::<Result<_, _>>().map(Some),
    }
}

fn wrong_option(error: &getopts::Fail) -> Error {
    use getopts::Fail;
    let dashed = |name: &str| if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") };
    let text = match error {
        Fail::UnrecognizedOption(name) => {
            let known: Vec<String> = OPTIONS.iter().map(|option| format!("--{}", option.long)).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let meant = suggestion(&dashed(name), &known).map(|meant| format!("; {meant}"));
            format!("there is no option {}{}", dashed(name), meant.unwrap_or_default())
        }
        Fail::ArgumentMissing(name) => format!("{} wants a value", dashed(name)),
        Fail::OptionDuplicated(name) => format!("{} is given more than once", dashed(name)),
        Fail::UnexpectedArgument(name) => format!("{} takes no value", dashed(name)),
        Fail::OptionMissing(name) => format!("{} is missing", dashed(name)),
    };
    format_error!("{text}; see \"bootagent help\"")
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

#[cfg(test)]
mod tests {
    use bootagent::cli::help::COMMANDS;

    use super::*;

    fn parsed(line: &str) -> Result<(Option<PathBuf>, CliAction), Error> {
        parse(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn commands_and_their_options_in_any_order() {
        let status =
            |name: Option<&str>, format, watch| CliAction::Status { name: name.map(Into::into), format, watch };
        let json = |name: Option<&str>| status(name, OutputFormat::Json, false);
        let logs = |name: Option<&str>, lines, follow| CliAction::Logs { name: name.map(Into::into), lines, follow };
        for (line, want) in [
            ("check", CliAction::Check),
            ("status --json web", json(Some("web"))),
            ("status web --json", json(Some("web"))),
            ("--json status", json(None)),
            ("status", status(None, OutputFormat::Text, false)),
            ("status --watch web", status(Some("web"), OutputFormat::Text, true)),
            ("restart web", CliAction::Agents("restart", Some(vec!["web".into()]))),
            ("start web db", CliAction::Agents("start", Some(vec!["web".into(), "db".into()]))),
            ("stop --all", CliAction::Agents("stop", None)),
            ("logs", logs(None, 10, false)),
            ("logs web -f -n 3", logs(Some("web"), 3, true)),
            ("reload", CliAction::Send(Command::Reread, OutputFormat::Text)),
            ("reload web db", CliAction::Agents("reload", Some(vec!["web".into(), "db".into()]))),
            ("complete status -", CliAction::Complete(vec!["status".into(), "-".into()])),
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
            ("init sysvv", "there is no init for \"sysvv\"; did you mean \"sysv\"?"),
            ("init", "\"init\" wants an argument: bootagent init sysv|openrc"),
            ("stat", "did you mean \"status\"?"),
            ("start", "\"start\" wants an agent: bootagent start NAME...|--all"),
            ("start a --all", "either names or --all"),
            ("status --json --watch", "--json or --watch, not both"),
            ("status a b", "\"status\" has one argument too many: \"b\""),
            ("logs -n x", "-n: want a number of lines, got \"x\""),
            ("completion powershell", "there are bash, zsh, fish"),
            ("check x", "too many"),
            ("start ../x", "cannot be the name"),
            ("check -d", "\"check\" knows no option -d/--background"),
            ("report --json", "\"report\" knows no option -j/--json"),
            ("status --jsn", "there is no option --jsn; did you mean \"--json\"?"),
            ("logs --foll", "there is no option --foll; did you mean \"--follow\"?"),
            ("st", "there is no command \"st\"; did you mean \"status\" or \"start\" or \"stop\"?"),
            ("status -x", "there is no option -x; see"),
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
                assert!(text.lines().all(|line| line.len() <= 80), "{text}");
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
        assert!(OPTIONS[0].meaning.contains(CONFIG));
        for topic in &COMMANDS {
            assert!(readme.contains(topic.word), "README.md: {}", topic.word);
            assert!(manual.contains(&format!("\n.It Cm {}", topic.word)), "bootagent.8: {}", topic.word);
        }
        for option in &OPTIONS {
            assert!(readme.contains(&format!("--{}", option.long)), "README.md: {}", option.long);
            assert!(manual.contains(&format!("-{}", option.long)), "bootagent.8: {}", option.long);
        }
    }
}
