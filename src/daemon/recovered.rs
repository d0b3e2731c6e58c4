//! What an earlier daemon, servers and people have left on the host: records, definitions, processes.
//!
//! The store's records and the files of `agents.d` come in; what the state needs at the start goes out. The definitions are
//! read here again when the daemon rereads them, too. Processes are only looked up here: `startup` claims them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::fault_injection;
use super::records::Backups;
use crate::host::config_files;
use crate::host::disk::publish;
use crate::host::logs::Log;
use crate::host::machine::{boot_id, machine_id, uuid};
use crate::host::proc;
use crate::host::spawn::user_of;
use crate::host::store::{Store, Stored};
use crate::host::tree::Trees;
use crate::kernel::{Level, Process, Uid};
use crate::model::event::{Action, Definition, Origin};
use crate::model::record::{self, AgentRecord, Phase};
use crate::model::schedule::parse_servers;
use crate::model::spec::Account;
use crate::model::state::{runs_of_boot, Recovered};
use crate::sorted_map::SortedMap;
use crate::sys::file::read_text;
use crate::sys::{process, random};
use crate::text::{sanitize, MESSAGE_MAX};
use crate::wire::config::{self, Config, Source, SourceError};
use crate::wire::job;
use crate::work::watch;

/// Below `run_dir`: the id of the boot, written by the first daemon of that boot.
const BOOT_FILE: &str = "boot";

/// How the names of copies of good definitions begin.
const COPIES: &str = "agents.d/";

/// Where rpm and deb packages put the definitions of their agents.
const PACKAGED_DEFINITIONS: &str = "/usr/lib/bootagent";

/// The agent under whose name problems of the daemon itself are reported.
const DAEMON: &str = "bootagent";

/// The definitions that were found, and what was wrong with them.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub good: Vec<Definition>,
    pub problems: Vec<Box<str>>,
    /// Whether each file could be read, or there is a good copy of it.
    pub complete: bool,
}

/// What is on the host, as the state needs it. `reexeced`: this process was the daemon before, with another binary.
pub(super) fn recover_state(
    config: &Config,
    store: &Store,
    stored: Stored,
    backups: &mut Backups,
    reexeced: bool,
    log: &mut Log,
    actions: &mut Vec<Action>,
) -> Recovered {
    let mut recovered = Recovered { unread: store.record_owners(&stored.unread), ..Recovered::default() };
    // With another sn while its own cannot be read, this would be another host for the servers.
    if !store.is_unread_identity(&stored.unread) {
        recovered.identity = identity(stored.identity, log, actions);
    }
    let mut definitions = definitions_at_start(store, &config.agents_dir, backups);
    for record in &stored.agents {
        own_definitions(store, record, &mut definitions);
    }
    recovered.definitions = definitions.good;
    recovered.unread.definitions = !definitions.complete;
    recovered.damage.extend(definitions.problems.into_iter().map(|problem| (DAEMON.into(), problem)));
    for corrupt in stored.corrupt {
        recovered.damage.push((DAEMON.into(), corrupt.message.into()));
        recovered.damaged_jobs.extend(corrupt.job);
    }
    recovered.servers = parse_servers(&stored.settings.svrlist).unwrap_or_default();
    recovered.settings = stored.settings;
    recovered.agents = stored.agents;
    for record in stored.jobs {
        let is_over = matches!(record.phase, Phase::Done | Phase::Taken);
        let job = if is_over { None } else { job::read_text(&record.text).ok().map(Rc::new) };
        recovered.jobs.push((record, job));
    }
    let boot = fault_injection::boot_id(boot_id());
    recovered.leftovers = first_of_boot(config, &boot, log);
    // Which of their processes are there is found out by the caller.
    let runs = runs_of_boot(&boot, stored.runs, stored.stop, reexeced).into_iter();
    recovered.runs = runs.map(|run| (run, false)).collect();
    recovered
}

/// The definitions in `agents.d` at the start: without the directory, the last good ones.
fn definitions_at_start(store: &Store, dir: &str, backups: &mut Backups) -> Definitions {
    let (sources, problem) = match config_files::read_directory(Path::new(dir)) {
        Ok(Some(sources)) => (sources, None),
        failed => {
            let missing = matches!(failed, Ok(None));
            let cause = failed.err().map_or_else(|| "there is no such directory".to_string(), |why| why.to_string());
            let copies = store.good_definitions();
            if copies.is_empty() {
                let problem = (!missing).then(|| format!("{dir}: {cause}").into());
                return Definitions { good: Vec::new(), problems: problem.into_iter().collect(), complete: missing };
            }
            let sources = copies.into_iter().map(|file| Source {
                file: file.strip_prefix(COPIES).unwrap_or(&file).into(),
                text: Err(SourceError::Unreadable("cannot read its directory".into())),
                good: None,
            });
            (sources.collect(), Some(format!("{dir}: {cause}; the last good definitions are used").into()))
        }
    };
    let mut definitions = read_definitions(store, dir, sources, backups);
    definitions.problems.splice(0..0, problem);
    definitions
}

/// Whether it is a child that this process made before a reexec: dead or alive, `wait` will report its end.
pub(super) fn is_unreaped(process: Process) -> bool {
    let same = || proc::stat(process.pid).is_some_and(|stat| stat.process == process);
    process::is_child(process.pid) && (process.ticks == 0 || same())
}

/// Why a watcher reinstalled this binary, if one did.
pub(super) fn undone(run_dir: &Path) -> Option<Box<str>> {
    let path = run_dir.join(watch::UNDONE);
    let text = read_text(&path).ok()?;
    let _ = fs::remove_file(&path);
    Some(sanitize(&text, MESSAGE_MAX).into())
}

