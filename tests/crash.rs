//! Crashes in the middle of jobs: the daemon is stopped at every point of a job in turn. There it dies, the host is
//! rebooted, the disk is full, or the job's record is cut off. Afterwards the job ends as it would have or leaves the host
//! as it was, the server gets the result, one copy of the right version runs, and there are no leftovers.
//!
//! Debug builds stop at a point when they are told to (`src/daemon/fault_injection.rs`). A first run lists the points of each job,
//! so that no list is kept here. By default a crash is tried at each named point once, and each other disaster, and each
//! other kind of package, at some of them; `CRASH_ALL=1` tries them all. Beside these there are kills at moments that
//! nobody has chosen: `UPGRADE_KILLS=300` for as many, 20 by default.

mod util;
#[path = "crash/walk.rs"]
mod walk;

use std::fs;
use std::process::Command;
use std::time::Instant;

use util::*;
use walk::*;

/// Each begins and ends with 1.0 running, or with nothing installed where it begins with an install.
const INSTALLS: &[Step] = &[step("install", "1.0", 0, "1.0"), step("uninstall", "", 0, "")];
const UPGRADES: &[Step] = &[step("upgrade", "2.0", 0, "2.0"), step("upgrade", "1.0", 0, "1.0")];
const UNDOES: &[Step] = &[step("upgrade", BROKEN, 8, "1.0")];
const FIRST_UNDOES: &[Step] = &[step("install", BROKEN, 7, "")];
const ORDERS: &[Step] = &[
    step("stop", "", 0, ""),
    step("start", "", 0, "1.0"),
    step("restart", "", 0, "1.0"),
    step("config", "", 0, "1.0"),
];

/// The points at which a walk has its disaster, for each step: all of them, or each `stride`th of those that are the first
/// of their name, so that all steps have about as many.
fn picked(points: &[Vec<String>], all: bool, stride: usize) -> Vec<Vec<String>> {
    if all {
        return points.to_vec();
    }
    let mut names: Vec<&str> = Vec::new();
    let firsts = points.iter().flatten().filter_map(|point| point.strip_suffix(":1"));
    firsts.for_each(|name| {
        if !names.contains(&name) {
            names.push(name)
        }
    });
    let mut picked: Vec<Vec<String>> = vec![Vec::new(); points.len()];
    for name in names.into_iter().step_by(stride) {
        let point = format!("{name}:1");
        let has = (0..points.len()).filter(|step| points[*step].contains(&point));
        if let Some(step) = has.min_by_key(|step| picked[*step].len()) {
            picked[step].push(point);
        }
    }
    picked
}

/// Walks a host through all steps again and again, with the disaster at one point more each time; `share` of so many
/// walks side by side.
fn walk(kind: Kind, steps: &[Step], disaster: Disaster, stride: usize, (share, shares): (usize, usize)) -> usize {
    let mut walk = Walk::new(kind);
    walk.torn = disaster == Disaster::Torn;
    let mut mount = None;
    if disaster == Disaster::Full {
        let state = walk.host.path("state");
        fs::create_dir_all(&state).expect("the host's directory can be written");
        let ran = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs"]).arg(&state));
        if ran.is_none_or(|ran| ran.code != 0) {
            skipped("mount");
            return 0;
        }
        mount = Some(Mount(state));
    }
    let mut before = if steps[0].action == "install" { "" } else { "1.0" };
    if !before.is_empty() {
        walk.host.start();
        walk.does(&step("install", "1.0", 0, "1.0"));
        walk.host.kill9();
    }
    let points: Vec<Vec<String>> = steps.iter().map(|step| walk.points(step)).collect();
    let all = std::env::var_os("CRASH_ALL").is_some();
    assert!(points.iter().all(|points| points.len() > 8), "hardly any points: {points:?}");
    let points = match disaster {
        // Each phase on record in turn.
        Disaster::Downgrade | Disaster::Upgrade => {
            // Downloads have other names since 1.0.0, so that 1.0.0 looks in vain for one that is here and not placed yet.
            let fetched = if disaster == Disaster::Upgrade { "Verify" } else { "SaveJob-" };
            let counts = |point: &&String| point.starts_with("SaveJob-") || point.starts_with(fetched);
            let records = |of: &Vec<String>| of.iter().filter(counts).cloned().collect();
            points.iter().map(records).collect()
        }
        _ => picked(&points, all, stride),
    };
    let longest = points.iter().map(Vec::len).max().unwrap_or(0);
    let mut tried = 0;
    for n in (share..longest).step_by(shares) {
        for (step, points) in steps.iter().zip(&points) {
            match points.get(n) {
                Some(point) => {
                    walk.survives(step, before, point, disaster);
                    tried += 1;
                }
                None if steps.len() > 1 => {
                    walk.host.start();
                    walk.does(step);
                    walk.host.kill9();
                }
                None => {}
            }
            before = step.then;
        }
    }
    drop(mount);
    tried
}

/// Walks side by side.
fn walks(kind: Kind, steps: &'static [Step], disaster: Disaster, stride: usize, shares: usize) {
    if needs_faults() {
        return;
    }
    // They have the name of the test, under which a skip is noted.
    let named = || std::thread::Builder::new().name(std::thread::current().name().unwrap_or_default().to_string());
    let threads: Vec<_> = (0..shares)
        .map(|share| named().spawn(move || walk(kind, steps, disaster, stride, (share, shares))).expect("a thread"))
        .collect();
    let tried: usize = threads.into_iter().map(|thread| thread.join().expect("the walk goes well")).sum();
    eprintln!("{kind:?} {} {disaster:?}: {tried} points", steps[0].action);
}

