//! The files that an operator writes: `bootagent.json` becomes a `Config`, `agents.d/*.json` become `Spec`s.
//!
//! Every error of every file is collected, each with its file and place. A bad file affects only what it defines: its agent
//! keeps the last good text of the file, where the caller has one. Texts come in and values go out; `host::config_files`
//! reads the files and judges who may write them.

use std::fmt::{self, Display, Formatter};
use std::iter::successors;
use std::ops::Deref;
use std::time::Duration;

use crate::error::Error;
use crate::kernel::Level;
use crate::model::basis::satisfies;
use crate::model::runtime_directory::shared_directory;
use crate::model::schedule::{parse_servers, Server};
use crate::model::spec::{is_host_name, is_name, Labels, Spec};
use crate::model::url::Url;
use crate::text::{sanitize, visible, MESSAGE_MAX};
use crate::wire::control::SOCKET;
use crate::wire::definition::{absolute, definition, set, size_above_0};
use crate::wire::json::{self, Fields, Value};

/// The longest `run_dir`, in bytes: a `sockaddr_un` has 108 bytes for the path of the control socket, of which a slash, the
/// socket's name and the final NUL take their part.
const MAX_RUN_DIR: usize = 108 - 1 - SOCKET.len() - 1;

/// An error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name as the reader knows it.
    pub file: Box<str>,
    /// Line and column, both from 1, where the file is not JSON.
    pub place: Option<(u32, u32)>,
    /// What is wrong, after the path of the value where it is about one.
    pub message: Box<str>,
}

impl ConfigError {
    /// An error of the file as a whole, or of a value in it.
    pub fn new(file: &str, message: &str) -> ConfigError {
        ConfigError { file: file.into(), place: None, message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Anybody may have chosen the file's name, so it may hold what a terminal must not see.
        f.write_str(&sanitize(&self.file, 4 * MESSAGE_MAX))?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", visible(&self.message))
    }
}

/// The daemon's own configuration, `bootagent.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `svrlist`: the default servers; when empty, those of the command line or the compiled-in ones count.
    pub servers: Vec<Server>,
    /// Reporting interval, above 0.
    pub step: Duration,
    /// The first report is delayed by a random part of this.
    pub splay: Duration,
    /// Reported instead of gethostname(2).
    pub hostname: Option<Box<str>>,
    /// Where agents are defined.
    pub agents_dir: Box<str>,
    /// Where durable state is kept.
    pub state_dir: Box<str>,
    /// Where state of this boot and the control socket are.
    pub run_dir: Box<str>,
    /// Where the daemon and its agents log to.
    pub log_dir: Box<str>,
    /// The least important level that is logged.
    pub log_level: Level,
    /// Interval of the checks, above 0.
    pub checksecs: Duration,
    /// No agent is restarted before this has passed since its end.
    pub restartsecs: Duration,
    /// An end before this uptime is an abnormal event.
    pub windowsecs: Duration,
    /// More abnormal events in a row than this are fatal.
    pub retries: u32,
    /// Largest package, bytes.
    pub max_download: u64,
    /// Download speed limit, bytes per second.
    pub download_rate: Option<u64>,
    /// The proxy that packages come by over http, `host:port`.
    pub proxy: Option<Box<str>>,
    /// The user that reads from the network; `None`: each helper gets a user id of its own.
    pub helper_user: Option<Box<str>>,
    /// Control group to work in, instead of the one that the host offers.
    pub cgroup: Option<Box<str>>,
    /// File with the key shared with the servers.
    pub key_file: Option<Box<str>>,
    /// minisign public keys, one of which must have signed a package; empty: packages need no signature.
    pub trusted_keys: Vec<Box<str>>,
    /// What servers are told about the host, ordered by name.
    pub labels: Labels,
}

/// What has changed in the file since a daemon read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The labels alone: a reload takes them over.
    Labels,
    /// Something that only another daemon takes over.
    Other,
}