/// Sets the users that agents run as. `definitions`: the one that counts of each agent.
pub(super) fn set_users(definitions: &[Definition], trees: &mut Trees) {
    // Many agents may share a user, each look-up of which reads a file.
    let mut looked_up: SortedMap<&str, Option<Uid>> = SortedMap::new();
    for Definition { spec, .. } in definitions {
        let user = match &spec.user {
            Some(Account::Name(account)) => *looked_up.or_insert_with(&**account, || user_of(spec)),
            _ => user_of(spec),
        };
        trees.runs_as(&spec.name, user);
    }
}

/// Whether another daemon ran in this boot before; writes down that one did.
pub(super) fn first_of_boot(config: &Config, boot: &str, log: &mut Log) -> bool {
    let run_dir = Path::new(&*config.run_dir);
    let may_have_run = match read_text(&run_dir.join(BOOT_FILE)) {
        Ok(text) if text.trim() == boot => return true,
        Ok(_) => false,
        // A file that cannot be read just now may be from this boot.
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    if let Err(error) = publish(run_dir, BOOT_FILE, boot) {
        log.write(Level::Warn, &format_args!("{error}; make room, or remove what is in its place"));
    }
    may_have_run
}

/// The host's identity; a new one at the first start, and on a cloned disk.
fn identity(known: Option<record::Identity>, log: &mut Log, actions: &mut Vec<Action>) -> record::Identity {
    let machine = machine_id();
    if let Some(known) = known {
        if known.is_of(&machine) {
            return known;
        }
        log.write(Level::Warn, &"the machine-id is another one: this is a cloned disk, and the host gets a new sn");
    }
    let mut bytes = [0; 16];
    if let Err(error) = random(&mut bytes) {
        log.write(Level::Error, &format_args!("cannot get random numbers for the sn: {error}"));
    }
    let identity = record::Identity { sn: uuid(bytes), machine_id: machine };
    actions.push(Action::SaveIdentity(identity.clone()));
    identity
}

/// The definitions in `agents.d`; of a bad file, what it said when it was last good. Copies of good files that differ from
/// the ones on disk are added to `backups`.
pub(super) fn read_definitions(
    store: &Store,
    dir: &str,
    mut sources: Vec<Source>,
    backups: &mut Backups,
) -> Definitions {
    let mut definitions = Definitions { complete: true, ..Definitions::default() };
    for source in &mut sources {
        source.good = store.good(&copy_of(&source.file));
        let unreadable = matches!(source.text, Err(SourceError::Unreadable(_)));
        definitions.complete &= source.good.is_some() || !unreadable;
    }
    let agents = config::read_agents(dir, &mut sources);
    definitions.problems.extend(agents.problems.iter().map(|problem| problem.to_string().into()));
    // They are in byte order now.
    let find =
        |file: &str| sources.binary_search_by(|source| (*source.file).cmp(file)).ok().map(|index| &sources[index]);
    for copy in store.good_definitions() {
        if find(copy.strip_prefix(COPIES).unwrap_or(&copy)).is_none() {
            let _ = store.remove_good(&copy);
        }
    }
    for agent in agents.agents {
        if agent.outdated {
            let problem = format!("{dir}/{}: the last good definition stays in use", agent.file);
            definitions.problems.push(problem.into());
        } else if let Some(Source { text: Ok(text), good, .. }) = find(&agent.file) {
            if good.as_ref() != Some(text) {
                backups.push(&copy_of(&agent.file), text);
            }
        }
        definitions.good.push(Definition { origin: Origin::File, spec: agent.spec });
    }
    definitions
}

/// The name of the copy of a file in `agents.d`, below `good/`.
fn copy_of(file: &str) -> String {
    [COPIES, file].concat()
}

/// Where the definition of a package is; `dir`: the directory below `packages/NAME/` of one that came in a tar, else empty.
pub(super) fn packaged_definition(store: &Store, name: &str, dir: &str) -> PathBuf {
    match dir {
        "" => Path::new(PACKAGED_DEFINITIONS).join(format!("{name}.json")),
        _ => store.packages_dir(name).join(dir).join("bootagent.json"),
    }
}

/// Adds the definitions of one agent that a job or a package brought.
pub(super) fn own_definitions(store: &Store, record: &AgentRecord, definitions: &mut Definitions) {
    let Definitions { good, problems, .. } = definitions;
    let package = record.package.as_ref();
    let in_tar = package.is_some_and(|package| package.format.is_tar());
    let mut take = |label: &str, text: &[u8], origin| match config::read_definition(label, text, in_tar, false) {
        Ok(spec) if spec.name == record.name => good.push(Definition { origin, spec: Box::new(spec) }),
        Ok(spec) => {
            problems.push(format!("{label}: it defines \"{}\", not \"{}\"", spec.name, record.name).into());
        }
        Err(errors) => problems.extend(errors.iter().map(|problem| problem.to_string().into())),
    };
    if let Some(text) = &record.definition {
        take(&format!("the definition of \"{}\" that a job brought", record.name), text.as_bytes(), Origin::Job);
    }
    if let Some(package) = package {
        let path = packaged_definition(store, &record.name, if in_tar { &package.package } else { "" });
        match config_files::read_file(&path) {
            Ok(Some(text)) => take(&path.to_string_lossy(), &text, Origin::Package),
            Ok(None) => {}
            Err(why) => problems.push(format!("{}: {why}", path.display()).into()),
        }
    }
}