/// Every disaster: the crash at each `stride`th named point, the others at fewer.
fn disasters(kind: Kind, steps: &'static [Step], stride: usize, shares: usize) {
    walks(kind, steps, Disaster::Crash, stride, shares);
    walks(kind, steps, Disaster::Reboot, stride * 6, shares.min(3));
    walks(kind, steps, Disaster::Torn, stride * 9, shares.min(2));
    if !lacks_root() {
        walks(kind, steps, Disaster::Full, stride * 7, shares.min(2));
    }
}

#[test]
fn installs_and_uninstalls_survive() {
    disasters(Kind::Tar, INSTALLS, 1, 5);
}

#[test]
fn upgrades_survive() {
    disasters(Kind::Tar, UPGRADES, 1, 5);
}

#[test]
fn undoing_survives() {
    disasters(Kind::Tar, UNDOES, 1, 5);
    walks(Kind::Tar, FIRST_UNDOES, Disaster::Crash, 3, 3);
}

#[test]
fn orders_survive() {
    disasters(Kind::Tar, ORDERS, 1, 5);
}

#[test]
fn debs_survive() {
    if lacks_root() || lacks("dpkg-deb") || lacks("dpkg") {
        return;
    }
    disasters(Kind::Deb, UPGRADES, 6, 2);
    disasters(Kind::Deb, UNDOES, 7, 2);
    disasters(Kind::Deb, INSTALLS, 9, 2);
}

#[test]
fn rpms_survive() {
    if lacks_root() || lacks("rpmbuild") || lacks("rpm") {
        return;
    }
    disasters(Kind::Rpm, UPGRADES, 6, 2);
    disasters(Kind::Rpm, UNDOES, 7, 2);
    disasters(Kind::Rpm, INSTALLS, 9, 2);
}

/// Whatever is on record: 1.0.0 goes on with it, and so does this binary with what 1.0.0 has written.
fn versions(kind: Kind, steps: &'static [Step]) {
    walks(kind, steps, Disaster::Upgrade, 1, 2);
    if old_binary().is_some() {
        walks(kind, steps, Disaster::Downgrade, 1, 2);
    }
}

#[test]
fn installs_go_on_under_another_version() {
    versions(Kind::Tar, INSTALLS);
    versions(Kind::Tar, FIRST_UNDOES);
}

#[test]
fn upgrades_and_their_undoing_go_on_under_another_version() {
    versions(Kind::Tar, UPGRADES);
    versions(Kind::Tar, UNDOES);
}

#[test]
fn orders_go_on_under_another_version() {
    versions(Kind::Tar, ORDERS);
}

#[test]
fn debs_go_on_under_another_version() {
    if !lacks_root() && !lacks("dpkg-deb") && !lacks("dpkg") {
        versions(Kind::Deb, UPGRADES);
        versions(Kind::Deb, UNDOES);
    }
}

/// Upgrades, good and bad, with the daemon killed at random moments; the seed is fixed, the moments are the machine's.
fn kills(kind: Kind) {
    if needs_faults() {
        return;
    }
    let all: usize = std::env::var("UPGRADE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut walk = Walk::new(kind);
    walk.host.start();
    walk.does(&step("install", "1.0", 0, "1.0"));
    // From its being given to its end, undisturbed; what is killed may be killed at any moment of that.
    let began = Instant::now();
    walk.does(&step("upgrade", BROKEN, 8, "1.0"));
    let whole = began.elapsed();
    let mut running = "1.0";
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for n in 0..all.div_ceil(3) {
        let step = match n % 3 {
            2 if running == "1.0" => step("upgrade", "2.0", 0, "2.0"),
            2 => step("upgrade", "1.0", 0, "1.0"),
            _ => step("upgrade", BROKEN, 8, running),
        };
        running = step.then;
        let job = walk.job(&step);
        walk.server.give(&job.text());
        let mut delays = Vec::new();
        // Some are killed twice.
        for _ in 0..=usize::from(n % 4 == 3) {
            let delay = whole.mul_f64(random.below(1000) as f64 / 1000.0);
            delays.push(delay);
            let_pass(delay);
            walk.host.kill9();
            walk.host.start();
        }
        let what = format!("{step:?} of a {kind:?}, killed after {delays:?}");
        walk.waits(&what, || walk.server.result(&job.id).is_some());
        let (code, message) = walk.host.result(&walk.server, &job.id);
        assert_eq!(code, step.code, "{what}: {message}\n{}", walk.host.logs());
        walk.is_taken(&job.id);
        // A result that was being sent at that moment is sent once more, and is the same.
        let codes = walk.server.codes(&job.id);
        assert!(codes.len() <= 2 && codes.iter().all(|other| *other == code), "{what}: {codes:?}");
        walk.check(step.then, &what);
    }
    eprintln!("{kind:?}: {} kills in jobs of {whole:?}", all.div_ceil(3));
}

#[test]
fn tars_survive_kills_at_any_moment() {
    kills(Kind::Tar);
}

#[test]
fn debs_survive_kills_at_any_moment() {
    if !lacks_root() && !lacks("dpkg-deb") && !lacks("dpkg") {
        kills(Kind::Deb);
    }
}

#[test]
fn rpms_survive_kills_at_any_moment() {
    if !lacks_root() && !lacks("rpmbuild") && !lacks("rpm") {
        kills(Kind::Rpm);
    }
}
