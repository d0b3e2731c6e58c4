use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::kernel::Time;
use crate::model::job::{Code, JobId, Outcome};
use crate::model::record::{Phase, Wanted};
use crate::model::spec::Fingerprints;

/// A directory for one test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bootagent-store-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Place(path)
    }

    fn open(&self) -> Store {
        Store::open(&self.0.join("deep/state"), &self.0.join("run")).expect("a store")
    }

    fn state(&self, file: &str) -> PathBuf {
        self.0.join("deep/state").join(file)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn agent(name: &str) -> AgentRecord {
    AgentRecord { name: name.into(), wanted: Some(Wanted::Up), ..AgentRecord::default() }
}

fn job(id: &str, seq: u64) -> JobRecord {
    JobRecord {
        id: id.into(),
        action: "stop".into(),
        name: "a".into(),
        text: "{}".into(),
        phase: Phase::Done,
        outcome: Some(Outcome::new(Code::Success, "success")),
        ..JobRecord::new(seq, "b".into(), Time(1))
    }
}

fn run(name: &str) -> RunRecord {
    RunRecord {
        name: name.into(),
        boot_id: "b".into(),
        forking: false,
        stopping: false,
        process: None,
        started: Time(0),
        started_with: Some(Fingerprints { whole: u64::MAX, process: Some(1) }),
        failures: 3,
        restart_at: None,
        finished: false,
        fatal: true,
        killed: false,
        spares: None,
        unready: false,
        said: "".into(),
        detail: "".into(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn reading_jobs_sets_nothing_aside() {
    let place = Place::new();
    let store = place.open();
    store.write_job(&job("b", 1)).unwrap();
    store.write_job(&job("a", 2)).unwrap();
    let torn = store.state_dir.join("jobs/torn.json");
    fs::write(&torn, "{").unwrap();
    assert_eq!(store.jobs(), [job("b", 1), job("a", 2)]);
    assert_eq!((store.job("a"), store.job("torn"), store.job("none")), (Some(job("a", 2)), None, None));
    assert!(torn.exists(), "the next start reports it");
}

#[test]
fn everything_written_is_read_by_the_next_store() {
    let place = Place::new();
    let store = place.open();
    let identity = Identity { sn: "0".into(), machine_id: "1".into() };
    let settings = Settings { svrlist: "a:1".into(), ..Settings::default() };
    store.write_identity(&identity).unwrap();
    store.write_settings(&settings).unwrap();
    for name in ["b", "a"] {
        store.write_agent(&agent(name), &[]).unwrap();
        store.write_run(&run(name)).unwrap();
    }
    for (id, seq) in [("a.json", 2), ("z", 1)] {
        store.write_job(&job(id, seq)).unwrap();
    }
    let stop = StopRecord { boot_id: "boot".into(), at: Time(7) };
    store.write_stop(&stop).unwrap();
    store.write_agent(&AgentRecord { wanted: Some(Wanted::Down), ..agent("a") }, &[]).unwrap();

    let stored = place.open().read_all();
    assert_eq!(stored.identity, Some(identity));
    assert_eq!(stored.settings, settings);
    assert_eq!(
        stored.agents.iter().map(|a| (&*a.name, a.wanted)).collect::<Vec<_>>(),
        [("a", Some(Wanted::Down)), ("b", Some(Wanted::Up))]
    );
    assert_eq!(stored.jobs, [job("z", 1), job("a.json", 2)]);
    assert_eq!(stored.runs, [run("a"), run("b")]);
    assert_eq!(stored.stop, Some(stop));
    assert_eq!(stored.corrupt, []);

    store.remove_agent("a").unwrap();
    store.remove_agent("a").unwrap();
    store.remove_run("b").unwrap();
    store.remove_job("z").unwrap();
    let stored = store.read_all();
    assert_eq!((stored.agents.len(), stored.runs.len(), stored.jobs.len()), (1, 1, 1));
}

#[test]
fn modes_are_exact() {
    let place = Place::new();
    let store = place.open();
    store.write_job(&job("j", 1)).unwrap();
    store.keep_good("bootagent.json", b"{}").unwrap();
    for (file, want) in [
        ("", 0o755),
        ("agents", 0o755),
        ("jobs", 0o755),
        ("packages", 0o755),
        ("downloads", 0o700),
        ("jobs/j.json", 0o600),
        ("good/bootagent.json", 0o600),
    ] {
        assert_eq!(mode(&place.state(file)), want, "{file}");
    }
    fs::set_permissions(place.state("packages"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(place.state("downloads"), Permissions::from_mode(0o755)).unwrap();
    place.open();
    assert_eq!(mode(&place.state("downloads")), 0o700);
    assert_eq!(mode(&place.state("packages")), 0o755);
}

#[test]
fn a_record_that_cannot_be_read_is_set_aside_and_its_job_stays_known() {
    let place = Place::new();
    let store = place.open();
    for name in ["good", "other"] {
        store.write_agent(&agent(name), &[]).unwrap();
    }
    fs::write(place.state("agents/other.json"), record::write_agent(&agent("good"))).unwrap();
    fs::write(place.state("agents/not utf8.json"), b"\xff").unwrap();
    fs::write(place.state("identity.json"), b"").unwrap();
    fs::write(place.state("settings.json"), vec![0; 300]).unwrap();
    fs::write(place.state("jobs/zeros.json"), [0; 10]).unwrap();
    fs::create_dir(place.state("jobs/dir.json")).unwrap();
    symlink("/etc/passwd", place.state("jobs/link.json")).unwrap();
    fs::write(place.state("jobs/not an id.json"), b"{").unwrap();

    let stored = store.read_all();
    assert_eq!(stored.agents, [agent("good")]);
    assert_eq!((stored.identity, stored.settings), (None, Settings::default()));
    assert_eq!(stored.corrupt.len(), 8, "{:?}", stored.corrupt);
    for id in ["zeros", "dir", "link"] {
        let reported = stored.corrupt.iter().find(|corrupt| corrupt.job.as_deref() == Some(id)).expect("it is named");
        assert!(reported.message.contains("set aside as") && reported.message.contains(id), "{}", reported.message);
        assert!(fs::symlink_metadata(place.state(&format!("jobs/{id}.json.corrupt"))).is_ok());
    }
    assert!(fs::read("/etc/passwd").is_ok());

    // The daemon dies here, before it has answered for any of them.
    let mut ids: Vec<_> = place.open().read_all().corrupt.into_iter().filter_map(|corrupt| corrupt.job).collect();
    ids.sort();
    assert_eq!(ids, ["dir".into(), "link".into(), "zeros".into()] as [JobId; 3]);
    store.write_job(&job("zeros", 9)).unwrap();
    assert_eq!(store.read_all().corrupt.len(), 2);
    store.remove_job("zeros").unwrap();
    store.remove_job("link").unwrap();
    assert_eq!(store.read_all().corrupt.len(), 1);
}

/// The names of the directories do not matter.
#[test]
fn a_corrupt_record_that_is_no_jobs_names_no_job() {
    let place = Place::new();
    let (state_dir, run_dir) = (place.0.join("jobs"), place.0.join("run/jobs"));
    let store = Store::open(&state_dir, &run_dir).expect("a store");
    for record in ["identity.json", "settings.json", "agents/a.json"] {
        fs::write(state_dir.join(record), b"").unwrap();
    }
    fs::write(run_dir.join("agents/b.json"), b"").unwrap();
    let corrupt = store.read_all().corrupt;
    assert!(corrupt.len() == 4 && corrupt.iter().all(|corrupt| corrupt.job.is_none()), "{corrupt:?}");
}

#[test]
fn leftovers_of_a_crash_are_removed_or_overwritten() {
    let place = Place::new();
    let store = place.open();
    let leftover = place.state("agents/a.json.tmp");
    fs::write(&leftover, b"half").unwrap();
    store.write_agent(&agent("a"), &[]).unwrap();
    assert!(!leftover.exists());
    fs::write(&leftover, b"half").unwrap();
    let stored = place.open().read_all();
    assert!(!leftover.exists());
    assert_eq!((stored.agents, stored.corrupt), (vec![agent("a")], vec![]));
}

#[test]
fn a_state_dir_that_was_removed_is_made_again() {
    let place = Place::new();
    let store = place.open();
    fs::remove_dir_all(place.0.join("deep")).unwrap();
    fs::remove_dir_all(place.0.join("run")).unwrap();
    assert!(store.read_all().agents.is_empty());
    store.write_agent(&agent("a"), &[]).unwrap();
    store.write_run(&run("a")).unwrap();
    store.write_settings(&Settings::default()).unwrap();
    assert_eq!(store.read_all().agents, [agent("a")]);
    assert_eq!(mode(&place.0.join("deep")), 0o755);
}

#[test]
fn a_write_that_fails_says_why_and_leaves_nothing() {
    let place = Place::new();
    let store = place.open();
    fs::create_dir(place.state("agents/a.json")).unwrap();
    let error = store.write_agent(&agent("a"), &[]).unwrap_err();
    let want = format!("cannot write \"{}\": Is a directory", place.state("agents/a.json").display());
    assert_eq!(error.to_string(), want);
    assert_eq!(error.cause.raw_os_error(), Some(libc::EISDIR));
    assert!(!place.state("agents/a.json.tmp").exists());

    // A device that is always full takes the place of a full disk.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = (&full).write_all(b"x").unwrap_err();
    assert_eq!(
        with_context::<()>(Err(error), "write", Path::new("/x")).unwrap_err().to_string(),
        "cannot write \"/x\": No space left on device"
    );

    fs::write(place.0.join("file"), b"").unwrap();
    let error = Store::open(&place.0.join("file/state"), &place.0.join("run")).unwrap_err();
    assert_eq!(error.cause.raw_os_error(), Some(libc::ENOTDIR), "{error}");
    fs::remove_dir(place.state("packages")).unwrap();
    symlink("/tmp", place.state("packages")).unwrap();
    let error = Store::open(&place.state(""), &place.0.join("run")).unwrap_err();
    assert!(error.to_string().contains("packages"), "{error}");
}

#[test]
fn good_copies_are_rewritten_only_when_they_differ() {
    let place = Place::new();
    let store = place.open();
    let web = "agents.d/bootagent.json";
    assert_eq!(store.good(web), None);
    store.keep_good(web, b"one").unwrap();
    let first = fs::metadata(place.state("good/agents.d/bootagent.json")).unwrap().ino();
    store.keep_good(web, b"one").unwrap();
    assert_eq!(fs::metadata(place.state("good/agents.d/bootagent.json")).unwrap().ino(), first);
    store.keep_good(web, b"two").unwrap();
    store.keep_good("bootagent.json", b"").unwrap();
    store.keep_good("agents.d/a.json", b"").unwrap();
    assert_eq!(store.good(web), Some(b"two".to_vec()));
    assert_eq!(store.good_definitions(), ["agents.d/a.json", web]);
    store.remove_good(web).unwrap();
    assert_eq!((store.good(web), store.good("bootagent.json")), (None, Some(Vec::new())));
    fs::remove_dir_all(place.state("good")).unwrap();
    store.keep_good(web, b"three").unwrap();
    assert_eq!(store.good(web), Some(b"three".to_vec()));
}

#[test]
fn what_is_no_directory_is_moved_and_what_a_link_leads_to_is_left_alone() {
    for dir in ["agents", "jobs", "good", "good/agents.d", "packages", "downloads"] {
        let place = Place::new();
        place.open();
        let path = place.state(dir);
        fs::remove_dir_all(&path).expect("the test's own directory");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().is_ok_and(|made| made.success()));
        let store = place.open();
        assert!(path.is_dir() && place.state(&format!("{dir}.corrupt")).exists(), "{dir}");
        let told = store.read_all().corrupt;
        assert!(told.len() == 1 && told[0].message.contains("was no directory; set aside"), "{dir}: {told:?}");
    }
    let place = Place::new();
    let store = place.open();
    let elsewhere = place.state("elsewhere");
    fs::create_dir(&elsewhere).expect("the test's own directory");
    fs::write(elsewhere.join("theirs"), "").expect("the test's own file");
    fs::remove_dir(place.state("downloads")).expect("the test's own directory");
    std::os::unix::fs::symlink(&elsewhere, place.state("downloads")).expect("the test's own link");
    assert_eq!(store.downloads(), Vec::<String>::new());
}

#[test]
fn a_socket_in_place_of_a_record_is_set_aside() {
    let place = Place::new();
    let store = place.open();
    let _socket = std::os::unix::net::UnixListener::bind(place.state("agents/a.json")).expect("a socket");
    let stored = store.read_all();
    assert_eq!((stored.corrupt.len(), stored.unread.len()), (1, 0), "{stored:?}");
}

#[test]
fn a_counter_of_nonces_that_no_host_comes_to_is_none() {
    let place = Place::new();
    let store = place.open();
    for (text, want) in [
        ("7\n", Some(7)),
        ("4611686018427387904", Some(1 << 62)),
        ("18446744073709551615\n", None),
        ("18446744073709551616", None),
        ("-1", None),
        ("", None),
    ] {
        fs::write(place.state("nonces"), text).expect("the test's own file");
        assert_eq!(store.nonces(), want, "{text}");
    }
}

#[test]
fn downloads_are_known_by_their_name() {
    let place = Place::new();
    let store = place.open();
    fs::write(store.download("j1"), b"part").unwrap();
    assert_eq!(store.downloads(), ["j1"]);
    store.remove_download("j1").unwrap();
    store.remove_download("j1").unwrap();
    assert!(store.downloads().is_empty());
    assert_eq!(store.packages_dir("a"), place.state("packages/a"));
}
