//! What an earlier daemon, servers and people have left on the host: records, definitions, what runs.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;

use super::{fault_injection, Copies};
use crate::host::config_files;
use crate::host::disk::publish;
use crate::host::logs::Log;
use crate::host::proc;
use crate::host::spawn::user_of;
use crate::host::store::{boot_id, machine_id, uuid, Store, Stored};
use crate::host::tree::Trees;
use crate::kernel::{Level, Process, Uid};
use crate::model::event::{Action, Definition, Origin};
use crate::model::record::{self, AgentRecord, Phase};
use crate::model::schedule::parse_servers;
use crate::model::spec::{Account, Name};
use crate::model::state::Recovered;
use crate::sorted_map::SortedMap;
use crate::sys::file::read_text;
use crate::sys::{process, random};
use crate::text::{sanitize, MESSAGE_MAX};
use crate::wire::config::{self, Config, Source};
use crate::wire::proto;
use crate::work::watch;

/// Made by the first daemon of a boot.
const BOOT_FILE: &str = "boot";

/// What is on the host, as the state wants it.
pub(super) fn find(
    config: &Config,
    store: &Store,
    stored: Stored,
    unkept: &mut Copies,
    renewed: bool,
    log: &mut Log,
    out: &mut Vec<Action>,
) -> Recovered {
    let mut damage: Vec<(Name, Box<str>)> = Vec::new();
    let mut problems: Vec<Box<str>> = Vec::new();
    let mut found = Recovered { unread: store.record_owners(&stored.unread), ..Recovered::default() };
    // Another name for this host while its own cannot be read would be another host for the servers.
    if !store.is_unread_identity(&stored.unread) {
        found.identity = identity(stored.identity, log, out);
    }
    let boot = fault_injection::boot_id(boot_id());
    let dir = &config.agents_dir;
    let mut gone = true;
    let sources = match config_files::read_directory(Path::new(&**dir)) {
        Ok(Some(sources)) => sources,
        unread @ (Ok(None) | Err(_)) if !store.good_definitions().is_empty() => {
            let why = "cannot read its directory";
            let cause = unread.err().map_or_else(|| "there is no such directory".into(), |cause| cause.to_string());
            problems.push(format!("{dir}: {cause}; the last good definitions are used").into());
            let good = store.good_definitions();
            let lost = |file: String| Source {
                file: file.strip_prefix("agents.d/").unwrap_or(&file).into(),
                text: Err(why.into()),
                good: None,
            };
            good.into_iter().map(lost).collect()
        }
        Ok(None) => Vec::new(),
        Err(why) => {
            problems.push(format!("{dir}: {why}").into());
            gone = false;
            Vec::new()
        }
    };
    let (definitions, whole) = read_definitions(store, dir, sources, unkept, &mut problems);
    (found.definitions, found.unread.definitions) = (definitions, !whole || !gone);
    for record in &stored.agents {
        found.definitions.extend(own_definitions(store, record, &mut problems));
    }
    damage.extend(problems.into_iter().map(|problem| ("bootagent".into(), problem)));
    for corrupt in stored.corrupt {
        damage.push(("bootagent".into(), corrupt.message.into()));
        found.damaged_jobs.extend(corrupt.job);
    }
    found.given = parse_servers(&stored.settings.svrlist).unwrap_or_default();
    found.settings = stored.settings;
    found.agents = stored.agents;
    for record in stored.jobs {
        let over = matches!(record.phase, Phase::Done | Phase::Taken);
        let job = if over { None } else { proto::job(&record.text).ok().map(Rc::new) };
        found.jobs.push((record, job));
    }
    found.leftovers = first_of_boot(config, &boot, log);
    let stop = stored.stop.filter(|stop| stop.boot_id == boot && !boot.is_empty());
    // Without a boot id only the image before this one is sure to have lived in this boot.
    for mut run in stored.runs.into_iter().filter(|run| run.boot_id == boot && (renewed || !boot.is_empty())) {
        let alive = run.process.is_some_and(|process| proc::alive(process) || is_unreaped(process));
        if let Some(stop) = &stop {
            run.end_with(stop.at);
        }
        found.runs.push((run, alive));
    }
    found.damage = damage;
    found
}

/// Whether it is a child of ours from the time of the image before this one: dead or alive, we shall hear how it ends.
pub(super) fn is_unreaped(process: Process) -> bool {
    let same = || proc::stat(process.pid).is_some_and(|stat| stat.process == process);
    process::is_child(process.pid) && (process.ticks == 0 || same())
}

/// Why a watcher brought this binary back, if one did.
pub(super) fn undone(run_dir: &Path) -> Option<Box<str>> {
    let path = run_dir.join(watch::UNDONE);
    let text = read_text(&path).ok()?;
    let _ = fs::remove_file(&path);
    Some(sanitize(&text, MESSAGE_MAX).into())
}