impl Change {
    /// The command by which the daemon takes it over.
    pub const fn command(self) -> &'static str {
        match self {
            Change::Labels => "reload",
            Change::Other => "reexec",
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            servers: Vec::new(),
            step: Duration::from_secs(600),
            splay: Duration::from_secs(30),
            hostname: None,
            agents_dir: "/etc/bootagent/agents.d".into(),
            state_dir: "/var/lib/bootagent".into(),
            run_dir: "/run/bootagent".into(),
            log_dir: "/var/log/bootagent".into(),
            log_level: Level::Info,
            checksecs: Duration::from_secs(60),
            restartsecs: Duration::from_secs(180),
            windowsecs: Duration::from_secs(900),
            retries: 3,
            max_download: 512 << 20,
            download_rate: None,
            proxy: None,
            helper_user: None,
            cgroup: None,
            key_file: None,
            trusted_keys: Vec::new(),
            labels: Labels::new(),
        }
    }
}

impl Config {
    /// The directories, each with its key.
    fn directories(&mut self) -> [(&'static str, &mut Box<str>); 4] {
        [
            ("agents_dir", &mut self.agents_dir),
            ("state_dir", &mut self.state_dir),
            ("run_dir", &mut self.run_dir),
            ("log_dir", &mut self.log_dir),
        ]
    }

    /// The keys of the file that ask for signatures, as they are remembered; empty when none does.
    pub fn guards(&self) -> String {
        let asking = [("key_file", self.key_file.is_some()), ("trusted_keys", !self.trusted_keys.is_empty())];
        asking.iter().filter(|(_, asks)| *asks).map(|(key, _)| *key).collect::<Vec<_>>().join(" ")
    }

    /// Whether it asks for all the signatures that `guards` remembers, see `model::basis::satisfies`.
    pub fn asks_for(&self, guards: &str) -> bool {
        satisfies(&self.guards(), guards)
    }

    /// Takes over what a running daemon can take over of the file as it is now, which is its labels. Returns what has changed;
    /// `None`: nothing.
    pub fn take_over(&mut self, new: &Config) -> Option<Change> {
        let labels = std::mem::replace(&mut self.labels, new.labels.clone());
        if self != new {
            return Some(Change::Other);
        }
        (self.labels != labels).then_some(Change::Labels)
    }

    /// The defaults with the directories of this one.
    pub fn only_directories(self) -> Config {
        let Config { agents_dir, state_dir, run_dir, log_dir, .. } = self;
        Config { agents_dir, state_dir, run_dir, log_dir, ..Config::default() }
    }
}

/// Reads `bootagent.json`, called `file` in messages. A wrong value is replaced by the default. Of a text that is not JSON
/// only the directories are used, so that the last good copy and the daemon are still found. The daemon must not run on a
/// configuration with errors, as it may trust more than was meant.
pub fn read_config(file: &str, text: &[u8]) -> (Config, Vec<ConfigError>) {
    let mut config = Config::default();
    let value = match read_text(file, text) {
        Ok(value) => value,
        Err(problem) => {
            let text = String::from_utf8_lossy(text);
            for (key, slot) in config.directories() {
                if let Some(path) = directory(&text, key) {
                    *slot = path;
                }
            }
            return (config, vec![problem]);
        }
    };
    let mut faults = Vec::new();
    if let Some(fields) = Fields::of(&value, &mut faults) {
        fill(&mut config, fields);
    }
    (config, problems(file, &faults))
}

/// The absolute path that follows this key in a text that is not JSON.
fn directory(text: &str, key: &str) -> Option<Box<str>> {
    let key = format!("\"{key}\"");
    let mut texts = successors(text.split_once(&key), |(_, behind)| behind.split_once(&key));
    texts.find_map(|(_, rest)| {
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        let end = rest.strip_prefix('"')?.find('"')?;
        Some(absolute(&json::parse(&rest[..end + 2], 0).ok()?)?.into())
    })
}

fn fill(config: &mut Config, mut fields: Fields<'_, '_>) {
    match fields.text("svrlist").map(parse_servers) {
        Some(Ok(servers)) => config.servers = servers,
        Some(Err(message)) => fields.fault("svrlist", &message),
        None => {}
    }
    for (key, slot) in config.directories() {
        set(slot, fields.read(key, "an absolute path", absolute).map(Into::into));
    }
    if config.run_dir.len() > MAX_RUN_DIR {
        fields.fault("run_dir", &format!("longer than {MAX_RUN_DIR} bytes, so that no socket can be made in it"));
    }
    if config.run_dir.trim_end_matches('/') == config.state_dir.trim_end_matches('/') {
        fields.fault("run_dir", "want another directory than state_dir");
    }

    set(&mut config.step, fields.seconds_above_0("step"));
    set(&mut config.checksecs, fields.seconds_above_0("checksecs"));
    set(&mut config.splay, fields.seconds("splay"));
    set(&mut config.restartsecs, fields.seconds("restartsecs"));
    set(&mut config.windowsecs, fields.seconds("windowsecs"));
    set(&mut config.retries, fields.integer("retries", 0, u32::MAX.into()).map(|retries| retries as u32));

    let size = "a size above 0 such as \"512M\"";
    set(&mut config.max_download, fields.read("max_download", size, size_above_0));
    config.download_rate = fields.read("download_rate", size, size_above_0);
    config.proxy = fields.read("proxy", "the host:port of an HTTP proxy", proxy).map(Into::into);

    let levels = Level::ALL.map(|level| (level.name(), level));
    set(&mut config.log_level, fields.word("log_level", &levels));
    config.hostname = fields.read("hostname", "1 to 253 of A-Z a-z 0-9 . _ -", host_name).map(Into::into);
    config.helper_user = fields.read("helper_user", "a user name", word).map(Into::into);
    config.cgroup = fields.read("cgroup", "the path of a control group", group).map(Into::into);
    config.key_file = fields.read("key_file", "an absolute path", absolute).map(Into::into);

    let key = "a minisign public key, \"RW\" and 54 more of base64";
    let keys = fields.list("trusted_keys", "an array of minisign public keys", key, |key| {
        json::text(key).filter(|key| is_key(key)).map(Into::into)
    });
    config.trusted_keys = keys.unwrap_or_default();
    config.labels = fields.inside("labels").map_or(Labels::new(), labels);
    fields.refuse_unknown();
}

/// The most labels of a host, and the longest value of one, bytes.
const LABELS_MAX: usize = 32;
const LABEL_MAX: usize = 128;

/// Reads the labels.
fn labels(mut fields: Fields<'_, '_>) -> Labels {
    const WANT: &str = "a text of at most 128 bytes on one line";
    let mut labels = Labels::new();
    let object = fields.members();
    if object.len() > LABELS_MAX {
        fields.fault("", "want at most 32 labels");
    }
    for (name, value) in object {
        match json::text(value) {
            _ if !is_name(name) => {
                fields.fault(&sanitize(name, LABEL_MAX), "want a name of 1 to 50 of A-Z a-z 0-9 _ -")
            }
            // A text that is changed by being sanitized has control or invisible characters, or white space to be lost.
            Some(text) if text.len() <= LABEL_MAX && sanitize(text, LABEL_MAX) == text => {
                labels.push((name.as_str().into(), text.into()));
            }
            _ => fields.wrong(name, WANT, value),
        }
    }
    labels
}

/// A name without white space and control characters, which would break a line or a column.
fn host_name(value: &Value) -> Option<&str> {
    json::text(value).filter(|text| is_host_name(text))
}

fn word(value: &Value) -> Option<&str> {
    json::text(value)
        .filter(|text| (1..=255).contains(&text.len()) && !text.contains(|c: char| c.is_whitespace() || c.is_control()))
}

/// The address of a proxy.
fn proxy(value: &Value) -> Option<&str> {
    json::text(value).filter(|text| {
        let url = Url::parse(&format!("http://{text}"));
        url.is_ok_and(|url| url.port.is_some()) && !text.contains(['/', '?', '#', '@'])
    })
}

fn group(value: &Value) -> Option<&str> {
    json::text(value).filter(|path| path.bytes().any(|byte| byte != b'/') && path.split('/').all(|part| part != ".."))
}

fn is_key(text: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    text.len() == 56 && text.starts_with("RW") && text.bytes().all(base64)
}

/// Reads one definition out of a file that messages call `file`. In a tar package (`in_tar`) programs may be relative to the
/// package. A recorded definition is read without `strict`, as a newer binary may have recorded it.
///
/// # Errors
/// All errors of the definition.
pub fn read_definition(file: &str, text: &[u8], in_tar: bool, strict: bool) -> Result<Spec, Vec<ConfigError>> {
    let value = read_text(file, text).map_err(|problem| vec![problem])?;
    let mut faults = Vec::new();
    let spec = Fields::of(&value, &mut faults).and_then(|fields| definition(fields, in_tar, strict));
    spec.ok_or_else(|| problems(file, &faults))
}

/// Why there is no text of a file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// It cannot be read just now, so nobody knows what it says.
    Unreadable(Error),
    /// It must not be used: others can write it, it is too large, or it is no regular file.
    Refused(Error),
}