/// Tells the users that agents run as: of several definitions for one of them, as everywhere, the first source counts.
pub(super) fn tell_users(definitions: &[Definition], trees: &mut Trees) {
    let mut first: SortedMap<&Name, &Definition> = SortedMap::new();
    for definition in definitions {
        let known = first.or_insert_with(&definition.spec.name, || definition);
        if definition.origin < known.origin {
            *known = definition;
        }
    }
    // Many agents may share a user, each look-up of which reads a file.
    let mut looked_up: SortedMap<&str, Option<Uid>> = SortedMap::new();
    for (name, definition) in first.iter() {
        let spec = &definition.spec;
        let user = match &spec.user {
            Some(Account::Name(account)) => *looked_up.or_insert_with(&**account, || user_of(spec)),
            _ => user_of(spec),
        };
        trees.runs_as(name, user);
    }
}

/// Whether another daemon lived in this boot before; leaves a sign that one did.
pub(super) fn first_of_boot(config: &Config, boot: &str, log: &mut Log) -> bool {
    let run_dir = Path::new(&*config.run_dir);
    let known = match read_text(&run_dir.join(BOOT_FILE)) {
        Ok(text) if text.trim() == boot => return true,
        Ok(_) => false,
        // What cannot be read just now may be from this boot.
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    if let Err(error) = publish(run_dir, BOOT_FILE, boot) {
        log.write(Level::Warn, &format_args!("{error}; make room, or remove what is in its place"));
    }
    known
}

/// The host's identity; made at the first start, and anew on a cloned disk.
fn identity(known: Option<record::Identity>, log: &mut Log, out: &mut Vec<Action>) -> record::Identity {
    let machine = machine_id();
    if let Some(known) = known {
        if known.machine_id == machine || machine.is_empty() {
            return known;
        }
        log.write(Level::Warn, &"the machine-id is another one: this is a cloned disk, and gets a new sn");
    }
    let mut bytes = [0; 16];
    if let Err(error) = random(&mut bytes) {
        log.write(Level::Error, &format_args!("no random numbers for the sn: {error}"));
    }
    let identity = record::Identity { sn: uuid(bytes), machine_id: machine };
    out.push(Action::SaveIdentity(identity.clone()));
    identity
}

/// The definitions in `agents.d`; a bad file counts as it was when it was last good. False with them: there is a file of
/// which neither can be read.
pub(super) fn read_definitions(
    store: &Store,
    dir: &str,
    mut sources: Vec<Source>,
    unkept: &mut Copies,
    problems: &mut Vec<Box<str>>,
) -> (Vec<Definition>, bool) {
    let mut whole = true;
    // In their order, as that is the order of the map below.
    config::sort(&mut sources);
    // By file: what is to be kept of it if it is good, unless it is kept already.
    let mut texts: SortedMap<String, Option<Vec<u8>>> = SortedMap::new();
    for source in &mut sources {
        let kept = format!("agents.d/{}", source.file);
        source.good = store.good(&kept);
        let unreadable = source.text.as_ref().is_err_and(|why| why.starts_with("cannot read"));
        whole &= source.good.is_some() || !unreadable;
        let fresh = source.text.as_ref().ok().filter(|text| source.good.as_ref() != Some(text));
        texts.insert(kept, fresh.cloned());
    }
    for kept in store.good_definitions() {
        if !texts.contains_key(&kept) {
            let _ = store.remove_good(&kept);
        }
    }
    let agents = config::read_agents(dir, sources);
    problems.extend(agents.problems.iter().map(|problem| problem.to_string().into()));
    let mut definitions = Vec::new();
    for agent in agents.agents {
        if agent.outdated {
            problems.push(format!("{dir}/{}: the last good definition stays in force", agent.file).into());
        } else {
            let kept = format!("agents.d/{}", agent.file);
            if let Some(text) = texts.get_mut(&kept).and_then(Option::take) {
                unkept.push(&kept, &text);
            }
        }
        definitions.push(Definition { origin: Origin::File, spec: agent.spec });
    }
    (definitions, whole)
}

/// The definitions of one agent that a job or a package gave.
pub(super) fn own_definitions(store: &Store, record: &AgentRecord, problems: &mut Vec<Box<str>>) -> Vec<Definition> {
    let package = record.package.as_ref();
    let in_tar = package.is_some_and(|package| package.format.is_tar());
    let mut definitions = Vec::new();
    let mut take = |label: &str, text: &[u8], origin| match config::read_definition(label, text, in_tar, false) {
        Ok(spec) if spec.name == record.name => definitions.push(Definition { origin, spec: Box::new(spec) }),
        Ok(spec) => problems.push(format!("{label}: it is of \"{}\", not of \"{}\"", spec.name, record.name).into()),
        Err(found) => problems.extend(found.iter().map(|problem| problem.to_string().into())),
    };
    if let Some(text) = &record.definition {
        take(&format!("job-given definition of \"{}\"", record.name), text.as_bytes(), Origin::Job);
    }
    if let Some(package) = package {
        let path = match in_tar {
            true => store.packages_dir(&record.name).join(&*package.package).join("bootagent.json"),
            false => Path::new("/usr/lib/bootagent").join(format!("{}.json", record.name)),
        };
        match config_files::read_file(&path) {
            Ok(Some(text)) => take(&path.to_string_lossy(), &text, Origin::Package),
            Ok(None) => {}
            Err(why) => problems.push(format!("{}: {why}", path.display()).into()),
        }
    }
    definitions
}