impl Deref for SourceError {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            SourceError::Unreadable(why) | SourceError::Refused(why) => why,
        }
    }
}

impl Display for SourceError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Error {
        match error {
            SourceError::Unreadable(why) | SourceError::Refused(why) => why,
        }
    }
}

/// A file of `agents.d`, as the caller found it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name in the directory.
    pub file: Box<str>,
    /// What is in it, or why it cannot be read.
    pub text: Result<Vec<u8>, SourceError>,
    /// What was in it when it was last good, where that is known.
    pub good: Option<Vec<u8>>,
}

/// An agent that a file defines.
#[derive(Clone, Debug, PartialEq)]
pub struct Defined {
    /// The name of its file in the directory.
    pub file: Box<str>,
    /// Its definition.
    pub spec: Box<Spec>,
    /// The file is bad, and this is its last good definition.
    pub outdated: bool,
}

/// The definitions and errors of a whole `agents.d`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agents {
    /// The agents, each name once, in byte order of file names.
    pub agents: Vec<Defined>,
    /// All errors, in the same order.
    pub problems: Vec<ConfigError>,
}

/// Reads the files of a directory that messages call `directory`, and puts them in byte order of their names. Of two files with
/// the same `name` the later one in byte order is the error. A file with any error counts with its last good content, unless
/// another file defines that agent now.
pub fn read_agents(directory: &str, sources: &mut [Source]) -> Agents {
    sources.sort_unstable_by(|a, b| a.file.cmp(&b.file));
    let mut read = Agents::default();
    let mut bad = Vec::new();
    for source in &*sources {
        let label = format!("{}/{}", directory.trim_end_matches('/'), source.file);
        let spec = match &source.text {
            Ok(text) => read_definition(&label, text, false, true),
            Err(message) => Err(vec![ConfigError::new(&label, message)]),
        };
        let spec = spec.and_then(|spec| match read.clash(&spec) {
            None => Ok(spec),
            Some(message) => Err(vec![ConfigError::new(&label, &message)]),
        });
        match spec {
            Ok(spec) => read.agents.push(Defined { file: source.file.clone(), spec: Box::new(spec), outdated: false }),
            Err(problems) => {
                read.problems.extend(problems);
                bad.push(source);
            }
        }
    }
    for source in bad {
        let spec = source.good.as_ref().and_then(|text| read_definition(&source.file, text, false, false).ok());
        if let Some(spec) = spec.filter(|spec| read.find(&spec.name).is_none()) {
            let at = read.agents.partition_point(|agent| agent.file < source.file);
            read.agents.insert(at, Defined { file: source.file.clone(), spec: Box::new(spec), outdated: true });
        }
    }
    read
}

impl Agents {
    /// The agent of this name.
    pub fn find(&self, name: &str) -> Option<&Defined> {
        self.agents.iter().find(|agent| &*agent.spec.name == name)
    }

    /// What a definition has in common with one of these and must not.
    fn clash(&self, spec: &Spec) -> Option<String> {
        if let Some(first) = self.find(&spec.name) {
            return Some(format!("name: \"{}\" is already defined in {}", spec.name, first.file));
        }
        self.agents.iter().find_map(|agent| {
            let shared = shared_directory(&spec.runtime_directory, &agent.spec.runtime_directory)?;
            Some(format!("runtime_directory: \"{shared}\" is, holds, or is in one of {}", agent.file))
        })
    }
}

fn read_text(file: &str, text: &[u8]) -> Result<Value, ConfigError> {
    json::parse_bytes(text, json::MAX_DEPTH).map_err(|syntax| ConfigError {
        file: file.into(),
        place: Some((syntax.line, syntax.column)),
        message: syntax.message,
    })
}

// Messages quote keys and values as they are written, and these may hold what a terminal must not see.
fn problems(file: &str, faults: &[String]) -> Vec<ConfigError> {
    faults.iter().map(|fault| ConfigError::new(file, &sanitize(fault, MESSAGE_MAX))).collect()
}

#[cfg(test)]
mod tests;
